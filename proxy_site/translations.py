"""Strings of others that our pages show, listed so that `makemessages` keeps our Chinese for them.

unfold, the panel's theme, has no Chinese at all; Django's lacks one string that we show and says a few awkwardly.
Nothing imports this module: it is read by makemessages, and by the test that holds the list against unfold's source.
"""

from __future__ import annotations

from django.utils.translation import gettext_noop, ngettext_lazy

UNFOLD = (
    # Translators: unfold's strings begin here (proxy_site/translations.py)
    gettext_noop("Select action"),
    gettext_noop("Select action to run"),
    gettext_noop("Run"),
    gettext_noop("Select record"),
    gettext_noop("More actions"),
    gettext_noop("Previous"),
    gettext_noop("Next"),
    gettext_noop("Select all rows"),
    gettext_noop("Select value"),
    gettext_noop("True"),
    gettext_noop("False"),
    gettext_noop("Filters"),
    gettext_noop("Apply Filters"),
    gettext_noop("Reset filters"),
    gettext_noop("Date from"),
    gettext_noop("Date to"),
    gettext_noop("Date"),
    gettext_noop("No results found"),
    gettext_noop("This page yielded into no results. Create a new item or reset your filters."),
    gettext_noop("Search apps and models..."),
    gettext_noop("Type to search"),
    gettext_noop("No results matching your query"),
    gettext_noop("Loading more results..."),
    ngettext_lazy(
        "\n                Found %(counter)s result in %(time)s seconds\n            ",
        "\n                Found %(counter)s results in %(time)s seconds\n            ",
    ),
    gettext_noop("Go back"),
    gettext_noop("Return to site"),
    gettext_noop("Light"),
    gettext_noop("Dark"),
    gettext_noop("System"),
    gettext_noop("Welcome back to"),
    gettext_noop("You have been successfully logged out from the administration"),
    gettext_noop("Toggle password visibility"),
    gettext_noop("Choose file to upload"),
    gettext_noop("After you've created a user, you’ll be able to edit more user options."),
    gettext_noop(
        "Raw passwords are not stored, so there is no way to see this user’s password, "
        'but you can change the password using <a href="{}" class="text-primary-600 dark:text-primary-500">this form</a>.'
    ),
)

DJANGO = (
    # Translators: Django's strings begin here (proxy_site/translations.py): missing there, or better said so
    gettext_noop(" By %(filter_title)s "),
    gettext_noop("Select %s to change"),
    gettext_noop("Select %s to view"),
    gettext_noop("Log out"),
    gettext_noop("Logged out"),
    ngettext_lazy("%(counter)s result", "%(counter)s results"),
    ngettext_lazy(
        "This password is too short. It must contain at least %d character.",
        "This password is too short. It must contain at least %d characters.",
    ),
)

# The history of an object names the changed fields by their labels as English forms show them.
LABELS = (
    # Translators: labels of changed fields begin here (proxy_site/translations.py)
    gettext_noop("Time zone"),
    gettext_noop("Requests per minute"),
    gettext_noop("Tokens per minute"),
    gettext_noop("Requests in flight"),
    gettext_noop("Note"),
    gettext_noop("Link works until"),
    gettext_noop("Days"),
    gettext_noop("Points per day"),
    gettext_noop("Points per month"),
    gettext_noop("Points per request"),
    gettext_noop("Points per 1,000 input tokens"),
    gettext_noop("Points per 1,000 output tokens"),
    gettext_noop("Points per image"),
    gettext_noop("Username"),
    gettext_noop("Team"),
    gettext_noop("Role"),
    gettext_noop("First name"),
    gettext_noop("Last name"),
    gettext_noop("Active"),
    gettext_noop("Staff status"),
    gettext_noop("Superuser status"),
    gettext_noop("Owner"),
    gettext_noop("Enabled"),
    gettext_noop("Allowed models"),
    gettext_noop("Allowed networks"),
    gettext_noop("Reason"),
    gettext_noop("Bot address"),
    gettext_noop("Upload address"),
    gettext_noop("Account address"),
    gettext_noop("Priority"),
    gettext_noop("Weight"),
    gettext_noop("Outbound proxy"),
    gettext_noop("Counts in budgets"),
    gettext_noop("Use"),
    gettext_noop("Low balance"),
    gettext_noop("Name at Poe"),
    gettext_noop("Model"),
    gettext_noop("Bot"),
    gettext_noop("Hidden"),
    gettext_noop("Bound to account"),
    gettext_noop("Default parameters"),
    gettext_noop("Default output tokens"),
    gettext_noop("Fallback models"),
    gettext_noop("Replaced text"),
    gettext_noop("Simulate roles"),
    gettext_noop("Write tool calls"),
    # Translators: the last string of proxy_site/translations.py
    gettext_noop("Email address"),
)
