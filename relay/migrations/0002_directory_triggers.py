"""Triggers that count the directory's version up and note what changed, on every table that the directory reads.

PostgreSQL: one statement-level trigger per event with transition tables, so that a bulk update counts once however
many rows it has. SQLite knows row-level triggers only; there each row counts.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations

# table -> (the kind noted, the column that names the row)
TABLES = {
    "accounts_team": ("team", "id"),
    "accounts_user": ("user", "id"),
    "accounts_accesstoken": ("token", "id"),
    "relay_poeaccount": ("account", "id"),
    "relay_poekey": ("key", "id"),
    "relay_botmapping": ("mapping", "id"),
    "relay_botmapping_teams": ("mapping", "botmapping_id"),
}
# A login writes last_login: that is not a change of who may do what.
USER_COLUMNS = (
    "username, is_active, team_id, role, is_superuser, requests_per_minute, tokens_per_minute, "
    "requests_in_flight, points_per_day, points_per_month"
)
MANY = 1000


def sqlite_sql() -> list[str]:
    statements = []
    for table, (kind, column) in TABLES.items():
        for event, row in (("insert", "NEW"), ("update", "NEW"), ("delete", "OLD")):
            of = f" OF {USER_COLUMNS}" if table == "accounts_user" and event == "update" else ""
            statements.append(
                f"""
                CREATE TRIGGER directory_{table}_{event} AFTER {event.upper()}{of} ON {table} BEGIN
                  INSERT INTO relay_directoryversion (id, n) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = n + 1;
                  INSERT INTO relay_directorychange (n, kind, row)
                    SELECT n, '{kind}', {row}.{column} FROM relay_directoryversion WHERE id = 1;
                END
                """
            )
    return statements


POSTGRES_BUMP = f"""
CREATE FUNCTION relay_directory_bump(changed_kind text, changed_rows bigint[]) RETURNS void AS $$
DECLARE version bigint;
BEGIN
  IF cardinality(changed_rows) = 0 THEN RETURN; END IF;
  INSERT INTO relay_directoryversion (id, n) VALUES (1, 1)
    ON CONFLICT (id) DO UPDATE SET n = relay_directoryversion.n + 1 RETURNING n INTO version;
  IF cardinality(changed_rows) > {MANY} THEN
    INSERT INTO relay_directorychange (n, kind, "row") VALUES (version, changed_kind, 0);
  ELSE
    INSERT INTO relay_directorychange (n, kind, "row")
      SELECT version, changed_kind, changed FROM unnest(changed_rows) AS changed;
  END IF;
END $$ LANGUAGE plpgsql
"""


def postgres_sql() -> list[str]:
    statements = [POSTGRES_BUMP]
    for table, (kind, column) in TABLES.items():
        name = f"directory_{table}"
        compared = USER_COLUMNS if table == "accounts_user" else ""
        differs = (
            "WHERE ROW("
            + ", ".join(f"o.{c.strip()}" for c in compared.split(","))
            + ") IS DISTINCT FROM ROW("
            + ", ".join(f"c.{c.strip()}" for c in compared.split(","))
            + ")"
            if compared
            else ""
        )
        join = f"JOIN old_rows o ON o.id = c.id {differs}" if compared else ""
        bodies = {
            "insert": f"SELECT array_agg(DISTINCT c.{column}) FROM new_rows c",
            "update": f"SELECT array_agg(DISTINCT c.{column}) FROM new_rows c {join}",
            "delete": f"SELECT array_agg(DISTINCT c.{column}) FROM old_rows c",
        }
        references = {
            "insert": "REFERENCING NEW TABLE AS new_rows",
            "update": "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
            "delete": "REFERENCING OLD TABLE AS old_rows",
        }
        for event, body in bodies.items():
            statements.append(
                f"""
                CREATE FUNCTION {name}_{event}() RETURNS trigger AS $$
                BEGIN
                  PERFORM relay_directory_bump('{kind}', coalesce(({body}), '{{}}'));
                  RETURN NULL;
                END $$ LANGUAGE plpgsql
                """
            )
            statements.append(
                f"CREATE TRIGGER {name}_{event} AFTER {event.upper()} ON {table} {references[event]} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {name}_{event}()"
            )
        statements.append(
            f"""
            CREATE FUNCTION {name}_truncate() RETURNS trigger AS $$
            BEGIN
              PERFORM relay_directory_bump('{kind}', '{{0}}');
              RETURN NULL;
            END $$ LANGUAGE plpgsql
            """
        )
        statements.append(
            f"CREATE TRIGGER {name}_truncate AFTER TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {name}_truncate()"
        )
    return statements


def create(apps: Any, schema_editor: Any) -> None:
    vendor = schema_editor.connection.vendor
    for statement in sqlite_sql() if vendor == "sqlite" else postgres_sql():
        schema_editor.execute(statement, params=None)
    schema_editor.execute(
        "INSERT INTO relay_directoryversion (id, n) VALUES (1, 1) ON CONFLICT (id) DO NOTHING", params=None
    )


def drop(apps: Any, schema_editor: Any) -> None:
    sqlite = schema_editor.connection.vendor == "sqlite"
    for table in TABLES:
        for event in ("insert", "update", "delete") if sqlite else ("insert", "update", "delete", "truncate"):
            if sqlite:
                schema_editor.execute(f"DROP TRIGGER directory_{table}_{event}", params=None)
            else:
                schema_editor.execute(f"DROP FUNCTION directory_{table}_{event}() CASCADE", params=None)
    if not sqlite:
        schema_editor.execute("DROP FUNCTION relay_directory_bump(text, bigint[])", params=None)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial"), ("relay", "0001_initial")]

    operations = [migrations.RunPython(create, drop)]
