from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0006_invitations"),
    ]

    operations = [
        migrations.CreateModel(
            name="Playground",
            fields=[
                (
                    "token",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="playground",
                        serialize=False,
                        to="accounts.accesstoken",
                    ),
                ),
                ("session", models.CharField(editable=False, max_length=64)),
                ("stands_for", models.BigIntegerField(editable=False, null=True)),
            ],
            options={
                "verbose_name": "playground",
                "verbose_name_plural": "playgrounds",
                "ordering": ["pk"],
                "indexes": [models.Index(fields=["session"], name="accounts_playground_session")],
            },
        ),
    ]
