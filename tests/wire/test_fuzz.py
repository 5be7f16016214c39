"""Whatever a body is made of, a wire format reads it or refuses it in its own words."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings

from relay.errors import BadRequest
from tests.fuzz.bodies import PARSES, bodies


@pytest.mark.parametrize("name", PARSES)
def test_every_body_is_read_or_refused(name: str) -> None:
    wire = PARSES[name]
    read = 0

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(bodies(wire.examples))
    def ask(body: bytes) -> None:
        nonlocal read
        try:
            wire.read(body)
            read += 1
        except BadRequest as refused:
            assert refused.message

    ask()
    assert read, "not one body was read: the examples are no longer right"


@pytest.mark.parametrize("name", PARSES)
def test_its_examples_are_read(name: str) -> None:
    for example in PARSES[name].examples:
        assert PARSES[name].read(json.dumps(example).encode())
