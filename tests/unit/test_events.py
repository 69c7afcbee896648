"""Which changes are news, and the event that tells them."""

import re
from dataclasses import replace
from typing import Any

import pytest
from reversals import events
from reversals.model import Reversal, Status, parse_time

from tests.unit.test_model import REVERSAL

CHANGED: list[tuple[str, dict[str, Any] | None, dict[str, Any], bool]] = [
    # What it was (None: nothing), what changed, and whether it is news.
    ("a first claim", None, {"status": Status.INITIATING}, False),
    ("a next claim", {"status": Status.FAILED}, {"status": Status.INITIATING, "attempt": 2}, False),
    ("accepted", {"status": Status.INITIATING}, {"status": Status.PENDING}, True),
    ("accepted, the claim not seen", None, {"status": Status.PENDING}, True),
    ("unknown", {"status": Status.INITIATING}, {"status": Status.UNKNOWN}, True),
    ("found after all", {"status": Status.UNKNOWN}, {"status": Status.PENDING}, True),
    ("reversed", {"status": Status.PENDING}, {"status": Status.REVERSED}, True),
    ("reversed, never seen before", None, {"status": Status.REVERSED}, True),
    ("failed", {"status": Status.PENDING}, {"status": Status.FAILED}, True),
    ("failed again", {"status": Status.FAILED}, {"status": Status.FAILED, "attempt": 2}, True),
    ("conflict", {"status": Status.REVERSED}, {"conflict": True}, True),
    ("conflict resolved", {"conflict": True}, {"conflict": False}, True),
    ("a second entry about a conflict", {"conflict": True}, {"conflict": True, "version": 4}, False),
    ("an older attempt's end", {"attempt": 2}, {"attempt": 2, "version": 4}, False),
    ("a detail", {"reversal_reference": None}, {}, False),
    ("the bookkeeping of reconcile", {"status": Status.PENDING}, {"status": Status.PENDING}, False),
]


@pytest.mark.parametrize(("before", "after", "news"), [pytest.param(*change, id=name) for name, *change in CHANGED])
def test_news(before: dict[str, Any] | None, after: dict[str, Any], news: bool) -> None:
    old = None if before is None else replace(REVERSAL, **before)
    assert events.is_news(old, replace(REVERSAL, **after)) is news


def test_the_event_is_a_cloud_event() -> None:
    assert events.cloud_event(REVERSAL) == {
        "specversion": "1.0",
        "id": "TQ2L262026:3",
        "source": "kopokopo-reversals",
        "type": "reversal.reversed",
        "subject": "TQ2L262026",
        "time": "2026-05-01T07:00:09.000Z",
        "datacontenttype": "application/json",
        "sequence": 3,
        "data": REVERSAL.as_json(history=False),
    }


@pytest.mark.parametrize(
    ("reversal", "type_"),
    [
        *[(replace(REVERSAL, status=it), f"reversal.{it}") for it in Status if it is not Status.INITIATING],
        *[(replace(REVERSAL, status=it, conflict=True), "reversal.conflict") for it in Status],
    ],
)
def test_the_type_tells_the_status_or_the_conflict(reversal: Reversal, type_: str) -> None:
    event = events.cloud_event(reversal)
    assert event["type"] == type_
    assert event["data"]["status"] == reversal.status


def test_the_same_state_has_the_same_id_whenever_it_is_told() -> None:
    told = [events.cloud_event(replace(REVERSAL, version=version)) for version in (3, 3, 4)]
    assert [event["id"] for event in told] == ["TQ2L262026:3", "TQ2L262026:3", "TQ2L262026:4"]
    assert told[0] == told[1]


def test_the_time_is_rfc_3339() -> None:
    time = events.cloud_event(REVERSAL)["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert parse_time(time).tzinfo
