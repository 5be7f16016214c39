"""Many people at once: a list that was pasted or uploaded becomes teams, users and tokens, all of them or none.

A list is a name on each line, or a table with a line of column names, as a spreadsheet saves one.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.functions import Lower
from django.utils.translation import gettext as _

from accounts import tokens
from accounts.models import AccessToken, Team, User, token_digest
from accounts.presets import Conditions, LimitPreset

NUMBERS = (*Conditions.names(), "days")
COLUMNS = ("user", "name", "team", "email", *NUMBERS, "models")
# As people in China head them.
ALSO_CALLED = {
    "用户名": "user",
    "用户": "user",
    "账号": "user",
    "姓名": "name",
    "名字": "name",
    "名称": "name",
    "团队": "team",
    "邮箱": "email",
    "电子邮件": "email",
    "模型": "models",
    "天数": "days",
}
# Names of two letters are drawn out to the width of three with the wide one; spreadsheets have the other.
WIDE_SPACES = re.compile("[ \u00a0\u3000]+")
DELIMITERS = "\t;,"
# One transaction makes them, and the ledger waits for it.
MOST_PEOPLE = 200
LINE = "line"


class Unreadable(Exception):
    """The list as a whole; says why."""


@dataclass(slots=True)
class Row:
    """What one line asks for, and what is wrong with it."""

    line: int
    user: User
    team: str
    conditions: Conditions
    problems: list[str] = field(default_factory=list)

    @property
    def is_new(self) -> bool:
        return self.user.pk is None


@dataclass(frozen=True, slots=True)
class Plan:
    rows: list[Row]
    token_name: str

    @property
    def problems(self) -> int:
        return sum(bool(row.problems) for row in self.rows)

    @property
    def new_people(self) -> int:
        return sum(row.is_new for row in self.rows)


@dataclass(frozen=True, slots=True)
class Issued:
    token: AccessToken
    plain: str


def decoded(content: bytes) -> str:
    """Spreadsheets save UTF-8, some with a mark in front, UTF-16, or what Chinese Windows has always used."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("gb18030", "replace")


def plan(text: str, *, team: Team, token_name: str, defaults: Conditions) -> Plan:
    """What would be made; nothing is, yet. What a line leaves empty is as in `defaults`."""
    cells = list(_cells(text))
    if not cells:
        raise Unreadable(_("The list is empty."))
    if len(cells) > MOST_PEOPLE:
        raise Unreadable(_("At most %(most)d people at once.") % {"most": MOST_PEOPLE})
    rows = [_row(each, defaults) for each in cells]
    _mark_doubles(rows)
    _find_people(rows, token_name)
    for row in rows:
        row.team = row.team or team.name
    _check_teams(rows)
    return Plan(rows, token_name)


def _cells(text: str) -> Iterator[dict[str, str]]:
    """Of each line that says something, by column; and its number."""
    lines = text.lstrip("\ufeff").splitlines()
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    columns, delimiter = _columns(lines[first]) if lines else ([], "")
    if not columns:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield {LINE: str(number), "name": _narrow(line)}
        return
    if unknown := [each for each in columns if each not in COLUMNS]:
        raise Unreadable(_("There is no column “%(name)s”.") % {"name": unknown[0][:50]})
    table = csv.reader(io.StringIO("\n".join(lines[first + 1 :])), delimiter=delimiter)
    try:
        for values in table:
            if any(value.strip() for value in values):
                named = zip(columns, map(_narrow, values), strict=False)
                yield {**dict(named), LINE: str(first + 1 + table.line_num)}
    except csv.Error:
        raise Unreadable(_("A quotation mark in the table is never closed, or a cell is too long.")) from None


def _narrow(cell: str) -> str:
    return WIDE_SPACES.sub(" ", cell).strip()


def _columns(line: str) -> tuple[list[str], str]:
    """Those that this line names; none: it is a person's name."""
    delimiter = next((each for each in DELIMITERS if each in line), ",")
    said = [each.strip().strip('"').strip().lower() for each in line.split(delimiter)]
    columns = [ALSO_CALLED.get(each, each) for each in said]
    return (columns, delimiter) if {"user", "name"} & set(columns) else ([], "")


def _row(cells: dict[str, str], defaults: Conditions) -> Row:
    name = cells.get("name", "")
    username = cells.get("user") or re.sub(r"\s+", ".", name).lower()
    user = User(username=User.normalize_username(username), first_name=name, email=cells.get("email", ""))
    row = Row(int(cells[LINE]), user, cells.get("team", ""), LimitPreset())
    # PostgreSQL keeps no NUL, and nobody wants the others on a sheet.
    if not all(cell.isprintable() for cell in cells.values()):
        row.problems.append(_("A name holds a control character."))
    for column in NUMBERS:
        _read_number(row, column, cells.get(column, ""))
    models = re.split("[;，,]", cells.get("models", ""))
    row.conditions.allowed_models = [each.strip() for each in models if each.strip()]
    for thing, left_out in ((user, ["password", "team"]), (row.conditions, ["name"])):
        _check(row, thing, left_out)
    row.conditions.fill_from(defaults)
    return row


def _read_number(row: Row, column: str, cell: str) -> None:
    if not cell:
        return
    if cell.isascii() and cell.isdigit() and len(cell) < 19:
        setattr(row.conditions, column, int(cell))
    else:
        row.problems.append(_("%(column)s: not a number") % {"column": column})


def _check(row: Row, thing: Any, left_out: list[str]) -> None:
    try:
        thing.clean_fields(exclude=left_out)
    except ValidationError as exc:
        row.problems += [f"{name}: {' '.join(said)}" for name, said in exc.message_dict.items()]


def _mark_doubles(rows: Iterable[Row]) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        before = seen.setdefault(row.user.username.lower(), row.line)
        if before != row.line:
            row.problems.append(_("The same user as in line %(line)d.") % {"line": before})


def _find_people(rows: Iterable[Row], token_name: str) -> None:
    """Who is there already gets another token, in the team where they are."""
    names = [row.user.username.lower() for row in rows]
    found = User.objects.annotate(lower=Lower("username")).filter(lower__in=names).select_related("team")
    there = {user.lower: user for user in found}
    taken = _holders(there.values(), token_name)
    for row in rows:
        user = there.get(row.user.username.lower())
        if user is None:
            continue
        if row.team not in ("", user.team.name):
            row.problems.append(_("This user is in the team %(team)s already.") % {"team": user.team})
        if not user.is_active:
            row.problems.append(_("This person may not sign in, and tokens are refused."))
        if user.pk in taken:
            row.problems.append(
                _("This person has a working token named “%(name)s” already.") % {"name": token_name}
            )
        row.user, row.team = user, user.team.name


def _holders(users: Iterable[User], token_name: str) -> set[int]:
    """Those who have a working token of this name."""
    found = AccessToken.objects.filter(owner__in=users, name=token_name)
    return {token.owner_id for token in found if token.is_usable}


def _check_teams(rows: list[Row]) -> None:
    problems: dict[str, list[str]] = {}
    for name in {row.team for row in rows}:
        try:
            # The time zone is the default one, and looking it up takes longer than all the rest.
            Team(name=name).clean_fields(exclude=["time_zone"])
        except ValidationError as exc:
            problems[name] = [_("team: %(why)s") % {"why": " ".join(exc.messages)}]
    for row in rows:
        row.problems += problems.get(row.team, [])


def make(planned: Plan) -> list[Issued]:
    """All of it or nothing: IntegrityError if somebody has made one of them meanwhile, ValidationError if a token."""
    assert not planned.problems
    # Whatever takes long comes first: nobody else can write meanwhile.
    issued = []
    for row in planned.rows:
        plain = tokens.make()
        token = AccessToken(
            name=planned.token_name,
            digest=token_digest(plain),
            prefix=tokens.shown_prefix(plain),
            **row.conditions.for_a_token(),
        )
        issued.append(Issued(token, plain))
        if row.is_new:
            row.user.set_unusable_password()
    with transaction.atomic():
        _make_people(planned)
        for row, each in zip(planned.rows, issued, strict=True):
            each.token.owner = row.user
        AccessToken.objects.bulk_create([each.token for each in issued])
    return issued


def _make_people(planned: Plan) -> None:
    there = [row.user for row in planned.rows if not row.is_new]
    list(
        User.objects.select_for_update(of=("self",)).filter(pk__in=[user.pk for user in there]).order_by("pk")
    )
    if _holders(there, planned.token_name):
        raise ValidationError(_("Somebody has made one of these at this moment. Look at the list again."))
    new = [row for row in planned.rows if row.is_new]
    wanted = {row.team for row in new}
    teams = {team.name: team for team in Team.objects.filter(name__in=wanted)}
    missing = Team.objects.bulk_create([Team(name=name) for name in sorted(wanted - set(teams))])
    teams |= {team.name: team for team in missing}
    for row in new:
        row.user.team = teams[row.team]
    User.objects.bulk_create([row.user for row in new])
