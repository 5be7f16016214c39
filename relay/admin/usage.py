"""The panel's page for usage records."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from accounts.exporting import ROWS_AT_ONCE, Exported, Rows
from relay.admin.reading import ReadOnly
from relay.models import UsageRecord
from relay.panel import filters
from relay.panel.paging import Narrowing, RecentFirst


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnly, Exported):
    """Millions of rows: nothing here may count them, sort them anew or look for what is different among them."""

    list_display = (
        "started_at",
        "who",
        "team",
        "token",
        "model",
        "state",
        "tokens",
        "points_used",
        "first_byte",
        "total",
        "key_name",
    )
    list_filter = filters.FILTERS
    list_filter_submit = True
    # What is searched is decided by filters.searched; this makes Django show the box.
    search_fields = filters.SEARCHED
    csv_columns = (
        "started_at",
        "user_name",
        "team_name",
        "token_prefix",
        "model",
        "bot",
        "key_name",
        "wire",
        "streamed",
        "outcome",
        "error_code",
        "finish_reason",
        "prompt_tokens",
        "completion_tokens",
        "images",
        "points",
        "accounting",
        "first_byte_ms",
        "total_ms",
        "request_id",
        "id",
    )
    sortable_by = ()
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[RecentFirst]:
        return RecentFirst

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        self.search_help_text = filters.search_help()
        return super().get_changelist_instance(request)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """The list itself asks `searched`: it has to know what index serves it."""
        return queryset, False

    def searched(self, text: str) -> Narrowing | None:
        return filters.searched(text)

    def csv_rows(self, changelist: Any) -> Rows:
        """As the list is paged, newest first: by place, and so many rows at a time where no index serves the filters."""
        yield from changelist.in_pieces(self.csv_columns, ROWS_AT_ONCE)

    @display(description=_("user"))
    def who(self, record: UsageRecord) -> str:
        return format_html('<a href="?user={}">{}</a>', record.user_id, record.user_name)

    @display(description=_("team"))
    def team(self, record: UsageRecord) -> str:
        return format_html('<a href="?team={}">{}</a>', record.team_id, record.team_name)

    @display(description=_("access token"))
    def token(self, record: UsageRecord) -> str:
        return format_html('<a href="?token={}">{}…</a>', record.token_id, record.token_prefix)

    @display(description=_("tokens in + out"))
    def tokens(self, record: UsageRecord) -> str:
        return f"{record.prompt_tokens:,} + {_measured(record, record.completion_tokens)}"

    @display(description=_("points"))
    def points_used(self, record: UsageRecord) -> str:
        return _measured(record, record.points)

    @display(description=_("first byte"))
    def first_byte(self, record: UsageRecord) -> str:
        return f"{record.first_byte_ms:,} ms" if record.first_byte_ms is not None else "-"

    @display(description=_("total"))
    def total(self, record: UsageRecord) -> str:
        return f"{record.total_ms / 1000:,.1f} s" if record.total_ms is not None else "-"

    @display(
        description=_("outcome"),
        label={
            "done": "success",
            "open": "info",
            "failed": "danger",
            "disconnected": "warning",
            "lost": "warning",
        },
    )
    def state(self, record: UsageRecord) -> tuple[str, str]:
        said = record.get_outcome_display()
        return record.outcome, f"{said}: {record.error_code}" if record.error_code else said


def _measured(record: UsageRecord, number: int) -> str:
    """While a record is open, and if it is lost, this is what was reserved for it and not what it used."""
    if record.outcome in (UsageRecord.Outcome.OPEN, UsageRecord.Outcome.LOST):
        return _("%(number)s reserved") % {"number": f"{number:,}"}
    return f"{number:,}"
