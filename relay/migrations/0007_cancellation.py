"""Requests that an administrator wants stopped."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("relay", "0006_stored_responses")]

    operations: ClassVar = [
        migrations.CreateModel(
            name="Cancellation",
            fields=[
                ("record_id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ("at", models.DateTimeField()),
                ("by", models.CharField(max_length=150)),
            ],
            options={"verbose_name": "cancellation", "verbose_name_plural": "cancellations"},
        )
    ]
