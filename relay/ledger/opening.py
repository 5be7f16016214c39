"""Opens the ledger on the database that Django's settings name."""

from __future__ import annotations

from django.db import connections

from relay.ledger import Ledger
from relay.ledger.sqlite import SqliteStore


def open_ledger() -> Ledger:
    connection = connections["default"]
    settings = connection.settings_dict
    if connection.vendor == "sqlite":
        return Ledger(SqliteStore(str(settings["NAME"])))
    # Imported here: psycopg takes 9 MB that an installation on SQLite need not have.
    from relay.ledger.postgres import PostgresStore

    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    parameters = {ours: settings[theirs] for theirs, ours in names.items() if settings[theirs]}
    return Ledger(PostgresStore({**settings["OPTIONS"], **parameters}))
