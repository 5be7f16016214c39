"""The panel's pages for Poe's list of bots, and what mappings show of it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from relay import catalogue
from relay.models import Bot, BotMapping
from tests import cast as people
from tests.cast import Cast
from tests.listing import Listing, point_to, serve

MAPPINGS = reverse("admin:relay_botmapping_changelist")
BOTS = reverse("admin:relay_bot_changelist")
SYNCS = [reverse("admin:relay_botmapping_sync_from_poe"), reverse("admin:relay_bot_sync_from_poe")]
PARAMETERS: list[dict[str, Any]] = [
    {"name": "effort", "schema": {"type": "string", "enum": ["low", "high"]}, "description": "How hard it thinks."},
    {"name": "web_search", "schema": {"type": "boolean"}, "default_value": True},
    {"name": "thinking_budget", "schema": {"type": "integer", "minimum": 0, "maximum": 30768}, "default_value": 0},
    {"name": "scale", "schema": {"type": "number", "minimum": 0.5, "exclusiveMaximum": 2}},
    {"name": "style", "schema": {"type": "string", "maxLength": 5}},
    {"name": "tags", "schema": {"type": "array"}},
]  # fmt: skip


@pytest.fixture
def root(cast: Cast, client: Client) -> Client:
    client.force_login(cast.root.user)
    return client


@pytest.fixture
def poe(settings: Any) -> Iterator[Listing]:
    with serve() as listing:
        point_to(settings, listing)
        yield listing


def sync(*entries: dict[str, Any]) -> None:
    catalogue.store(catalogue.read(entries, 33_333), catalogue.default_source())


@pytest.mark.parametrize("page", [MAPPINGS, BOTS, *SYNCS])
@pytest.mark.parametrize("who", ["nobody", "alice", "bob"])
def test_only_an_administrator_may(cast: Cast, client: Client, who: str, page: str) -> None:
    if who != "nobody":
        client.force_login(getattr(cast, who).user)

    for response in (client.get(page), client.post(page)):
        assert response.status_code == 302 and response["Location"].startswith("/admin/login/")
    assert not Bot.objects.exists()


@pytest.mark.parametrize("page", SYNCS)
def test_the_button_asks_and_then_syncs(root: Client, poe: Listing, page: str) -> None:
    people.mapping("o3", "O3")

    asked = root.get(page)
    assert poe.url in asked.content.decode() and not Bot.objects.exists()
    told = root.post(page, follow=True).content.decode()

    assert f"{poe.url}: 492 bots, 492 new, 0 gone. Mappings brought up to date: 1." in told
    assert BotMapping.objects.get().points_per_1000_input_tokens is not None


def test_a_list_that_cannot_be_read_is_told_and_changes_nothing(root: Client, poe: Listing) -> None:
    poe.answer = (500, b"")

    told = root.post(SYNCS[0], follow=True).content.decode()

    assert "Nothing was changed." in told and not Bot.objects.exists()


def test_bots_are_searched_filtered_and_added(root: Client, poe: Listing) -> None:
    people.mapping("my-own-name", "GPT-4o")
    root.post(SYNCS[1])

    everything = root.get(BOTS, {"q": "gpt-4o"})
    images = root.get(BOTS, {"gives": "image", "mapped": "no"}).context["cl"].queryset
    assert everything.status_code == 200 and "my-own-name" in everything.content.decode()
    assert images.filter(handle="gpt-image-2").exists() and not images.filter(handle="gpt-4o").exists()
    assert images.count() == 48
    assert root.get(BOTS, {"mapped": "yes"}).context["cl"].queryset.get().handle == "gpt-4o"
    assert root.get(BOTS, {"takes": "nothing"}).status_code == 200
    found = root.get(BOTS, {"q": "opus-4.8", "mapped": "no"}).context["cl"].queryset
    form = {"action": "add_mappings", "_selected_action": [bot.pk for bot in found]}

    told = root.post(BOTS, form, follow=True).content.decode()

    assert "1 mapping made." in told
    made = BotMapping.objects.get(model="claude-opus-4.8")
    assert made.found == "listed" and made.points_per_1000_output_tokens is not None
    assert root.get(reverse("admin:relay_bot_change", args=[found[0].pk])).status_code == 200
    assert root.get(reverse("admin:relay_botmapping_add_from_list"))["Location"].startswith(BOTS)


def test_a_bot_in_the_list_is_nobodys_to_edit(root: Client) -> None:
    sync({"id": "gpt-4o"})
    bot = Bot.objects.get()

    assert root.post(reverse("admin:relay_bot_change", args=[bot.pk]), {"handle": "x"}).status_code == 403
    assert root.get(reverse("admin:relay_bot_add")).status_code == 403
    assert root.post(reverse("admin:relay_bot_delete", args=[bot.pk]), {"post": "yes"}).status_code == 403


def test_mappings_whose_bot_is_gone_are_marked_and_take_the_suggested_one(root: Client) -> None:
    gone = people.mapping("sonnet", "Claude-3.5-Sonnet")
    private = people.mapping("mine", "My-Private-Bot")
    sync({"id": "claude-sonnet-4.5", "pricing": {"request": "1"}})

    page = root.get(MAPPINGS).content.decode()
    assert "nearest: claude-sonnet-4.5" in page and "not listed" in page
    assert root.get(MAPPINGS, {"found__exact": "unlisted"}).context["cl"].queryset.count() == 2
    form = {"action": "use_suggested_bot", "_selected_action": [gone.pk, private.pk]}
    told = root.post(MAPPINGS, form, follow=True).content.decode()

    assert "1 row changed." in told
    gone.refresh_from_db()
    private.refresh_from_db()
    assert (gone.bot, gone.found, gone.suggested_bot) == ("claude-sonnet-4.5", "listed", "")
    assert gone.points_per_request == Decimal(33_333)
    assert private.bot == "My-Private-Bot"
    told = root.post(MAPPINGS, {**form, "_selected_action": [private.pk]}, follow=True).content.decode()
    assert "None of these has a suggested bot." in told


# The form.


def edited(root: Client, mapping: BotMapping, **fields: Any) -> Any:
    """Post the change page's own form with these fields changed; None: unchecked."""
    page = reverse("admin:relay_botmapping_change", args=[mapping.pk])
    form = root.get(page).context["adminform"].form
    filled = {name: form[name].value() for name in form.fields}
    filled = {name: value for name, value in {**filled, **fields}.items() if value not in (None, False)}
    return root.post(page, filled)


@pytest.fixture
def mapping(cast: Cast) -> BotMapping:
    made = people.mapping("gpt-4o", "GPT-4o", parameters={"effort": "low", "style": "noir"})
    sync({"id": "gpt-4o", "parameters": PARAMETERS}, {"id": "o3", "pricing": {"request": "1"}})
    made.refresh_from_db()
    return made


def test_declared_parameters_are_a_form(root: Client, mapping: BotMapping) -> None:
    page = root.get(reverse("admin:relay_botmapping_change", args=[mapping.pk]))

    form = page.context["adminform"].form
    kinds = {name: type(field).__name__ for name, field in form.fields.items() if "parameter" in name}
    assert kinds == {
        "parameter__effort": "ChoiceField",
        "parameter__web_search": "BooleanField",
        "parameter__thinking_budget": "IntegerField",
        "parameter__scale": "FloatField",
        "parameter__style": "CharField",
        "parameter__tags": "OptionalJSONField",
    }
    html = page.content.decode()
    assert "How hard it thinks." in html and 'max="30768"' in html
    assert form["parameter__effort"].value() == '"low"' and form["parameter__web_search"].value() is True


def test_the_form_stores_what_differs_from_poe(root: Client, mapping: BotMapping) -> None:
    response = edited(
        root,
        mapping,
        parameter__effort='"high"',
        parameter__web_search=None,
        parameter__thinking_budget="5",
        parameter__scale="1.5",
        parameter__style="",
        parameter__tags='["a"]',
    )

    assert response.status_code == 302
    mapping.refresh_from_db()
    assert mapping.parameters == {
        "effort": "high",
        "web_search": False,
        "thinking_budget": 5,
        "scale": 1.5,
        "tags": ["a"],
    }
    edited(root, mapping, parameter__effort="", parameter__web_search="on", parameter__tags="",
           parameter__scale="", parameter__thinking_budget="")  # fmt: skip
    mapping.refresh_from_db()
    assert mapping.parameters == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"parameter__effort": '"extreme"'},
        {"parameter__effort": "low"},
        {"parameter__thinking_budget": "40000"},
        {"parameter__thinking_budget": "x"},
        {"parameter__scale": "2"},
        {"parameter__style": "longer"},
        {"parameter__tags": '"a"'},
        {"parameter__tags": "{"},
    ],
)
def test_the_form_refuses_what_the_bot_does_not_take(
    root: Client, mapping: BotMapping, fields: dict[str, str]
) -> None:
    response = edited(root, mapping, **fields)

    assert response.status_code == 200
    assert list(response.context["adminform"].form.errors) == list(fields)
    mapping.refresh_from_db()
    assert mapping.parameters == {"effort": "low", "style": "noir"}


def test_parameters_that_nobody_declared_are_kept_beside_the_form(root: Client, mapping: BotMapping) -> None:
    mapping.parameters = {"hidden_switch": 1, "effort": "low"}
    mapping.save()

    assert edited(root, mapping, parameter__effort="").status_code == 302
    mapping.refresh_from_db()
    assert mapping.parameters == {"hidden_switch": 1}
    edited(root, mapping, other_parameters="{}")
    mapping.refresh_from_db()
    assert mapping.parameters == {}


def test_a_bot_without_a_known_schema_has_raw_json(root: Client, cast: Cast) -> None:
    mapping = people.mapping("mine", "Private")

    assert edited(root, mapping, parameters='{"a": 1}').status_code == 302

    mapping.refresh_from_db()
    assert mapping.parameters == {"a": 1}


def test_another_bot_brings_its_own_prices_and_parameters(root: Client, mapping: BotMapping) -> None:
    assert edited(root, mapping, bot="O3").status_code == 302

    mapping.refresh_from_db()
    assert (mapping.points_per_request, mapping.parameters_of_bot) == (Decimal(33_333), [])
    assert mapping.parameters == {"effort": "low", "style": "noir"}
    assert edited(root, mapping, points_per_request="7").status_code == 302
    mapping.refresh_from_db()
    assert mapping.points_per_request == 7


def test_a_new_mapping_has_prices_at_once(root: Client, mapping: BotMapping) -> None:
    form = {
        "model": "fast",
        "bot": "o3",
        "enabled": "on",
        "parameters": "{}",
        "fallback_models": "[]",
        "replace_policy": "reasoning",
        "simulate_roles": "off",
    }

    assert root.post(reverse("admin:relay_botmapping_add"), form).status_code == 302

    made = BotMapping.objects.get(model="fast")
    assert (made.points_per_request, made.found) == (Decimal(33_333), "listed")
