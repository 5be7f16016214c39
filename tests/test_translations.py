"""The Chinese pages: every string has its translation, the compiled file says the same, and no page shows English."""

from __future__ import annotations

import ast
import gettext
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import django.contrib.admin
import django.contrib.auth
import pytest
import unfold
from django.contrib import admin
from django.core.exceptions import SuspiciousOperation
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation.template import templatize

from accounts.models import Invitation, LimitPreset, User
from proxy_site import translations
from relay.models import PoeCharge, PoolEvent
from tests import cast as people
from tests.cast import Cast

ROOT = Path(__file__).parent.parent
MESSAGES = ROOT / "locale" / "zh_Hans" / "LC_MESSAGES"
CHINESE = re.compile("[\u4e00-\u9fff]")


# The source of the translations, without gettext's tools: a fresh machine has none.


@dataclass(slots=True)
class Entry:
    """One string of django.po. A context is joined to it as gettext does."""

    parts: dict[str, str] = field(default_factory=dict)
    flags: str = ""

    @property
    def key(self) -> str:
        context = self.parts.get("msgctxt")
        return self.parts["msgid"] if context is None else f"{context}\x04{self.parts['msgid']}"

    @property
    def originals(self) -> list[str]:
        return [self.parts[name] for name in ("msgid", "msgid_plural") if name in self.parts]

    @property
    def translated(self) -> str:
        return self.parts.get("msgstr") or self.parts.get("msgstr[0]", "")


@cache
def entries() -> list[Entry]:
    """All but the header."""
    found = []
    for block in (MESSAGES / "django.po").read_text().split("\n\n"):
        entry, name = Entry(), ""
        for line in block.splitlines():
            if line.startswith("#,"):
                entry.flags += line
            elif said := re.fullmatch(r'(?:(msg\S+) )?(".*")', line):
                name = said[1] or name
                entry.parts[name] = entry.parts.get(name, "") + ast.literal_eval(said[2])
        if entry.parts.get("msgid"):
            found.append(entry)
    return found


def test_every_string_is_translated() -> None:
    unfinished = [entry.key for entry in entries() if not entry.translated or "fuzzy" in entry.flags]

    assert unfinished == []


def test_a_translation_keeps_placeholders_and_tags() -> None:
    kept = re.compile(r"%\(\w+\)[a-z]|%[a-z%]|\{\w*\}|<[^>]+>")

    odd = [
        entry.key
        for entry in entries()
        if Counter(kept.findall(entry.originals[-1])) != Counter(kept.findall(entry.translated))
    ]

    assert odd == []


def test_the_compiled_file_is_current() -> None:
    source = {entry.key: entry for entry in entries()}
    raw = (MESSAGES / "django.mo").read_bytes()
    with (MESSAGES / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)

    def said(entry: Entry) -> str:
        if "msgid_plural" in entry.parts:
            return compiled.ngettext(entry.key, entry.parts["msgid_plural"], 2)
        return compiled.gettext(entry.key)

    assert [key for key, entry in source.items() if said(entry) != entry.translated] == []
    assert struct.unpack("<I", raw[8:12])[0] == len(source) + 1, "strings that django.po has no longer"


# What the sources mark, found as makemessages finds it.

PLAIN = {"_", "gettext", "gettext_lazy", "gettext_noop"}
PLURAL = {"ngettext", "ngettext_lazy"}
IN_CONTEXT = {"pgettext", "pgettext_lazy", "npgettext", "npgettext_lazy"}
LITERAL = r"""u?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
CALL = re.compile(rf"\b(_|n?p?gettext)\(\s*({LITERAL}(?:\s*,\s*{LITERAL})*)")


def marked_in_python(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        texts = [
            arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        ]
        if texts and name in PLAIN | PLURAL:
            yield texts[0]
        elif texts and name in IN_CONTEXT:
            yield f"{texts[0]}\x04{texts[1]}"


def marked_in_template(source: str) -> Iterator[str]:
    for name, arguments in CALL.findall(templatize(source)):
        texts = [ast.literal_eval(literal) for literal in re.findall(LITERAL, arguments)]
        yield f"{texts[0]}\x04{texts[1]}" if name in IN_CONTEXT else texts[0]


def marked(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        found.update(marked_in_python(path.read_text()))
    for path in folder.rglob("*.html"):
        found.update(marked_in_template(path.read_text()))
    return found


def test_every_marked_string_is_in_the_file_and_no_other() -> None:
    ours = set().union(*(marked(ROOT / name) for name in ("accounts", "relay", "proxy_site", "templates")))

    listed = {entry.key for entry in entries()}

    assert sorted(ours - listed) == [], "run makemessages, translate, compile"
    assert sorted(listed - ours) == [], "run makemessages --no-obsolete"


def test_what_is_said_for_others_is_still_said_there() -> None:
    """Else an upgrade of unfold or Django has reworded a string, and its new words show in English."""
    listed = ast.parse(Path(translations.__file__).read_text()).body
    of = {
        node.targets[0].id: set(marked_in_python(ast.unparse(node)))
        for node in listed
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }

    assert sorted(of["UNFOLD"] - marked(Path(unfold.__path__[0]))) == []
    assert (
        sorted(of["DJANGO"] - marked(_folder(django.contrib.admin)) - marked(_folder(django.contrib.auth)))
        == []
    )


def _folder(package: Any) -> Path:
    return Path(package.__path__[0])


def test_the_history_of_an_object_names_its_fields_in_chinese(cast: Cast) -> None:
    """It stores the labels of the English form and looks each up when it is shown."""
    request = RequestFactory().get("/")
    request.user = cast.root.user

    labels: set[str] = set()
    with translation.override(None):
        for page in admin.site._registry.values():
            if page.has_change_permission(request):
                fields = page.get_form(request, change=True).base_fields
                labels.update(str(one.label or name) for name, one in fields.items())

    with translation.override("zh-hans"):
        assert sorted(label for label in labels if not CHINESE.search(translation.gettext(label))) == []


def test_templates_have_no_words_that_are_not_marked() -> None:
    hidden = re.compile(
        r"{%\s*blocktrans.*?{%\s*endblocktrans\w*\s*%}|{%.*?%}|{{.*?}}|{#.*?#}|<!--.*?-->"
        r"|<(script|style)\b.*?</\1>|<[^>]*>",
        re.DOTALL,
    )
    names = {"API", "poe-relay", "sk-poe-"}

    bare = {
        (str(path.relative_to(ROOT)), word)
        for path in (ROOT / "templates").rglob("*.html")
        for word in re.findall(r"[A-Za-z][A-Za-z-]+", hidden.sub(" ", path.read_text()))
    }

    assert sorted((path, word) for path, word in bare if word not in names) == []


# The pages themselves.


class Seen(HTMLParser):
    """What a person reads on a page: its text, and the texts that appear on hovering or in empty fields."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: set[str] = set()
        self._skipped = ""  # the element whose text nobody reads: a script, or an icon's name
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style") or "material-symbols" in (dict(attrs).get("class") or ""):
            self._skipped = tag
        named = ("placeholder", "title", "aria-label", "alt", "data-label")
        self.texts.update(" ".join(value.split()) for name, value in attrs if value and name in named)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._skipped:
            self._skipped = ""

    def handle_data(self, data: str) -> None:
        if not self._skipped and data.strip():
            self.texts.add(" ".join(data.split()))


# What is the same in every language: names of products and of what the tests made up, and what one types as it is.
NAMES = frozenset(
    re.findall(
        r"\w+",
        "poe relay english utc api url http https json openai anthropic gpt demo sk esc zh hans null csv "
        "alice bob charlie root phone physics chemistry newcomer own first try out students localhost",
    )
)


def is_foreign(text: str) -> bool:
    """Words in Latin letters alone, some of which are no name."""
    words = {word.casefold() for word in re.findall("[A-Za-z]{3,}", text)}
    return bool(words - NAMES) and not CHINESE.search(text)


def foreign(response: Any) -> list[str]:
    """Whatever the page says in Latin letters, whether or not somebody marked it."""
    no_words = r"<(option|code|pre)\b.*?</\1>|sk-poe-\w+|\w+\*{4,}"
    page = re.sub(no_words, "", response.content.decode(), flags=re.DOTALL)
    return sorted(text for text in Seen(page).texts if is_foreign(text))


def english(response: Any) -> list[str]:
    """The strings of ours that the page shows as they are in English."""
    assert response.status_code == 200
    ours = {text.casefold() for entry in entries() for text in entry.originals if not CHINESE.search(text)}
    texts = Seen(response.content.decode()).texts
    assert any(CHINESE.search(text) for text in texts)
    return sorted(text for text in texts if text.casefold() in ours)


@pytest.fixture
def chinese() -> Client:
    return Client(SERVER_NAME="127.0.0.1", headers={"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"})


@pytest.mark.parametrize("page", ["/", "/admin/login/"])
def test_whoever_prefers_chinese_signs_in_in_chinese(db: None, chinese: Client, page: str) -> None:
    response = chinese.get(page)

    assert english(response) == []
    assert "登录" in response.content.decode() and 'lang="zh-hans"' in response.content.decode()


def test_a_refused_sign_in_is_told_in_chinese(db: None, chinese: Client) -> None:
    response = chinese.post("/", {"username": "nobody", "password": "wrong"})

    assert english(response) == []
    assert "请输入一个正确的" in response.content.decode()


def test_english_stays_english_until_somebody_chooses_chinese(db: None, client: Client) -> None:
    assert "Sign in" in english(client.get("/"))

    client.post(reverse("set_language"), {"language": "zh-hans"})

    assert english(client.get("/")) == []


def test_a_member_reads_chinese(cast: Cast, chinese: Client) -> None:
    chinese.force_login(cast.bob.user)
    User.objects.create_user("newcomer", team=cast.physics)

    assert english(chinese.get("/")) == []

    chinese.force_login(User.objects.get(username="newcomer"))

    assert english(chinese.get("/")) == []


@pytest.fixture
def root(cast: Cast, chinese: Client) -> Client:
    chinese.force_login(cast.root.user)
    return chinese


def _pages(cast: Cast) -> list[str]:
    key = people.poe_key(name="first")
    demo = people.poe_key(name="try-out", is_demo=True).account
    mapping = people.mapping("gpt-4o", "GPT-4o")
    preset = LimitPreset.objects.create(name="students", points_per_day=5)
    models = {
        "accounts_team": cast.physics.pk,
        "accounts_user": cast.bob.user.pk,
        "accounts_accesstoken": cast.bob.token.pk,
        "accounts_limitpreset": preset.pk,
        "accounts_invitation": Invitation.objects.make(cast.alice.user, cast.physics, note="students")[0].pk,
        "relay_poeaccount": demo.pk,
        "relay_poekey": key.pk,
        "relay_botmapping": mapping.pk,
    }
    lists = [
        f"{reverse(f'admin:{name}_changelist')}{query}" for name in models for query in ("", "?q=nothing")
    ]
    event = PoolEvent.objects.create(
        at=timezone.now(), account=demo, became="cooling", reason="tested: cannot reach Poe"
    )
    charge = PoeCharge.objects.create(
        query_id="1", account=demo, at=timezone.now(), bot="GPT-4o", points=1, read_at=timezone.now()
    )
    looked_at = {"relay_poolevent": event.pk, "relay_poecharge": charge.pk}
    return [
        reverse("admin:index"),
        *lists,
        *(reverse(f"admin:{name}_add") for name in models),
        *(reverse(f"admin:{name}_change", args=[pk]) for name, pk in models.items()),
        *(reverse(f"admin:{name}_delete", args=[pk]) for name, pk in models.items()),
        reverse("admin:relay_usagerecord_changelist"),
        *(reverse(f"admin:{name}_changelist") for name in looked_at),
        *(reverse(f"admin:{name}_change", args=[pk]) for name, pk in looked_at.items()),
        "/admin/relay/live/",
        reverse("admin:accounts_user_issue", args=[cast.bob.user.pk]),
        reverse("admin:accounts_invitation_take_back_one", args=[models["accounts_invitation"]]),
        *(
            reverse(f"admin:accounts_accesstoken_{act}", args=[cast.bob.token.pk])
            for act in ("rotate", "clone", "extend_one", "limit_one", "disable_one")
        ),
        reverse("admin:relay_poeaccount_remove_demo"),
        reverse("admin:password_change"),
        reverse("admin:auth_user_password_change", args=[cast.bob.user.pk]),
    ]


def test_the_panel_is_in_chinese(cast: Cast, root: Client) -> None:
    answers = {page: root.get(page) for page in _pages(cast)}

    found = {page: english(answer) + foreign(answer) for page, answer in answers.items()}
    assert {page: texts for page, texts in found.items() if texts} == {}


@pytest.mark.parametrize(
    ("method", "page", "status"),
    [
        ("get", "/nothing/", 404),
        ("get", "/admin/autocomplete/", 403),
        ("post", "/sign-out/", 403),
        ("get", "/me/usage/", 500),
        ("get", "/me/models/", 400),
    ],
)
def test_a_page_of_an_error_is_in_chinese_too(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, method: str, page: str, status: int
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise SuspiciousOperation if status == 400 else ZeroDivisionError

    monkeypatch.setattr("relay.portal.usage.reports.by_day", fail)
    # Nothing that another module takes from there: one that is loaded only now would keep it.
    monkeypatch.setattr("relay.portal.models.render", fail)
    browser = Client(SERVER_NAME="127.0.0.1", headers={"accept-language": "zh-CN"}, enforce_csrf_checks=True)
    browser.raise_request_exception = False
    browser.force_login(cast.root.user)

    answer = getattr(browser, method)(page)

    assert answer.status_code == status and "返回首页" in answer.content.decode()
    assert foreign(answer) == []
    assert status != 500 or "<form" not in answer.content.decode()


def test_a_refused_form_says_why_in_chinese(root: Client) -> None:
    pages = {
        reverse("admin:relay_poekey_add"): {"name": "x", "proxy": "nonsense", "new_secret": "two words"},
        reverse("admin:accounts_team_add"): {"name": "x", "time_zone": "Mars", "points_per_day": "0"},
        reverse("admin:accounts_user_add"): {"username": "x", "password1": "abc", "password2": "abc"},
    }

    assert {page: english(root.post(page, form)) for page, form in pages.items()} == dict.fromkeys(pages, [])


def test_a_new_token_and_the_history_of_a_changed_one_are_in_chinese(cast: Cast, root: Client) -> None:
    form = {"name": "x", "owner": cast.bob.user.pk, "allowed_models": "[]", "allowed_networks": "[]"}
    change = reverse("admin:accounts_accesstoken_change", args=[cast.bob.token.pk])

    issued = root.post(reverse("admin:accounts_accesstoken_add"), form)
    root.post(change, form | {"enabled": "on", "requests_per_minute": "5"})
    history = root.get(reverse("admin:accounts_accesstoken_history", args=[cast.bob.token.pk]))

    assert english(issued) == [] and english(history) == []
    assert "每分钟请求数" in history.content.decode()
