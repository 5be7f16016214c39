"""The short form of bench.pages: with few records, by the number of queries instead of the time."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from bench import pages, reading

MOST_QUERIES = 40


@pytest.mark.django_db(transaction=True)
def test_every_page_answers_with_few_queries() -> None:
    reading.fill(400)
    asking = pages.clients()

    many = {}
    for page in pages.pages():
        with CaptureQueriesContext(connection) as queries:
            page.ask(asking[page.who])
        many[page.address] = len(queries)

    assert len(many) > 50
    assert {address: number for address, number in many.items() if number > MOST_QUERIES} == {}
