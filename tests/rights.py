"""Who gets what from every route of the site. tests/test_every_url.py asks them all, and fails on one that is not here.

A new page is a line in PAGES; a model in the panel one in PANEL; a route of the API one in API. A line names a rule, and
with `.of` the thing that its address is about. Things belong to the physicists: Alice manages them, Bob is one, and what
is somebody's own is Bob's. Charlie and Dora, who manages the chemists, must see nothing of it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from django.utils import timezone

from accounts.models import Invitation, LimitPreset, User
from relay.models import Bot, PoeAccount, PoeCharge, PoolEvent, UsageHour, UsageRecord
from relay.portal import own_keys
from tests import cast as people
from tests.cast import Cast, Person


class Asker(StrEnum):
    NOBODY = "nobody"
    DISABLED = "a disabled user"
    STRANGER = "a member of another team"
    RIVAL = "the manager of another team"
    MEMBER = "a member"
    MANAGER = "the manager"
    ADMINISTRATOR = "an administrator"


class Outcome(StrEnum):
    ANSWERED = "is answered"  # also with a form that is refused, or a way on
    READ_ONLY = "is shown it and may not change it"
    SIGN_IN = "is sent to sign in"
    PANEL_SIGN_IN = "is sent to the panel's sign-in"
    UNKNOWN = "is not known"
    FORBIDDEN = "is refused"
    MISSING = "finds nothing"
    NO_ROUTE = "finds no such route"


@dataclass(frozen=True, slots=True)
class Line:
    outcomes: dict[Asker, Outcome]
    thing: str = ""

    def of(self, thing: str) -> Line:
        """The address is about this one of `things`."""
        return replace(self, thing=thing)

    def but(self, *askers: Asker, outcome: Outcome) -> Line:
        return replace(self, outcomes=self.outcomes | dict.fromkeys(askers, outcome))


def _rule(others: Outcome, *may: Asker, to_nobody: Outcome) -> Line:
    """`others`: what those are told who are signed in and may not."""
    outcomes = dict.fromkeys(Asker, others) | dict.fromkeys((Asker.NOBODY, Asker.DISABLED), to_nobody)
    return Line(outcomes | dict.fromkeys(may, Outcome.ANSWERED))


OWN_TEAM = (Asker.MEMBER, Asker.MANAGER, Asker.ADMINISTRATOR)

# Pages.
EVERYBODY = _rule(Outcome.ANSWERED, *Asker, to_nobody=Outcome.ANSWERED)
SIGNED_IN = _rule(Outcome.ANSWERED, to_nobody=Outcome.SIGN_IN)
OWN_ONLY = _rule(Outcome.MISSING, Asker.MEMBER, to_nobody=Outcome.SIGN_IN)
MANAGERS = _rule(Outcome.MISSING, Asker.RIVAL, Asker.MANAGER, Asker.ADMINISTRATOR, to_nobody=Outcome.SIGN_IN)
ITS_MANAGERS = _rule(Outcome.MISSING, Asker.MANAGER, Asker.ADMINISTRATOR, to_nobody=Outcome.SIGN_IN)
ADMINISTRATORS = _rule(Outcome.PANEL_SIGN_IN, Asker.ADMINISTRATOR, to_nobody=Outcome.PANEL_SIGN_IN)
NOBODY_CHANGES = ADMINISTRATORS.but(Asker.ADMINISTRATOR, outcome=Outcome.FORBIDDEN)
READ_ONLY = ADMINISTRATORS.but(Asker.ADMINISTRATOR, outcome=Outcome.READ_ONLY)

PAGES: dict[str, Line] = {
    "": EVERYBODY,
    "sign-in/code/": EVERYBODY,
    "sign-out/": EVERYBODY,
    "favicon.ico": EVERYBODY,
    "i18n/setlang/": EVERYBODY,
    "me/tokens/": SIGNED_IN,
    "me/tokens/<int:pk>/rotate/": OWN_ONLY.of("token"),
    "me/tokens/<int:pk>/revoke/": OWN_ONLY.of("token"),
    "me/connect/": SIGNED_IN,
    "me/usage/": SIGNED_IN,
    "me/requests/": SIGNED_IN,
    "me/models/": SIGNED_IN,
    "me/playground/": SIGNED_IN,
    "me/playground/token/": SIGNED_IN,
    "me/playground/answers/<str:request_id>/": OWN_ONLY.of("request"),
    "me/settings/": SIGNED_IN,
    "me/settings/password/": SIGNED_IN,
    "me/settings/second-factor/": SIGNED_IN,
    "me/settings/second-factor/codes/": SIGNED_IN,
    "me/settings/second-factor/remove/": SIGNED_IN,
    "me/poe-key/": SIGNED_IN,
    # Of those who ask, only Bob and the physicists have stored a key.
    "me/poe-key/test/": OWN_ONLY,
    "me/poe-key/remove/": OWN_ONLY,
    "team/poe-key/": SIGNED_IN.but(Asker.MEMBER, Asker.STRANGER, outcome=Outcome.READ_ONLY),
    "team/poe-key/test/": ITS_MANAGERS,
    "team/poe-key/remove/": ITS_MANAGERS,
    "team/": MANAGERS,
    "team/usage/": MANAGERS,
    "team/requests/": MANAGERS,
    "team/invitations/": MANAGERS,
    "team/invitations/<int:pk>/take-back/": ITS_MANAGERS.of("accounts.invitation"),
    "team/members/add/": MANAGERS,
    "team/members/<int:pk>/": ITS_MANAGERS.of("accounts.user"),
    "team/members/<int:pk>/limits/": ITS_MANAGERS.of("accounts.user"),
    "team/members/<int:pk>/disable/": ITS_MANAGERS.of("accounts.user"),
    "team/members/<int:pk>/enable/": ITS_MANAGERS.of("accounts.user"),
    "team/members/<int:pk>/manager/": ITS_MANAGERS.of("accounts.user"),
    "team/members/<int:pk>/member/": ITS_MANAGERS.of("accounts.user"),
    "team/members/<int:pk>/tokens/": ITS_MANAGERS.of("accounts.user"),
    "team/tokens/<int:pk>/": ITS_MANAGERS.of("token"),
    "team/tokens/<int:pk>/rotate/": ITS_MANAGERS.of("token"),
    "team/tokens/<int:pk>/revoke/": ITS_MANAGERS.of("token"),
    "join/": EVERYBODY.but(*Asker, outcome=Outcome.MISSING),  # without an invitation
    "join/password/": EVERYBODY.but(*Asker, outcome=Outcome.MISSING),  # without a link
    "join/<int:pk>.<str:proof>/": EVERYBODY.of("a first password"),
    "join/<str:secret>/": EVERYBODY.of("a link"),
    "admin/": ADMINISTRATORS,
    "admin/search/": ADMINISTRATORS,
    "admin/login/": EVERYBODY,
    "admin/logout/": EVERYBODY,
    "admin/password_change/": SIGNED_IN,
    "admin/password_change/done/": ADMINISTRATORS,
    "admin/autocomplete/": NOBODY_CHANGES,  # without saying of what
    "admin/jsi18n/": ADMINISTRATORS,
    "admin/r/<path:content_type_id>/<path:object_id>/": ADMINISTRATORS.but(
        Asker.ADMINISTRATOR, outcome=Outcome.MISSING
    ).of("nothing twice"),
    "admin/^(?P<app_label>accounts|relay)/$": ADMINISTRATORS.of("app"),
    "admin/(?P<url>.*)$": ADMINISTRATORS.but(Asker.ADMINISTRATOR, outcome=Outcome.MISSING).of("nothing"),
    "admin/accounts/user/<id>/password/": ADMINISTRATORS.of("accounts.user"),
    "admin/accounts/user/<path:object_id>/issue/": ADMINISTRATORS.of("accounts.user"),
    "admin/accounts/accesstoken/<path:object_id>/rotate/": ADMINISTRATORS.of("token"),
    "admin/accounts/accesstoken/<path:object_id>/extend/": ADMINISTRATORS.of("token"),
    "admin/accounts/accesstoken/<path:object_id>/limit/": ADMINISTRATORS.of("token"),
    "admin/accounts/accesstoken/<path:object_id>/clone/": ADMINISTRATORS.of("token"),
    "admin/accounts/accesstoken/<path:object_id>/disable/": ADMINISTRATORS.of("token"),
    "admin/accounts/team/<path:object_id>/usage/": ADMINISTRATORS.of("accounts.team"),
    "admin/accounts/user/<path:object_id>/usage/": ADMINISTRATORS.of("accounts.user"),
    "admin/accounts/accesstoken/<path:object_id>/usage/": ADMINISTRATORS.of("token"),
    "admin/relay/poekey/<path:object_id>/usage/": ADMINISTRATORS.of("relay.poekey"),
    "admin/relay/poeaccount/<path:object_id>/charges/": ADMINISTRATORS.of("relay.poeaccount"),
    "admin/relay/botmapping/<path:object_id>/explain-model/": ADMINISTRATORS.of("relay.botmapping"),
    "admin/relay/botmapping/<path:object_id>/usage/": ADMINISTRATORS.of("relay.botmapping"),
    "admin/relay/bot/<path:object_id>/mappings/": ADMINISTRATORS.of("relay.bot"),
    "admin/accounts/accesstoken/issue-many/": ADMINISTRATORS,
    "admin/accounts/invitation/<path:object_id>/take-back/": ADMINISTRATORS.of("accounts.invitation"),
    "admin/relay/live/": ADMINISTRATORS,
    "admin/relay/reconciliation/": ADMINISTRATORS,
    "admin/relay/botmapping/explain/": ADMINISTRATORS,
    "admin/relay/botmapping/sync/": ADMINISTRATORS,
    "admin/relay/botmapping/add-from-list/": ADMINISTRATORS,
    "admin/relay/bot/sync/": ADMINISTRATORS,
    "admin/relay/poeaccount/remove-demo/": ADMINISTRATORS,
    "admin/relay/poeaccount/<int:pk>/merge/": ADMINISTRATORS.of("relay.poeaccount"),
    "admin/relay/poeaccount/<int:pk>/revive/": ADMINISTRATORS.of("relay.poeaccount"),
    "admin/relay/poekey/<int:pk>/test/": ADMINISTRATORS.of("relay.poekey"),
    "admin/relay/poekey/<int:pk>/revive/": ADMINISTRATORS.of("relay.poekey"),
}

# The panel's own pages for a model: its list, that as CSV, adding, changing, deleting, history. Each needs one of `things`.
EDITED = {
    "": ADMINISTRATORS,
    "export/": ADMINISTRATORS,
    "add/": ADMINISTRATORS,
    "<path:object_id>/": ADMINISTRATORS,
    "<path:object_id>/change/": ADMINISTRATORS,
    "<path:object_id>/delete/": ADMINISTRATORS,
    "<path:object_id>/history/": ADMINISTRATORS,
}
LOOKED_AT = EDITED | {
    "add/": NOBODY_CHANGES,
    "<path:object_id>/change/": READ_ONLY,
    "<path:object_id>/delete/": NOBODY_CHANGES,
}
PANEL: dict[str, dict[str, Line]] = {
    "accounts.team": EDITED,
    "accounts.user": EDITED,
    "accounts.accesstoken": EDITED,
    "accounts.limitpreset": EDITED,
    "accounts.invitation": EDITED | {"<path:object_id>/change/": READ_ONLY},
    "relay.poeaccount": EDITED,
    "relay.poekey": EDITED,
    "relay.botmapping": EDITED,
    "relay.bot": LOOKED_AT,
    "relay.poolevent": LOOKED_AT,
    "relay.poecharge": LOOKED_AT,
    "relay.usagerecord": LOOKED_AT,
}

# The API, below /v1 and without it. Whoever is disabled is told so, and whoever has no token is told nothing.


def _api_rule(others: Outcome, *may: Asker) -> Line:
    rule = _rule(others, *may, to_nobody=Outcome.UNKNOWN)
    return rule.but(Asker.DISABLED, outcome=Outcome.FORBIDDEN)


ANYBODY = EVERYBODY
CALLERS = _api_rule(Outcome.ANSWERED)
THEIR_TEAM = _api_rule(Outcome.MISSING, *OWN_TEAM)
THEIR_OWN = _api_rule(Outcome.MISSING, Asker.MEMBER)
NO_ROUTE = _rule(Outcome.NO_ROUTE, to_nobody=Outcome.NO_ROUTE)

API: dict[str, Line] = {
    "": NO_ROUTE,
    "models": CALLERS,
    "models/<path:name>": THEIR_TEAM.of("model"),
    "chat/completions": CALLERS,
    "completions": CALLERS,
    "images/generations": CALLERS,
    "images/edits": CALLERS,
    "images/variations": CALLERS,
    "files": CALLERS,
    "files/<file_id>": THEIR_OWN.of("file"),
    "files/<file_id>/content": THEIR_OWN.of("file"),
    "videos": CALLERS,
    "videos/<video_id>": THEIR_OWN.of("video"),
    "videos/<video_id>/content": THEIR_OWN.of("video"),
    "videos/<video_id>/remix": CALLERS.of("video"),
    "audio/speech": CALLERS,
    "audio/transcriptions": CALLERS,
    "audio/translations": CALLERS,
    "messages": CALLERS,
    "messages/count_tokens": CALLERS,
    "responses": CALLERS,
    "responses/<response_id>": THEIR_OWN.of("response"),
    "responses/<response_id>/input_items": THEIR_OWN.of("response"),
    "responses/<response_id>/cancel": THEIR_OWN.of("response"),
    "dashboard/billing/subscription": CALLERS,
    "dashboard/billing/usage": CALLERS,
    "dashboard/billing/credit_grants": CALLERS,
    "embeddings": CALLERS,
    "moderations": CALLERS,
    "realtime/client_secrets": CALLERS,
    "realtime/sessions": CALLERS,
    "realtime": CALLERS,
    "openapi.json": ANYBODY,
    "docs": ANYBODY,
}

# What the server answers itself, to machines; /metrics only in the networks of server.metrics_networks.
SERVER: dict[str, Line] = {"/healthz": ANYBODY, "/readyz": ANYBODY, "/metrics": ANYBODY}

# A refused WebSocket is closed before it is open, or at once.
SOCKETS: dict[str, Line] = {
    "/ws/live/": _rule(Outcome.FORBIDDEN, Asker.ADMINISTRATOR, to_nobody=Outcome.FORBIDDEN)
}


@dataclass
class Stage:
    people: dict[Asker, Person]
    things: dict[str, tuple[Any, ...]]


# Who reads one of these has read what is not for them.
PHYSICISTS, CHEMISTS = ("alice", "bob", "physics"), ("charlie", "dora", "chemistry")
THE_HOUSE = ("house-account", "house-key", "house-demo")
SECRETS: dict[Asker, tuple[str, ...]] = {
    Asker.NOBODY: (*PHYSICISTS, *CHEMISTS, *THE_HOUSE),
    Asker.DISABLED: (*PHYSICISTS, *CHEMISTS, *THE_HOUSE),
    Asker.STRANGER: (*PHYSICISTS, "dora", *THE_HOUSE),
    Asker.RIVAL: (*PHYSICISTS, *THE_HOUSE),
    Asker.MEMBER: (*CHEMISTS, "alice", *THE_HOUSE),
    Asker.MANAGER: (*CHEMISTS, *THE_HOUSE),
    Asker.ADMINISTRATOR: (),
}


def stage(cast: Cast) -> Stage:
    dora = people.person("dora", cast.chemistry, role=User.Role.MANAGER)
    gone = people.person("gone", cast.physics, role=User.Role.MANAGER)
    User.objects.filter(pk=gone.user.pk).update(is_active=False)
    for person in (cast.alice, cast.bob, cast.charlie, dora):
        _leave_traces(person)
    for team in (cast.physics, cast.chemistry):
        people.mapping(f"{team.name.lower()}-model", "GPT-4o").teams.add(team)
    people.poe_key(name="house-demo", is_demo=True)
    askers = {
        Asker.DISABLED: gone,
        Asker.STRANGER: cast.charlie,
        Asker.RIVAL: dora,
        Asker.MEMBER: cast.bob,
        Asker.MANAGER: cast.alice,
        Asker.ADMINISTRATOR: cast.root,
    }
    return Stage(askers, _things(cast))


def _leave_traces(person: Person) -> None:
    """A request, which says in its model who asked."""
    user = person.user
    ids = {"token_id": person.token.pk, "user_id": user.pk, "team_id": user.team_id}
    names = {"user_name": user.username, "team_name": user.team.name, "key_name": "house-key"}
    model = f"asked-by-{user.username}"
    now = timezone.now()
    ids_of_it = {"id": uuid.uuid4(), "request_id": f"req_{user.username}"}
    UsageRecord.objects.create(
        started_at=now, model=model, outcome="done", streamed=False, **ids_of_it, **ids, **names
    )
    zero = {field.name: 0 for field in UsageHour._meta.fields if field.name != "id"}
    UsageHour.objects.create(**{**zero, **ids, "hour": now, "model": model, "bot": "GPT-4o", "requests": 1})


def _things(cast: Cast) -> dict[str, tuple[Any, ...]]:
    key = people.poe_key(name="house-key", account_name="house-account", **_unreachable())
    owners: tuple[own_keys.Owner, ...] = (cast.bob.user, cast.physics)
    for number, owner in enumerate(owners):
        own = own_keys.store(owner, f"a-key-of-their-own-{number}", PoeAccount.OwnUse.FIRST)
        PoeAccount.objects.filter(pk=own.account_id).update(**_unreachable())
    now = timezone.now()
    rows = {
        "accounts.team": cast.physics,
        "accounts.user": cast.bob.user,
        "accounts.accesstoken": cast.bob.token,
        "accounts.limitpreset": LimitPreset.objects.create(name="A student"),
        "accounts.invitation": Invitation.objects.make(cast.alice.user, cast.physics)[0],
        "relay.poeaccount": key.account,
        "relay.poekey": key,
        "relay.botmapping": people.mapping("everybodys", "GPT-4o"),
        "relay.bot": Bot.objects.create(
            handle="GPT-4o", handle_key="gpt-4o", first_seen_at=now, last_seen_at=now
        ),
        "relay.poolevent": PoolEvent.objects.create(at=now, account=key.account, became="cooling"),
        "relay.poecharge": PoeCharge.objects.create(
            query_id="1", account=key.account, at=now, bot="GPT-4o", points=1, read_at=now
        ),
        "relay.usagerecord": UsageRecord.objects.get(user_id=cast.bob.user.pk),
    }
    return {
        **{name: (row.pk,) for name, row in rows.items()},
        "token": (cast.bob.token.pk,),
        "request": ("req_bob",),
        "model": ("physics-model",),
        "app": ("accounts",),
        "a link": ("made-up",),
        "a first password": (1, "made-up"),
        "nothing": ("nothing/",),
        "nothing twice": ("0", "0"),
    }


def _unreachable() -> dict[str, str]:
    """Whoever tests a key or reads a list hears at once that there is nobody."""
    return dict.fromkeys(("base_url", "upload_url", "api_url"), "http://127.0.0.1:9/")
