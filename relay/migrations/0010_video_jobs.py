from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_self_service"),
        ("relay", "0009_stored_files"),
    ]

    operations = [
        migrations.CreateModel(
            name="VideoJob",
            fields=[
                ("id", models.CharField(max_length=40, primary_key=True, serialize=False)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("queued", "queued"),
                            ("in_progress", "in progress"),
                            ("completed", "completed"),
                            ("failed", "failed"),
                        ],
                        default="queued",
                        max_length=15,
                    ),
                ),
                ("asked", models.BinaryField()),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("error_code", models.CharField(blank=True, max_length=50)),
                ("error_message", models.TextField(blank=True)),
                ("created_at", models.DateTimeField()),
                ("completed_at", models.DateTimeField(null=True)),
                ("expires_at", models.DateTimeField()),
                (
                    "output",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="relay.storedfile",
                    ),
                ),
                (
                    "token",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="video_jobs",
                        to="accounts.accesstoken",
                    ),
                ),
            ],
            options={
                "verbose_name": "video job",
                "verbose_name_plural": "video jobs",
                "indexes": [
                    models.Index(fields=["token", "-created_at", "-id"], name="relay_videojob_recent"),
                    models.Index(fields=["expires_at"], name="relay_videojob_expires"),
                    models.Index(
                        condition=models.Q(("state__in", ["queued", "in_progress"])),
                        fields=["created_at"],
                        name="relay_videojob_unfinished",
                    ),
                ],
            },
        ),
    ]
