"""The lease: one has it, until it gives it back or has not renewed it for long enough."""

from __future__ import annotations

import threading

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from relay import leases
from relay.models import Lease

pytestmark = pytest.mark.django_db(transaction=True)


def run_out() -> None:
    Lease.objects.update(until=1)


def test_whoever_comes_first_has_it() -> None:
    assert leases.take("job", "one", 30) == 0
    assert 25 < leases.take("job", "two", 30) <= 30
    assert leases.take("other job", "two", 30) == 0
    assert {lease.name: lease.holder for lease in Lease.objects.all()} == {"job": "one", "other job": "two"}


def test_its_holder_renews_it() -> None:
    leases.take("job", "one", 5)

    assert leases.take("job", "one", 60) == 0
    assert leases.take("job", "two", 30) > 50


def test_another_takes_over_when_it_ran_out() -> None:
    leases.take("job", "one", 30)
    run_out()

    assert leases.take("job", "two", 30) == 0
    assert leases.take("job", "one", 30) > 25


def test_it_is_given_back_by_its_holder_alone() -> None:
    leases.take("job", "one", 30)
    leases.give_back("job", "two")
    assert leases.take("job", "two", 30) > 0

    leases.give_back("job", "one")
    assert leases.take("job", "two", 30) == 0


def test_whoever_does_not_have_it_reads_once_and_writes_nothing() -> None:
    leases.take("job", "one", 30)

    with CaptureQueriesContext(connection) as queries:
        leases.take("job", "two", 30)

    assert len(queries) == 1 and queries[0]["sql"].startswith("SELECT")


def test_of_many_at_the_same_moment_one_gets_it() -> None:
    leases.take("job", "gone", 30)
    run_out()
    start = threading.Barrier(4)
    got = []

    def try_it(holder: str) -> None:
        try:
            start.wait(5)
            if leases.take("job", holder, 30) == 0:
                got.append(holder)
        finally:
            connection.close()

    threads = [threading.Thread(target=try_it, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert got == [Lease.objects.get().holder]
