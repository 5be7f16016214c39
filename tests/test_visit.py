"""A request's id tells when it came, and is nobody else's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from relay.visit import new_request_id, request_began


def test_an_id_tells_when_its_request_came() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)

    ids = [new_request_id() for _each in range(1000)]

    came = [request_began(each) for each in ids]
    assert all(each and before <= each <= datetime.now(UTC) for each in came)
    assert len(set(ids)) == 1000 and {len(each) for each in ids} == {28}


@pytest.mark.parametrize("text", ["", "req_1", "req_" + "g" * 24, "req_" + "٠" * 24, "req_" + "0" * 25])
def test_what_is_no_such_id_tells_nothing(text: str) -> None:
    assert request_began(text) is None


@pytest.mark.parametrize("letter", "07f")
def test_an_id_by_chance_tells_nothing(letter: str) -> None:
    """Those that an older version gave."""
    assert request_began("req_" + letter * 24) is None
