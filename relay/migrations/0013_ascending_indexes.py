"""The indexes of usage records the other way round: what is newest comes last, where adding it is quick."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("relay", "0012_days_added_up"),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name="usagerecord",
            name="relay_usage_recent",
        ),
        migrations.RemoveIndex(
            model_name="usagerecord",
            name="relay_usage_by_token",
        ),
        migrations.RemoveIndex(
            model_name="usagerecord",
            name="relay_usage_by_user",
        ),
        migrations.RemoveIndex(
            model_name="usagerecord",
            name="relay_usage_by_team",
        ),
        migrations.RemoveIndex(
            model_name="usagerecord",
            name="relay_usage_trouble",
        ),
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(fields=["started_at", "id"], name="relay_usage_recent"),
        ),
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(fields=["token_id", "started_at"], name="relay_usage_by_token"),
        ),
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(fields=["user_id", "started_at"], name="relay_usage_by_user"),
        ),
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(fields=["team_id", "started_at"], name="relay_usage_by_team"),
        ),
        migrations.AddIndex(
            model_name="usagerecord",
            index=models.Index(
                condition=models.Q(
                    ("outcome", "failed"), ("outcome", "disconnected"), ("outcome", "lost"), _connector="OR"
                ),
                fields=["outcome", "started_at"],
                name="relay_usage_trouble",
            ),
        ),
    ]
