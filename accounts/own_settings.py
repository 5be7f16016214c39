"""What people set for themselves: e-mail address, language, time zone, password, second factor."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import PasswordChangeForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import translation
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from accounts import guessing, second_factor
from accounts.models import User
from accounts.preferences import Preferences, time_zones
from accounts.signing_in import pass_second_factor


class SettingsForm(forms.ModelForm):  # type: ignore[type-arg]
    email = forms.EmailField(required=False, max_length=254)
    language = forms.ChoiceField(
        required=False, choices=[("", gettext_lazy("As my browser asks for")), *settings.LANGUAGES]
    )

    class Meta:
        model = Preferences
        fields = ("language", "time_zone")

    def clean_time_zone(self) -> str:
        chosen: str = self.cleaned_data["time_zone"]
        if chosen and not any(chosen in zones for zones in time_zones().values()):
            raise ValidationError(_("Not a time zone of this list."))
        return chosen


class NewPasswordForm(PasswordChangeForm):
    """Django's, with patience for guessers: a browser that was left signed in is not its password."""

    def clean_old_password(self) -> str:
        with _counted(self.user):
            return super().clean_old_password()


class PasswordForm(forms.Form):
    """Asks again for the password of whoever is signed in."""

    password = forms.CharField(strip=False, max_length=4096)

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._user = user

    def clean_password(self) -> str:
        with _counted(self._user):
            if not self._user.check_password(self.cleaned_data["password"]):
                raise ValidationError(_("This is not your password."))
        return ""


def _counted(user: User) -> Any:
    return guessing.counted({guessing.at_own_password(user.pk): guessing.OF_NAME})


@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def own(request: HttpRequest) -> HttpResponse:
    user = cast(User, request.user)
    kept = Preferences.objects.filter(user=user).first() or Preferences(user=user)
    form = SettingsForm(
        request.POST if request.method == "POST" else None, instance=kept, initial={"email": user.email}
    )
    if request.method == "POST" and form.is_valid():
        return _save(request, user, form)
    return _settings_page(request, user, form=form)


def _save(request: HttpRequest, user: User, form: SettingsForm) -> HttpResponse:
    form.save()
    user.email = form.cleaned_data["email"]
    user.save(update_fields=["email"])
    language = form.cleaned_data["language"]
    with translation.override(language or translation.get_language()):
        messages.success(request, _("Saved."))
    response = redirect("portal:settings")
    if language:
        # Of this browser too, for the page that asks who it is.
        response.set_cookie(settings.LANGUAGE_COOKIE_NAME, language, samesite="Lax")
    else:
        response.delete_cookie(settings.LANGUAGE_COOKIE_NAME)
    return response


@sensitive_post_parameters()
@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def password(request: HttpRequest) -> HttpResponse:
    form = NewPasswordForm(cast(User, request.user), request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        form.save(commit=False).save(update_fields=["password"])
        # Else this browser would be signed out together with all the others.
        update_session_auth_hash(request, form.user)
        messages.success(request, _("The password is changed. All other browsers are signed out."))
        return redirect("portal:settings")
    return render(request, "portal/password.html", {"form": form})


@sensitive_post_parameters("code")
@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def set_up_second_factor(request: HttpRequest) -> HttpResponse:
    """Scan, then say a first code; the recovery codes are shown once."""
    user = cast(User, request.user)
    if second_factor.of(user) is not None:
        return redirect("portal:settings")
    waiting = second_factor.begin(user)
    error = ""
    if request.method == "POST":
        try:
            codes = second_factor.confirm(user, request.POST.get("code", "")[:50])
        except ValidationError as exc:
            error = exc.messages[0]
        else:
            pass_second_factor(request, user)
            return render(request, "portal/recovery_codes.html", {"codes": codes})
    return render(request, "portal/second_factor.html", {"waiting": waiting, "error": error})


@sensitive_post_parameters("code")
@never_cache
@login_required
@require_POST
def new_recovery_codes(request: HttpRequest) -> HttpResponse:
    user = cast(User, request.user)
    if second_factor.of(user) is None:
        return redirect("portal:settings")
    try:
        codes = second_factor.confirm(user, request.POST.get("code", "")[:50])
    except ValidationError as exc:
        return _settings_page(request, user, code_error=exc.messages[0])
    return render(request, "portal/recovery_codes.html", {"codes": codes})


@sensitive_post_parameters("password")
@never_cache
@login_required
@require_POST
def remove_second_factor(request: HttpRequest) -> HttpResponse:
    """Not without the password: whoever finds a browser signed in does not have it."""
    user = cast(User, request.user)
    form = PasswordForm(user, request.POST)
    if not form.is_valid():
        return _settings_page(request, user, password_errors=form.errors.get("password"))
    if second_factor.remove(user, by=user.get_username()):
        messages.success(request, _("The second factor is switched off."))
    return redirect("portal:settings")


def _settings_page(request: HttpRequest, user: User, **more: Any) -> HttpResponse:
    form = SettingsForm(instance=Preferences.objects.filter(user=user).first(), initial={"email": user.email})
    context = {
        "form": form,
        "zones": time_zones(),
        "factor": second_factor.of(user),
        "is_demanded": second_factor.is_demanded_of(user),
        **more,
    }
    return render(request, "portal/settings.html", context)
