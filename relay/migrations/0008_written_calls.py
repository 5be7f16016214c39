"""A mapping may have its bot write tool calls as text."""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar

from django.db import migrations, models

make_triggers_again = import_module("relay.migrations.0005_pool").make_triggers_again


class Migration(migrations.Migration):
    dependencies: ClassVar = [("relay", "0007_cancellation")]

    operations: ClassVar = [
        migrations.AddField(
            model_name="botmapping",
            name="writes_calls",
            field=models.BooleanField(
                db_default=False,  # the previous release writes rows without it
                default=False,
                help_text="For a bot that calls no tools by itself: it is told to write its calls as text, and they are read from there. Poe's list of bots says which have tools.",
                verbose_name="write tool calls",
            ),
        ),
        migrations.RunPython(make_triggers_again, migrations.RunPython.noop),
    ]
