"""An index of the usage records that did not go well, so that they are found among millions."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies: ClassVar = [("relay", "0003_ledger")]

    operations: ClassVar = [
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(
                fields=["outcome", "-started_at"],
                name="relay_usage_trouble",
                condition=models.Q(outcome="failed")
                | models.Q(outcome="disconnected")
                | models.Q(outcome="lost"),
            ),
        )
    ]
