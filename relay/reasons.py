"""Why a Poe key or account is as it is: stored in English, told in the reader's language as far as the words are ours.

What Poe and its bots say in words of their own stays as they said it. Beginnings may be followed by another reason.
"""

from __future__ import annotations

import re

from django.utils.translation import gettext, gettext_noop

# Those of relay/upstreams/poe_errors.py, of relay/balances.py and of the panel. tests/test_reasons.py holds them together.
WHOLE = (
    gettext_noop("Poe refused the key"),
    gettext_noop("the Poe account has no points left"),
    gettext_noop("Poe says: too many requests for this account"),
    gettext_noop("Poe has no such bot"),
    gettext_noop("the bot took too long"),
    gettext_noop("the bot reported an error and did not say which"),
    gettext_noop("Poe answered HTTP %(number)s"),
    gettext_noop("the outbound proxy did not answer in time"),
    gettext_noop("cannot reach the outbound proxy"),
    gettext_noop("the outbound proxy refused"),
    gettext_noop("no connection to Poe in time"),
    gettext_noop("Poe did not answer in time"),
    gettext_noop("the address of Poe or of the outbound proxy cannot be used"),
    gettext_noop("Poe's certificate cannot be trusted"),
    gettext_noop("no secure connection to Poe"),
    gettext_noop("the name of Poe's server cannot be resolved"),
    gettext_noop("cannot reach Poe"),
    gettext_noop("Poe sent an answer that is not HTTP"),
    gettext_noop("the answer was cut off"),
    gettext_noop("the connection to Poe broke"),
    gettext_noop("a new secret was stored"),
    gettext_noop("a new secret"),
    gettext_noop("put back into service by %(name)s"),
    gettext_noop("it has the points history of %(name)s"),
    gettext_noop("the balance is %(number)s points"),
    gettext_noop("%(number)s points left, fewer than %(least)s"),
    gettext_noop("%(number)s points"),
    gettext_noop("%(number)s charges of %(sum)s points as %(name)s that no request of ours explains"),
    gettext_noop("the bot sent a %(name)s event that nobody can read"),
)
BEGINNINGS = (gettext_noop("tested: %(rest)s"),)


def _pattern(words: str) -> re.Pattern[str]:
    """That of `%(number)s` takes digits; one of them is no plural."""
    pattern = re.escape(words).replace("points", "points?").replace("charges", "charges?")
    pattern = re.sub(r"%\\\((number|least|sum)\\\)s", r"(?P<\1>-?[\\d,]+)", pattern)
    return re.compile(re.sub(r"%\\\((\w+)\\\)s", r"(?P<\1>.+)", pattern))


PATTERNS = tuple((words, _pattern(words)) for words in (*BEGINNINGS, *WHOLE))


def told(reason: str) -> str:
    for words, pattern in PATTERNS:
        if found := pattern.fullmatch(reason):
            translated, parts = gettext(words), found.groupdict()
            if "rest" in parts:
                parts["rest"] = told(parts["rest"])
            return reason if translated == words else translated % parts
    return reason
