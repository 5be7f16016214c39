"""What the playground's script says, in the language of the page. Errors of the API are told by their code."""

from __future__ import annotations

from django.utils.translation import gettext as _


def words() -> dict[str, str]:
    return {
        "you": _("Your question"),
        "ready": _("Ready."),
        "answering": _("It is answering …"),
        "stopped": _("You stopped it here."),
        "cut": _("It ended here because the answer reached its greatest length."),
        "reasoning": _("Reasoning"),
        "reasoning_now": _("Reasoning …"),
        "again": _("Ask again"),
        "copy": _("Copy"),
        "copied": _("Copied"),
        "remove": _("Remove"),
        "picture": _("Picture"),
        "points": _("Points"),
        "own_key": _("on your own Poe key"),
        "tokens": _("Tokens"),
        "tokens_of": _("{prompt} asked, {answer} answered"),
        "first_byte": _("First word after"),
        "total": _("Total time"),
        "seconds": _("{seconds} s"),
        "empty_answer": _("The model answered with nothing."),
        "not_a_picture": _("Only pictures can be attached: PNG, JPEG, GIF or WebP."),
        "too_large": _("This picture is too large."),
        "unreadable": _("This picture cannot be read."),
        "too_many": _("No more than {most} pictures with one message."),
        "back_in": _("It works again in {time}."),
        "back_at": _("It works again at {time}."),
        "budget_at": _("Your budget begins anew at {time}."),
        "details": _("What exactly was said"),
        "offline": _("The relay cannot be reached. Check your connection, then ask again."),
        "signed_out": _("You are signed out. Sign in again in another tab, then ask again."),
        "broke": _("The connection broke in the middle of this answer."),
        **{f"error_{code}": said for code, said in _errors().items()},
    }


def _errors() -> dict[str, str]:
    return {
        "rate_limit_exceeded": _("That was a lot in a short time: a limit is reached."),
        "insufficient_quota": _("There are not enough points left in your budget for this."),
        "all_keys_busy": _("Too many people are asking at this moment."),
        "upstream_rate_limited": _("Poe is being asked too much at this moment."),
        "model_not_found": _("This model is not there any more, or not for you. Choose another one."),
        "network_not_allowed": _("Your access token may not be used from where you are."),
        "token_disabled": _("Your access token was disabled. Ask your manager or administrator."),
        "token_expired": _("Your access token has expired. Ask your manager or administrator."),
        "user_disabled": _("Your account is disabled. Ask your manager or administrator."),
        "team_disabled": _("Your team is disabled. Ask your administrator."),
        "request_too_large": _(
            "This is too large to send. Start a new conversation, or use smaller pictures."
        ),
        "user_error": _("The model does not take what you sent: it may be too long, or not allowed."),
        "stopped_by_administrator": _("An administrator stopped this answer."),
        "no_poe_key": _("No Poe key can be used at this moment. Tell your administrator."),
        "upstream_out_of_points": _(
            "The Poe account behind this model has no points left. Tell your administrator."
        ),
        "upstream_unauthorized": _("Poe refused the key behind this model. Tell your administrator."),
        "upstream_unknown_bot": _("Poe does not have this model any more. Tell your administrator."),
        "upstream": _("The model failed to answer. Ask again, or choose another one."),
        "busy": _("The relay cannot answer at this moment. Ask again in a while."),
        "other": _("This did not work."),
    }
