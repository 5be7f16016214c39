from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_self_service"),
        ("relay", "0008_written_calls"),
    ]

    operations = [
        migrations.CreateModel(
            name="StoredFile",
            fields=[
                ("id", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("name", models.TextField()),
                ("content_type", models.CharField(max_length=100)),
                ("purpose", models.CharField(max_length=30)),
                ("size", models.PositiveBigIntegerField()),
                ("is_whole", models.BooleanField(default=False)),
                ("created_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField()),
                (
                    "token",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="stored_files",
                        to="accounts.accesstoken",
                    ),
                ),
            ],
            options={
                "verbose_name": "stored file",
                "verbose_name_plural": "stored files",
            },
        ),
        migrations.CreateModel(
            name="FilePiece",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("number", models.PositiveIntegerField()),
                ("content", models.BinaryField()),
                (
                    "file",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="pieces",
                        to="relay.storedfile",
                    ),
                ),
            ],
            options={
                "verbose_name": "piece of a file",
                "verbose_name_plural": "pieces of files",
            },
        ),
        migrations.AddIndex(
            model_name="storedfile",
            index=models.Index(fields=["expires_at"], name="relay_storedfile_expires"),
        ),
        migrations.AddIndex(
            model_name="storedfile",
            index=models.Index(fields=["token", "-created_at", "-id"], name="relay_storedfile_recent"),
        ),
        migrations.AddConstraint(
            model_name="filepiece",
            constraint=models.UniqueConstraint(fields=("file", "number"), name="relay_filepiece_number"),
        ),
    ]
