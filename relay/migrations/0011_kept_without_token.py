from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0006_invitations"),
        ("relay", "0010_video_jobs"),
    ]

    operations = [
        migrations.AlterField(
            model_name="storedfile",
            name="token",
            field=models.ForeignKey(
                db_constraint=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="stored_files",
                to="accounts.accesstoken",
            ),
        ),
        migrations.AlterField(
            model_name="storedresponse",
            name="token",
            field=models.ForeignKey(
                db_constraint=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="stored_responses",
                to="accounts.accesstoken",
            ),
        ),
    ]
