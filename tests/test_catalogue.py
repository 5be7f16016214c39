"""Poe's list of bots: read, kept, and filled into mappings without overwriting anybody."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from relay import catalogue, turn
from relay.catalogue import Reading, Synced, syncing
from relay.models import Bot, BotMapping, PoeAccount
from tests import cast as people
from tests.listing import REAL

POE = catalogue.Source("", "https://api.poe.com")
EFFORT = {"name": "effort", "schema": {"enum": ["low", "high"]}, "default_value": None, "description": ""}


def entry(id_: str = "gpt-4o", **fields: Any) -> dict[str, Any]:
    return {"id": id_, "object": "model", **fields}


def priced(id_: str = "gpt-4o", **pricing: Any) -> dict[str, Any]:
    return entry(id_, pricing=pricing)


def sync(*entries: Any, is_dry: bool = False, source: catalogue.Source = POE) -> Synced:
    return catalogue.store(catalogue.read(entries, 33_333), source, is_dry=is_dry)


# Reading.


@pytest.mark.parametrize(
    ("said", "points"),
    [
        ("0.0061", "203.3313"),
        ("1.364E-7", "0.0046"),
        ("1E-10", "0.0001"),
        (0.0061, "203.3313"),
        ("0", "0.0000"),
        ("0.00", "0.0000"),
        (" 1 ", "33333.0000"),
        (None, None),
        ("", None),
        ("free", None),
        ("-1", None),
        ("NaN", None),
        ("Infinity", None),
        ("1e400", None),
        ("1e999999999999", None),
        ("1000000", None),
        (True, None),
        (["0.1"], None),
    ],
)
def test_a_price_in_dollars_becomes_points_rounded_up(said: Any, points: str | None) -> None:
    [bot] = catalogue.read([priced(request=said)], 33_333).bots

    assert bot.points_per_request == (None if points is None else Decimal(points))


def test_each_price_goes_to_its_rate() -> None:
    said = {"prompt": "0.0000025", "completion": "1E-5", "image": "0.04", "request": None}

    [bot] = catalogue.read([entry(pricing=said)], 40_000).bots

    assert bot.points_per_1000_input_tokens == Decimal(100)
    assert bot.points_per_1000_output_tokens == Decimal(400)
    assert bot.points_per_image == Decimal(1600)
    assert bot.points_per_request is None


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "gpt-4o",
        {},
        {"id": None},
        {"id": 5},
        {"id": ""},
        {"id": " "},
        {"id": "a\0b"},
        {"id": "a\nb"},
        {"id": "\ud800"},
        {"id": "gpt-*"},
        {"id": "x" * 201},
    ],
)
def test_an_entry_that_nobody_can_read_is_skipped_and_counted(said: Any) -> None:
    assert catalogue.read([said, entry()], 33_333) == Reading(
        catalogue.read([entry()], 33_333).bots, skipped=1
    )


def test_odd_fields_of_an_entry_are_left_out() -> None:
    odd = entry(
        pricing="0.1",
        architecture=[],
        metadata=5,
        context_window={"context_length": -1, "max_output_tokens": True},
        context_length="128000",
        supported_features=["tools", 5, "tools", "x\0y"],
        parameters=[5, {"name": "deep", "schema": {"enum": ["\0"]}}, EFFORT, {"name": "n" * 201}],
        description="a\0b" + "x" * 9000,
        owned_by=None,
    )

    [bot] = catalogue.read([odd], 33_333).bots

    assert bot.context_length == 128_000 and bot.max_output_tokens is None
    assert bot.features == ["tools", "xy"] and bot.parameters == [EFFORT]
    assert bot.description.startswith("abx") and len(bot.description) == 4000 and bot.owner == ""


@pytest.mark.parametrize(
    ("metadata", "handle"),
    [
        (None, "gpt-4o"),
        ({"url": "https://poe.com/GPT-4o"}, "GPT-4o"),
        ({"url": "https://poe.com/GPT-4o/", "display_name": "x"}, "GPT-4o"),
        ({"display_name": "GPT-4o"}, "GPT-4o"),
        ({"display_name": "OpenAI's own", "url": 5}, "gpt-4o"),
    ],
)
def test_a_handle_is_written_as_poe_writes_it(metadata: Any, handle: str) -> None:
    [bot] = catalogue.read([entry(metadata=metadata)], 33_333).bots

    assert bot.handle == handle


def test_the_real_list_is_read_whole() -> None:
    reading = catalogue.read(REAL, 33_333)

    assert (len(reading.bots), reading.skipped) == (492, 0)
    by_key = {bot.key: bot for bot in reading.bots}
    assert by_key["ds-v4.1-flash-1017"].points_per_1000_input_tokens == Decimal("10.0999")
    assert sum(bot.points_per_1000_input_tokens is not None for bot in reading.bots) == 137


# The nearest bot.


@pytest.mark.parametrize(
    ("gone", "nearest"),
    [
        ("GPT-4", "gpt-4.1"),
        ("GPT-4-Turbo", "gpt-4.1"),
        ("GPT-3.5-Turbo", "gpt-5.4-mini"),
        ("ChatGPT-16k", "gpt-5.4-mini"),
        ("ChatGPT-4o-Latest", "gpt-4o"),
        ("gpt-5-codex", "gpt-5.3-codex"),
        ("Claude-3-Opus", "Claude-Opus-5.5"),
        ("Claude-3.5-Sonnet", "claude-sonnet-5.5"),
        ("claude-3-5-sonnet-20241022", "claude-sonnet-5.5"),
        ("Claude-3.7-Sonnet", "claude-sonnet-5.5"),
        ("Claude-Sonnet-4", "claude-sonnet-4.6"),
        ("Claude-3-Haiku", "claude-haiku-5.5"),
        ("Claude-Instant", "claude-haiku-5.5"),
        ("Llama-3.1-405B", "llama-3.3-70b"),
        ("Llama-3.1-405B-T", "llama-3.3-70b-t"),
        ("Gemini-1.5-Pro-Search", "gemini-3.1-pro"),
        ("Gemini-2.0-Flash", "gemini-3.8-flash"),
        ("DeepSeek-R1", "deepseek-r1-di"),
        ("DeepSeek-V3", "deepseek-v3.2"),
        ("o1-mini", "o3"),
        ("Mistral-Large", "mistral-large-4"),
        ("FLUX-pro-1.1", "flux-pro-1.1-t"),
        ("DALL-E-3", "gpt-image-2"),
        ("Kimi-K2", "kimi-k2.6"),
        ("Veo-2", "veo-3.1"),
        ("My-Private-Bot", ""),
        ("Playground-v3", ""),
        ("123", ""),
        ("", ""),
    ],
)
def test_the_nearest_bot_is_of_the_same_kind_and_the_newest(gone: str, nearest: str) -> None:
    living = [each["id"] for each in REAL]

    assert catalogue.nearest(gone, living) == nearest
    assert catalogue.nearest(gone, reversed(living)) == nearest


def test_a_bot_is_not_its_own_successor() -> None:
    assert catalogue.nearest("GPT-4o", ["gpt-4o", "gpt-4o-mini"]) == "gpt-4o-mini"


# Keeping it.


@pytest.mark.django_db
def test_the_real_list_is_kept_in_short_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    original = turn.transaction_in_turn

    class Timed:
        def __enter__(self) -> None:
            self.began, self.inner = time.perf_counter(), original()
            self.inner.__enter__()

        def __exit__(self, *about: Any) -> None:
            self.inner.__exit__(*about)
            taken.append(time.perf_counter() - self.began)

    monkeypatch.setattr(syncing, "transaction_in_turn", Timed)
    for model in range(100):
        people.mapping(f"m{model}", REAL[model * 4]["id"])

    synced = sync(*REAL)
    again = sync(*REAL)

    assert (synced.listed, len(synced.new), len(synced.gone), len(synced.mappings)) == (492, 492, 0, 100)
    assert (again.listed, again.new, again.gone, again.mappings) == (492, (), (), ())
    # 50 ms on a quiet machine; the tests' is shared.
    assert sorted(taken)[len(taken) // 2] < 0.05, sorted(taken)[-5:]


@pytest.mark.django_db
def test_a_bot_that_is_not_listed_any_more_is_gone_and_may_come_back() -> None:
    sync(entry("a"), entry("b"))

    gone = sync(entry("A", metadata={"display_name": "A"}))
    assert (gone.new, gone.gone) == ((), ("b",))
    assert Bot.objects.get(handle_key="b").gone_at is not None
    first = Bot.objects.get(handle_key="a")
    assert (first.handle, first.gone_at) == ("A", None) and first.last_seen_at > first.first_seen_at

    assert sync(entry("a")).gone == ()
    back = sync(entry("a"), entry("b"))
    assert (back.new, back.gone) == ((), ()) and Bot.objects.get(handle_key="b").gone_at is None


@pytest.mark.django_db
def test_a_dry_run_writes_nothing() -> None:
    people.mapping("gpt-4o", "GPT-4o")
    people.mapping("old", "GPT-4")
    sync(entry("b"))
    before = list(BotMapping.objects.values()), list(Bot.objects.values())

    synced = sync(priced("gpt-4o", request="1"), is_dry=True)

    assert (synced.new, synced.gone, synced.mappings) == (("gpt-4o",), ("b",), ("gpt-4o", "old"))
    assert synced.lost == (("old", "GPT-4", "gpt-4o"),)
    assert (list(BotMapping.objects.values()), list(Bot.objects.values())) == before


@pytest.mark.django_db
def test_the_list_of_another_server_says_nothing_about_poes() -> None:
    demo = PoeAccount.objects.create(name="demo", api_url="http://127.0.0.1:19/", is_demo=True)
    people.mapping("echo", "Demo-Echo", account=demo)
    people.mapping("gpt-4o", "GPT-4o")
    source = catalogue.source_of(demo)

    sync(priced("gpt-4o", request="1"))
    synced = sync(priced("demo-echo", request="1"), source=source)

    assert (synced.new, synced.gone, synced.mappings) == (("demo-echo",), (), ("echo",))
    assert Bot.objects.get(handle_key="gpt-4o").gone_at is None
    assert set(BotMapping.objects.values_list("found", flat=True)) == {"listed"}
    [made] = catalogue.add(Bot.objects.filter(handle_key="demo-echo"))
    assert made.account == demo
    assert [each.api_url for each in catalogue.sources()] == ["", "http://127.0.0.1:19"]


# What mappings take over.


def filled(**fields: Any) -> BotMapping:
    people.mapping("gpt-4o", "GPT-4o", **fields)
    sync(
        entry(
            pricing={"prompt": "0.000003", "completion": "0.00001", "image": None},
            parameters=[EFFORT],
            context_window={"max_output_tokens": 1000},
        )
    )
    return BotMapping.objects.get()


@pytest.mark.django_db
def test_an_empty_mapping_is_filled() -> None:
    mapping = filled()

    assert mapping.points_per_1000_input_tokens == Decimal("99.999")
    assert mapping.points_per_1000_output_tokens == Decimal("333.33")
    assert mapping.points_per_request is None and mapping.points_per_image is None
    assert mapping.default_output_tokens == 1000
    assert mapping.declared_parameters == mapping.parameters_of_bot == [EFFORT]
    assert (mapping.found, mapping.suggested_bot) == ("listed", "")


@pytest.mark.django_db
def test_a_longer_answer_than_the_default_leaves_the_default() -> None:
    people.mapping("gpt-4o", "GPT-4o")

    sync(entry(context_window={"max_output_tokens": 100_000}))

    assert BotMapping.objects.get().default_output_tokens is None


@pytest.mark.django_db
def test_what_a_sync_wrote_follows_the_list() -> None:
    filled()

    sync(priced(prompt="0.000006", request="0.01"))

    mapping = BotMapping.objects.get()
    assert mapping.points_per_1000_input_tokens == Decimal("199.998")
    assert mapping.points_per_1000_output_tokens is None
    assert mapping.points_per_request == Decimal("333.33")
    assert (mapping.default_output_tokens, mapping.declared_parameters) == (None, [])


@pytest.mark.parametrize("edited", [Decimal(5), None], ids=["changed", "cleared"])
@pytest.mark.parametrize("name", ["points_per_1000_input_tokens", "default_output_tokens"])
@pytest.mark.django_db
def test_what_an_administrator_edited_after_a_sync_stays(name: str, edited: Decimal | None) -> None:
    mapping = filled()
    setattr(mapping, name, edited)
    mapping.save()

    for _ in range(2):
        sync(
            entry(
                pricing={"prompt": "0.000006", "completion": "0.00002"},
                context_window={"max_output_tokens": 500},
            )
        )

    mapping = BotMapping.objects.get()
    assert getattr(mapping, name) == edited
    # What nobody edited goes on following the list.
    assert mapping.points_per_1000_output_tokens == Decimal("666.66")


@pytest.mark.django_db
def test_prices_that_an_administrator_entered_before_are_a_whole() -> None:
    mapping = filled(points_per_request=Decimal(50))

    assert mapping.points_per_request == 50
    assert mapping.points_per_1000_input_tokens is None
    assert mapping.default_output_tokens == 1000


@pytest.mark.django_db
def test_default_parameters_are_never_touched() -> None:
    assert filled(parameters={"effort": "max"}).parameters == {"effort": "max"}


@pytest.mark.django_db
def test_a_wildcard_for_any_bot_gets_nothing() -> None:
    people.mapping("*", "*")

    synced = sync(priced("*", request="1"), priced("gpt-4o", request="1"))

    mapping = BotMapping.objects.get()
    assert (synced.mappings, synced.skipped) == ((), 1)
    assert (mapping.points_per_request, mapping.found, mapping.declared_parameters) == (None, "", [])


@pytest.mark.django_db
def test_a_mapping_whose_bot_is_gone_is_marked_and_keeps_its_prices() -> None:
    filled()

    synced = sync(entry("gpt-4o-mini"))

    mapping = BotMapping.objects.get()
    assert (mapping.found, mapping.suggested_bot) == ("gone", "gpt-4o-mini")
    assert mapping.points_per_1000_input_tokens == Decimal("99.999")
    assert synced.lost == (("gpt-4o", "GPT-4o", "gpt-4o-mini"),)

    sync(priced("gpt-4o", prompt="0.000003", completion="0.00001"))
    assert BotMapping.objects.values_list("found", "suggested_bot").get() == ("listed", "")


@pytest.mark.django_db
def test_a_bot_that_was_never_listed_may_be_private() -> None:
    people.mapping("mine", "My-Private-Bot")

    sync(entry())

    assert BotMapping.objects.values_list("found", "suggested_bot").get() == ("unlisted", "")


@pytest.mark.django_db
def test_nothing_is_said_of_a_mapping_before_a_list_was_read() -> None:
    mapping = people.mapping("gpt-4o", "GPT-4o")

    assert catalogue.fill(mapping) == [] and mapping.found == ""


@pytest.mark.django_db
def test_a_mapping_that_is_given_another_bot_takes_over_that_ones() -> None:
    mapping = filled()
    sync(priced("gpt-4o-mini", request="0.01"), priced("gpt-4o", prompt="0.000003"))

    mapping = BotMapping.objects.get()
    mapping.bot = "gpt-4o-mini"
    catalogue.fill(mapping)
    assert (mapping.points_per_request, mapping.points_per_1000_input_tokens) == (Decimal("333.33"), None)
    mapping.bot = "Private"
    catalogue.fill(mapping)
    assert (mapping.points_per_request, mapping.declared_parameters) == (None, [])
    assert mapping.found == "unlisted"


@pytest.mark.django_db
def test_a_sync_that_changes_nothing_wakes_no_directory() -> None:
    filled()
    sync(entry(pricing={"prompt": "0.000003"}))
    version = "SELECT n FROM relay_directoryversion"
    with connection.cursor() as cursor:
        cursor.execute(version)
        before = cursor.fetchone()
        sync(entry(pricing={"prompt": "0.000003"}))
        cursor.execute(version)

        assert cursor.fetchone() == before


# New mappings.


@pytest.mark.django_db
def test_bots_without_a_mapping_are_proposed_and_added_with_their_prices() -> None:
    people.mapping("fast", "GPT-4O-Mini")
    people.mapping("O3", "something-else")
    sync(priced("gpt-4o", request="1"), entry("gpt-4o-mini"), entry("o3"), entry("gone_1"))
    sync(priced("gpt-4o", request="1"), entry("gpt-4o-mini"), entry("o3"))

    assert [bot.handle for bot in catalogue.unmapped()] == ["gpt-4o"]
    [made] = catalogue.add(Bot.objects.filter(handle_key__in=["gpt-4o", "o3"]))

    assert (made.model, made.bot, made.found, made.account) == ("gpt-4o", "gpt-4o", "listed", None)
    assert BotMapping.objects.get(model="gpt-4o").points_per_request == Decimal(33_333)
    assert not catalogue.unmapped().exists()
