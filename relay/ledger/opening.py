"""Opens the ledger on the database that Django's settings name."""

from __future__ import annotations

from django.conf import settings
from django.db import connections

from relay.ledger.spool import Spool
from relay.ledger.store import Store
from relay.ledger.writer import Ledger


def open_ledger() -> Ledger:
    spool = Spool(settings.CONFIG.data_dir / "spool")
    return Ledger(open_store(spool.process), spool)


def open_store(process: str) -> Store:
    connection = connections["default"]
    database = connection.settings_dict
    # Each imported where it is needed: psycopg takes 9 MB that an installation on SQLite need not have, SQLite 2.
    if connection.vendor == "sqlite":
        from relay.ledger.sqlite import SqliteStore

        return SqliteStore(str(database["NAME"]), process)
    from relay.ledger.postgres import PostgresStore

    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    parameters = {ours: database[theirs] for theirs, ours in names.items() if database[theirs]}
    return PostgresStore({**database["OPTIONS"], **parameters}, process)
