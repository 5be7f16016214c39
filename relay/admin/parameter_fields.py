"""A mapping's default parameters as a form made from what its bot declares; raw JSON for what nobody declared."""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from relay import parameters
from relay.models import BotMapping
from relay.models.fields import validate_object
from relay.parameters import Parameter

PREFIX = "parameter__"
OTHERS = "other_parameters"


class OptionalJSONField(forms.JSONField):
    """Nothing is shown as nothing, not as null."""

    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)


class BotMappingForm(forms.ModelForm):  # type: ignore[type-arg]
    declared: ClassVar[tuple[Parameter, ...]] = ()

    class Meta:
        model = BotMapping
        # The page names its own.
        fields = ("model", "bot", "parameters")

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if self.declared:
            self.instance.parameters = self._parameters(cleaned)
        return cleaned

    def _parameters(self, cleaned: dict[str, Any]) -> dict[str, Any]:
        found = dict(cleaned.get(OTHERS) or {})
        for parameter in self.declared:
            name = PREFIX + parameter.name
            value = _said(parameter, cleaned.get(name))
            if value is None:
                continue
            try:
                found[parameter.name] = parameter.take(value)
            except parameters.Refused:
                self.add_error(name, gettext("The bot does not take this value."))
        return found


def form_for(mapping: BotMapping) -> type[BotMappingForm]:
    """With a field for each parameter that its bot declares, holding the mapping's default."""
    declared = parameters.declared(mapping.parameters_of_bot)
    if not declared:
        return BotMappingForm
    made: dict[str, Any] = {PREFIX + each.name: _field(each, mapping.parameters) for each in declared}
    others = _others(mapping, declared)
    if others:
        made[OTHERS] = forms.JSONField(
            label=_("Other parameters"),
            required=False,
            initial=others,
            validators=[validate_object],
            widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
            help_text=_("Sent too, although the bot does not declare them."),
        )
    return type("BotMappingForm", (BotMappingForm,), {**made, "declared": declared})


def names_of(mapping: BotMapping) -> list[str]:
    """The names of the form's fields for parameters."""
    declared = parameters.declared(mapping.parameters_of_bot)
    return [PREFIX + each.name for each in declared] + ([OTHERS] if _others(mapping, declared) else [])


def _others(mapping: BotMapping, declared: tuple[Parameter, ...]) -> dict[str, Any]:
    names = {each.name for each in declared}
    return {name: value for name, value in mapping.parameters.items() if name not in names}


def _field(parameter: Parameter, stored: dict[str, Any]) -> forms.Field:
    common: dict[str, Any] = {"label": parameter.name, "required": False, "help_text": _help(parameter)}
    value = stored.get(parameter.name)
    kinds = set(parameter.kinds) - {"null"}
    if parameter.choices:
        choices = [
            ("", _("as Poe has it")),
            *((json.dumps(each), parameters.text_of(each)) for each in parameter.choices),
        ]
        return forms.ChoiceField(
            choices=choices,
            initial="" if value is None else json.dumps(value),
            widget=UnfoldAdminSelectWidget,
            **common,
        )
    if kinds == {"boolean"}:
        initial = value if isinstance(value, bool) else bool(parameter.default)
        return forms.BooleanField(initial=initial, widget=UnfoldBooleanSwitchWidget, **common)
    if kinds == {"integer"}:
        return forms.IntegerField(
            initial=value,
            min_value=None if parameter.minimum is None else math.ceil(parameter.minimum),
            max_value=None if parameter.maximum is None else math.floor(parameter.maximum),
            widget=UnfoldAdminIntegerFieldWidget,
            **common,
        )
    if kinds and kinds <= {"integer", "number"}:
        return forms.FloatField(
            initial=value,
            min_value=parameter.minimum,
            max_value=parameter.maximum,
            widget=UnfoldAdminDecimalFieldWidget,
            **common,
        )
    if kinds == {"string"}:
        return forms.CharField(
            initial=value, max_length=parameter.max_length, widget=UnfoldAdminTextInputWidget, **common
        )
    return OptionalJSONField(initial=value, widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}), **common)


def _help(parameter: Parameter) -> str:
    said = [parameter.description] if parameter.description else []
    if parameter.default is not None:
        default = parameter.default
        shown = json.dumps(default) if isinstance(default, list | dict) else parameters.text_of(default)
        said.append(gettext("Poe's own: %(value)s") % {"value": shown})
    return " ".join(said)


def _said(parameter: Parameter, entered: Any) -> Any:
    """What is to be stored; None: nothing, as Poe has it."""
    if entered is None or entered == "":
        return None
    if parameter.choices:
        return json.loads(entered)
    if set(parameter.kinds) - {"null"} == {"boolean"}:
        return None if entered == bool(parameter.default) else entered
    return entered
