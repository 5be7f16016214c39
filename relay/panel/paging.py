"""Pages of a list of millions of rows, newest first: by the place of a row, never by a number, and nothing is counted.

A condition that an index serves is asked of all rows. Any other is asked of so many at a time, and the page says how far
it looked. A list is of any model that has `started_at` and a UUID `id`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from relay.visit import EPOCH

OLDER, NEWER = "older", "newer"
# Rows that are looked at for a page by a condition that no index serves.
LOOK_AT = 20_000
MICROSECOND = timedelta(microseconds=1)
FIRST_ID, LAST_ID = uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """A condition on the rows. `served`: by an index that goes on with `started_at`; the lowest leaves fewest rows."""

    condition: Q
    served: int | None = None
    is_of_time: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands in the list. In a link: microseconds since 1970, and its id."""

    started_at: datetime
    id: uuid.UUID

    def __str__(self) -> str:
        return f"{(self.started_at - EPOCH) // MICROSECOND}.{self.id.hex}"

    @classmethod
    def read(cls, text: str) -> Place:
        """Raises IncorrectLookupParameters."""
        moment, _dot, id_ = text.partition(".")
        try:
            return cls(EPOCH + int(moment) * MICROSECOND, uuid.UUID(hex=id_))
        except (ValueError, OverflowError) as exc:
            raise IncorrectLookupParameters(str(exc)) from None

    @classmethod
    def of(cls, row: Any) -> Place:
        return cls(row.started_at, row.id)


@dataclass(frozen=True, slots=True)
class Page:
    """Newest first. `looked_to`: how far it looked when it found too few and there are more rows to look at."""

    rows: list[Any]
    older: Place | None
    newer: Place | None
    looked_to: datetime | None = None


def older_page(found: QuerySet[Any], within: QuerySet[Any] | None, place: Place | None, size: int) -> Page:
    """What comes after this place. `within`: what an index serves of it; None if that is all there is to ask."""
    if place is not None:
        found = found.filter(_older(place))
        within = within.filter(_older(place)) if within is not None else None
    end = _end(within.order_by("-started_at")) if within is not None else None
    if end is not None:
        found = found.filter(started_at__gte=end)
    rows = list(found.order_by("-started_at", "-id")[: size + 1])
    newer = (Place.of(rows[0]) if rows else place) if place is not None else None
    if len(rows) > size:
        return Page(rows[:size], Place.of(rows[size - 1]), newer)
    return Page(rows, Place(end, FIRST_ID) if end else None, newer, end)


def newer_page(found: QuerySet[Any], within: QuerySet[Any] | None, place: Place, size: int) -> Page:
    """What comes before this place."""
    found = found.filter(_newer(place))
    end = _end(within.filter(_newer(place)).order_by("started_at")) if within is not None else None
    if end is not None:
        found = found.filter(started_at__lte=end)
    rows = list(found.order_by("started_at", "id")[: size + 1])
    more = len(rows) > size
    rows = rows[:size][::-1]
    older = Place.of(rows[-1]) if rows else place
    if more:
        return Page(rows, older, Place.of(rows[0]))
    return Page(rows, older, Place(end, LAST_ID) if end else None, end)


def _older(place: Place) -> Q:
    # The first part is implied by the second, but only the first can be looked up in an index.
    return Q(started_at__lte=place.started_at) & (Q(started_at__lt=place.started_at) | Q(id__lt=place.id))


def _newer(place: Place) -> Q:
    return Q(started_at__gte=place.started_at) & (Q(started_at__gt=place.started_at) | Q(id__gt=place.id))


def _end(within: QuerySet[Any]) -> datetime | None:
    """Where looking ends: at the last of LOOK_AT rows, if there are more."""
    found: list[datetime] = list(within.values_list("started_at", flat=True)[LOOK_AT : LOOK_AT + 1])
    return found[0] if found else None


class RecentFirst(ChangeList):
    """Django's list of an admin whose filters have a `narrowing()`, and which has a `searched(text)`."""

    page: Page

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.asked_older = request.GET.get(OLDER, "")
        self.asked_newer = request.GET.get(NEWER, "")
        asked = request.GET.urlencode()
        # A place is none of the filters' business, and whoever changes a filter begins with the newest.
        parameters = request.GET.copy()
        parameters.pop(OLDER, None)
        parameters.pop(NEWER, None)
        request.GET = parameters  # type: ignore[assignment]
        super().__init__(request, *args, **kwargs)
        if self.asked_older or self.asked_newer:
            # The way back from a row is to its page.
            self.preserved_filters = urlencode({"_changelist_filters": asked})

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["-started_at", "-id"]

    def get_filters(self, request: HttpRequest) -> Any:
        found = super().get_filters(request)
        # Lookups typed into the address: nobody knows what serves them.
        self.has_other_lookups = bool(found[2])
        return found

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        found: QuerySet[Any] = super().get_queryset(request, exclude_parameters)
        self.searched: Narrowing | None = self.model_admin.searched(self.query)  # type: ignore[attr-defined]
        return found.filter(self.searched.condition) if self.searched else found

    def get_results(self, request: HttpRequest) -> None:
        found, within = self.queryset.order_by(), self._within()
        size = self.list_per_page
        if self.asked_newer:
            self.page = newer_page(found, within, Place.read(self.asked_newer), size)
        else:
            place = Place.read(self.asked_older) if self.asked_older else None
            self.page = older_page(found, within, place, size)
        self.result_list = self.page.rows
        self.result_count = len(self.page.rows)
        # The same number twice: the header then says none of them.
        self.full_result_count = self.result_count
        self.show_full_result_count = False
        self.show_admin_actions = True
        self.can_show_all = self.multi_page = False
        self.paginator = None

    def in_pieces(self, columns: Sequence[str], size: int) -> Iterator[list[tuple[Any, ...]]]:
        """Of all rows that there are to these filters, these columns. A place needs two of them."""
        found = self.queryset.order_by().values_list(*columns, named=True)
        within = self._within()
        page = older_page(found, within, None, size)
        yield page.rows
        while page.older is not None:
            page = older_page(found, within, page.older, size)
            yield page.rows

    def _within(self) -> QuerySet[Any] | None:
        """The rows that the best index leaves, if there is more to ask of them."""
        narrowings = list(self._narrowings())
        indexed = sorted(
            (each for each in narrowings if each.served is not None), key=lambda each: each.served or 0
        )
        served = [*(each for each in narrowings if each.is_of_time), *indexed[:1]]
        if len(served) == len(narrowings) and not self.has_other_lookups:
            return None
        return self.root_queryset.filter(*(each.condition for each in served)).order_by()

    def _narrowings(self) -> Iterator[Narrowing]:
        specs: Sequence[Any] = self.filter_specs
        for narrowing in (*(spec.narrowing() for spec in specs), self.searched):
            if narrowing is not None:
                yield narrowing

    # For the template.

    @property
    def newest_link(self) -> str | None:
        return self.get_query_string() if self.asked_older or self.asked_newer else None

    @property
    def newer_link(self) -> str | None:
        return self.get_query_string({NEWER: str(self.page.newer)}) if self.page.newer else None

    @property
    def older_link(self) -> str | None:
        return self.get_query_string({OLDER: str(self.page.older)}) if self.page.older else None
