"""Tables for what is added up by day, and the trigger that notes a change in a day that may have been.

A day is added up two hours after it is over, and an hour more (see ledger/days.py). A change in an hour that began less than
two hours ago comes before that and is not noted: almost all do, and they cost a comparison.
"""

from __future__ import annotations

from typing import Any

from django.db import migrations, models

EVENTS = ("insert", "update")
NOTE = "INSERT INTO relay_latehour (hour) VALUES (NEW.hour);"


def create(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "sqlite":
        for event in EVENTS:
            schema_editor.execute(
                f"CREATE TRIGGER relay_usagehour_late_{event} AFTER {event.upper()} ON relay_usagehour "
                f"WHEN NEW.hour < datetime('now', '-2 hours') BEGIN {NOTE} END",
                params=None,
            )
        return
    schema_editor.execute(
        f"""
        CREATE FUNCTION relay_usagehour_late() RETURNS trigger AS $$
        BEGIN
          {NOTE}
          RETURN NULL;
        END $$ LANGUAGE plpgsql
        """,
        params=None,
    )
    schema_editor.execute(
        "CREATE TRIGGER relay_usagehour_late AFTER INSERT OR UPDATE ON relay_usagehour FOR EACH ROW "
        "WHEN (NEW.hour < now() - interval '2 hours') EXECUTE FUNCTION relay_usagehour_late()",
        params=None,
    )


def drop(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "sqlite":
        for event in EVENTS:
            schema_editor.execute(f"DROP TRIGGER relay_usagehour_late_{event}", params=None)
    else:
        schema_editor.execute("DROP FUNCTION relay_usagehour_late() CASCADE", params=None)


class Migration(migrations.Migration):
    dependencies = [
        ("relay", "0011_kept_without_token"),
    ]

    operations = [
        migrations.CreateModel(
            name="AddedUp",
            fields=[
                ("id", models.PositiveSmallIntegerField(primary_key=True, serialize=False)),
                ("until", models.DateTimeField()),
                ("changes", models.BigIntegerField(default=0)),
            ],
            options={
                "verbose_name": "adding up",
                "verbose_name_plural": "addings up",
            },
        ),
        migrations.CreateModel(
            name="LateHour",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("hour", models.DateTimeField()),
            ],
            options={
                "verbose_name": "late hour",
                "verbose_name_plural": "late hours",
            },
        ),
        migrations.CreateModel(
            name="ModelDay",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("requests", models.BigIntegerField(verbose_name="requests")),
                ("failed", models.BigIntegerField(verbose_name="failed")),
                ("prompt_tokens", models.BigIntegerField(verbose_name="prompt tokens")),
                ("completion_tokens", models.BigIntegerField(verbose_name="answer tokens")),
                ("points", models.BigIntegerField(verbose_name="points")),
                ("day", models.DateField(verbose_name="day")),
                ("team_id", models.BigIntegerField()),
                ("model", models.CharField(max_length=200, verbose_name="model")),
            ],
            options={
                "verbose_name": "day of a model",
                "verbose_name_plural": "days of models",
                "indexes": [models.Index(fields=["team_id", "day"], name="relay_modelday_team")],
                "constraints": [
                    models.UniqueConstraint(fields=("day", "team_id", "model"), name="relay_modelday_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="TeamHour",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("requests", models.BigIntegerField(verbose_name="requests")),
                ("failed", models.BigIntegerField(verbose_name="failed")),
                ("disconnected", models.BigIntegerField(verbose_name="disconnected")),
                ("lost", models.BigIntegerField(verbose_name="lost")),
                ("prompt_tokens", models.BigIntegerField(verbose_name="prompt tokens")),
                ("completion_tokens", models.BigIntegerField(verbose_name="answer tokens")),
                ("images", models.BigIntegerField(verbose_name="images")),
                ("points", models.BigIntegerField(verbose_name="points")),
                ("total_ms", models.BigIntegerField()),
                ("first_byte_250", models.BigIntegerField()),
                ("first_byte_500", models.BigIntegerField()),
                ("first_byte_1000", models.BigIntegerField()),
                ("first_byte_2000", models.BigIntegerField()),
                ("first_byte_5000", models.BigIntegerField()),
                ("first_byte_10000", models.BigIntegerField()),
                ("first_byte_30000", models.BigIntegerField()),
                ("first_byte_more", models.BigIntegerField()),
                ("hour", models.DateTimeField(verbose_name="hour")),
                ("team_id", models.BigIntegerField()),
            ],
            options={
                "verbose_name": "hour of a team",
                "verbose_name_plural": "hours of teams",
                "constraints": [
                    models.UniqueConstraint(fields=("team_id", "hour"), name="relay_teamhour_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="TokenDay",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("requests", models.BigIntegerField(verbose_name="requests")),
                ("failed", models.BigIntegerField(verbose_name="failed")),
                ("prompt_tokens", models.BigIntegerField(verbose_name="prompt tokens")),
                ("completion_tokens", models.BigIntegerField(verbose_name="answer tokens")),
                ("points", models.BigIntegerField(verbose_name="points")),
                ("day", models.DateField(verbose_name="day")),
                ("team_id", models.BigIntegerField()),
                ("user_id", models.BigIntegerField()),
                ("token_id", models.BigIntegerField()),
            ],
            options={
                "verbose_name": "day of a token",
                "verbose_name_plural": "days of tokens",
                "indexes": [models.Index(fields=["team_id", "day"], name="relay_tokenday_team")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("day", "team_id", "user_id", "token_id"), name="relay_tokenday_once"
                    )
                ],
            },
        ),
        migrations.RunPython(create, drop),
    ]
