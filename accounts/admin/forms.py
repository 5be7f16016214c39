"""What the panel asks when tokens are issued or changed. Rules are for the models to say."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from unfold.widgets import (
    UnfoldAdminFileFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminRadioSelectWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from accounts import bulk
from accounts.limits import Limits, validate_patterns
from accounts.models import FIRST_NAME, Invitation, LimitPreset, Team, User
from accounts.presets import LONGEST_DAYS, Conditions

LIMITS = Limits.names()
# Of an uploaded list.
MOST_BYTES = 400_000
EXTENSIONS = [("30", _("30 days")), ("90", _("90 days")), ("until", _("until a day"))]


class DayWidget(UnfoldAdminTextInputWidget):
    """The browser's own calendar."""

    input_type = "date"


class PatternsField(forms.CharField):
    """A list of models as people write one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=2000, required=False, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        text = str(super().to_python(value) or "")
        return [each.strip() for each in text.replace("，", ",").split(",") if each.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or []) != self.to_python(data))

    def run_validators(self, value: Any) -> None:
        super().run_validators(", ".join(value))
        validate_patterns(value)


def patterns_field() -> PatternsField:
    return PatternsField(
        label=_("Allowed models"),
        widget=UnfoldAdminTextInputWidget,
        help_text=_("Names and wildcards, with commas between. Empty: all that the team may see."),
    )


class ConditionsForm(forms.ModelForm):  # type: ignore[type-arg]
    """A preset, or limits, or both: what is left empty is as the preset has it."""

    preset = forms.ModelChoiceField(
        label=_("Limit preset"),
        queryset=LimitPreset.objects.all(),
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text=_("What you leave empty here is taken from it."),
    )
    allowed_models = patterns_field()

    class Meta:
        model = LimitPreset
        fields: ClassVar[Any] = [*LIMITS, "allowed_models", "days"]
        widgets: ClassVar = dict.fromkeys([*LIMITS, "days"], UnfoldAdminIntegerFieldWidget)

    field_order = ("name", "preset", "days", *LIMITS, "allowed_models")
    # Shown when asked for: most people need none of these.
    folded = (*LIMITS, "allowed_models")

    @property
    def conditions(self) -> Conditions:
        chosen: Conditions = self.instance
        if preset := self.cleaned_data.get("preset"):
            chosen.fill_from(preset)
        return chosen


class NameField(forms.CharField):
    """Of a token. It is shown in many places, none of which has use for control characters."""

    def __init__(self) -> None:
        super().__init__(
            label=_("Name of the token"),
            max_length=100,
            widget=UnfoldAdminTextInputWidget,
            help_text=_("Where it is used, such as “Chatbox on my phone”."),
        )

    def clean(self, value: Any) -> str:
        name: str = super().clean(value)
        if not name.isprintable():
            raise ValidationError(_("A name holds a control character."))
        return name


class IssueForm(ConditionsForm):
    name = NameField()


class BulkForm(ConditionsForm):
    """`text` is what is read in the end, also of a file."""

    text = forms.CharField(
        label=_("List"), required=False, max_length=100_000, widget=UnfoldAdminTextareaWidget
    )
    file = forms.FileField(
        label=_("or a file"),
        required=False,
        widget=UnfoldAdminFileFieldWidget,
        help_text=_("CSV, as a spreadsheet saves it."),
    )
    team = forms.ModelChoiceField(
        label=_("Team"),
        queryset=Team.objects.all(),
        initial=Team.objects.default,
        widget=UnfoldAdminSelectWidget,
        help_text=_("Of whoever is new and has no other in the list. Teams that the list names are made."),
    )
    token_name = NameField()
    field_order = ("text", "file", "team", "token_name", "preset", "days")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["token_name"].initial = FIRST_NAME

    def clean_file(self) -> str:
        file = self.cleaned_data["file"]
        if not file:
            return ""
        if file.size > MOST_BYTES:
            raise ValidationError(_("This file is too long."))
        return bulk.decoded(file.read())

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        cleaned["text"] = cleaned.get("file") or cleaned.get("text", "")
        return cleaned

    def plan(self) -> bulk.Plan:
        given = self.cleaned_data
        return bulk.plan(
            given["text"], team=given["team"], token_name=given["token_name"], defaults=self.conditions
        )


class CloneForm(forms.Form):
    name = NameField()
    owner = forms.ModelChoiceField(
        label=_("Owner"), queryset=User.objects.filter(is_active=True), widget=UnfoldAdminSelectWidget
    )


class ReasonForm(forms.Form):
    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text=_("Why it is disabled; told to whoever holds it."),
    )


class ExtendForm(forms.Form):
    by = forms.ChoiceField(
        label=_("Extend by"), choices=EXTENSIONS, initial="30", widget=UnfoldAdminRadioSelectWidget
    )
    last_day = forms.DateField(label=_("Last day"), required=False, widget=DayWidget)

    def clean_last_day(self) -> datetime | None:
        """The moment at which that day ends, by the calendar of whoever chose it."""
        day = self.cleaned_data["last_day"]
        if self.cleaned_data.get("by") != "until":
            return None
        if day is None:
            raise ValidationError(_("Choose the last day."))
        today = timezone.localdate()
        if not today <= day <= today + timedelta(days=LONGEST_DAYS):
            raise ValidationError(_("This day is over, or very far away."))
        return timezone.make_aware(datetime.combine(day + timedelta(days=1), time.min))


class PresetChoiceForm(forms.Form):
    preset = forms.ModelChoiceField(
        label=_("Limit preset"), queryset=LimitPreset.objects.all(), widget=UnfoldAdminSelectWidget
    )


class PresetForm(forms.ModelForm):  # type: ignore[type-arg]
    allowed_models = patterns_field()

    class Meta:
        model = LimitPreset
        # The page names its own.
        fields = ("name", "allowed_models")


class InvitationForm(ConditionsForm):
    class Meta:
        model = Invitation
        # The page names its own.
        fields: ClassVar[Any] = ["allowed_models"]
