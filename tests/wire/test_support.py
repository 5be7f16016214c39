"""The page that tells what becomes of each parameter is what the wire formats do, and knows all that the SDKs know."""

from __future__ import annotations

import pytest

from tests import support
from tests.support import CHAT, EDITS, MESSAGES, RESPONSES, SPEECH, TRANSCRIPTIONS, WIRES, Wire, verdict


def test_the_page_is_current() -> None:
    assert support.PAGE.read_text() == support.page(), "run python -m tests.support"


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.route)
def test_every_parameter_of_the_official_sdk_is_decided_on(wire: Wire) -> None:
    assert sorted(wire.known - wire.tried.keys()) == []


@pytest.mark.parametrize(
    ("wire", "name", "said"),
    [
        (CHAT, "temperature", support.FORWARDED),
        (CHAT, "response_format", support.EMULATED),
        (CHAT, "stream", support.ANSWERED),
        (CHAT, "seed", support.RARE),
        (CHAT, "user", support.SILENT),
        (CHAT, "logprobs", support.REFUSED),
        (RESPONSES, "conversation", support.REFUSED),
        (RESPONSES, "store", support.ANSWERED),
        (RESPONSES, "moderation", support.IGNORED),
        (MESSAGES, "thinking", support.RARE),
        (MESSAGES, "stop_sequences", support.EMULATED),
        (MESSAGES, "tool_choice", support.EMULATED),
        (EDITS, "mask", support.FORWARDED),
        (EDITS, "n", support.ANSWERED),
        (SPEECH, "voice", support.RARE),
        (SPEECH, "stream_format", support.REFUSED),
        (TRANSCRIPTIONS, "language", support.FORWARDED),
        (TRANSCRIPTIONS, "timestamp_granularities", support.RARE),
    ],
)
def test_a_verdict_is_what_the_wire_format_does(wire: Wire, name: str, said: str) -> None:
    assert verdict(wire, name) == said
