"""What the ledger's connection to PostgreSQL is opened with. Needs no server."""

from __future__ import annotations

from relay.ledger.postgres import SESSION, PostgresStore


def test_the_urls_own_options_are_kept_and_the_ledgers_come_last() -> None:
    """With a `search_path` of its own, the ledger must write where the panel reads."""
    store = PostgresStore({"dbname": "x", "options": "-c search_path=poe -c lock_timeout=9"}, "host:1:a")

    assert store._parameters["options"] == f"-c search_path=poe -c lock_timeout=9 {SESSION}"


def test_without_options_there_are_the_ledgers() -> None:
    assert PostgresStore({"dbname": "x"}, "host:1:a")._parameters["options"] == SESSION
