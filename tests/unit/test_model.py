"""How a reversal reads, and how it is shown."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from reversals.model import OPEN, Reversal, ReversalRequest, Source, Status, format_time, parse_time

from tests.conftest import START

REVERSAL = Reversal(
    transaction_reference="TQ2L262026",
    status=Status.REVERSED,
    attempt=1,
    version=3,
    created_at="2026-05-01T07:00:00.000Z",
    claimed_at="2026-05-01T07:00:00.000Z",
    updated_at="2026-05-01T07:00:09.000Z",
    attempt_id="secret-of-the-house",
    reason="Erroneous payment",
    metadata={"ticket": "#1283833"},
    idempotency_key="key-1",
    kopokopo_id="67b1bb87-b89b-4366-93c9-a2bb6944ec99",
    amount=Decimal("400.0"),
    reversal_reference="RVTEST01",
    resolved_at="2026-05-01T07:00:09.000Z",
    history=({"at": "2026-05-01T07:00:09.000Z", "attempt": 1, "status": "reversed", "source": "callback"},),
)


def test_the_reversal_as_the_api_shows_it() -> None:
    assert REVERSAL.as_json() == {
        "transaction_reference": "TQ2L262026",
        "status": "reversed",
        "attempt": 1,
        "version": 3,
        "reason": "Erroneous payment",
        "metadata": {"ticket": "#1283833"},
        "amount": "400.0",
        "currency": "KES",
        "reversal_reference": "RVTEST01",
        "kopokopo_id": "67b1bb87-b89b-4366-93c9-a2bb6944ec99",
        "failure": None,
        "conflict": False,
        "created_at": "2026-05-01T07:00:00.000Z",
        "updated_at": "2026-05-01T07:00:09.000Z",
        "resolved_at": "2026-05-01T07:00:09.000Z",
        "history": [{"at": "2026-05-01T07:00:09.000Z", "attempt": 1, "status": "reversed", "source": "callback"}],
    }


def test_a_failure_is_shown_with_its_code_and_words() -> None:
    failure = {"code": "cancelled", "message": "Not enough money"}
    assert replace(REVERSAL, status=Status.FAILED, failure=failure).as_json()["failure"] == failure


def test_who_brought_the_evidence_is_shown_in_words_that_stay() -> None:
    assert {str(source) for source in Source} == {"api", "callback", "webhook", "poll", "operator"}


def test_nobody_has_to_give_metadata_or_a_key() -> None:
    request = ReversalRequest("TQ2L262026", "Paid twice")
    assert (request.metadata, request.idempotency_key) == ({}, None)


def test_what_kopo_kopo_alone_knows_of_has_neither_metadata_nor_a_key() -> None:
    at = REVERSAL.created_at
    reversal = Reversal("TQ2L262026", Status.PENDING, 1, 1, at, at, at)
    assert (reversal.metadata, reversal.idempotency_key) == ({}, None)


def test_events_and_lists_show_it_without_its_history() -> None:
    shown = REVERSAL.as_json()
    del shown["history"]
    assert REVERSAL.as_json(history=False) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (None, None),
        (Decimal("400.0"), "400.0"),
        (Decimal(400), "400"),
        (Decimal("4E+2"), "400"),
        (Decimal("0.50"), "0.50"),
        (Decimal("1E-6"), "0.000001"),
        (Decimal("123456789012.34"), "123456789012.34"),
    ],
)
def test_an_amount_is_shown_as_a_decimal_string(amount: Decimal | None, shown: str | None) -> None:
    assert replace(REVERSAL, amount=amount).as_json()["amount"] == shown


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize(("seconds", "stale"), [(0, False), (28, False), (28.001, True), (3600, True)])
def test_a_claim_that_nobody_can_be_making_any_more_reads_as_unknown(
    status: Status, seconds: float, stale: bool
) -> None:
    current = replace(REVERSAL, status=status, claimed_at=format_time(START))
    read = current.as_read(START + timedelta(seconds=seconds), stale_after=timedelta(seconds=28))
    expected = Status.UNKNOWN if stale and status is Status.INITIATING else status
    assert read == replace(current, status=expected)


def test_open_means_that_it_may_still_end_either_way() -> None:
    assert {Status.INITIATING, Status.PENDING, Status.UNKNOWN} == OPEN


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 5, 1, 7, tzinfo=UTC), "2026-05-01T07:00:00.000Z"),
        (datetime(2026, 5, 1, 10, tzinfo=timezone(timedelta(hours=3))), "2026-05-01T07:00:00.000Z"),
        (datetime(2026, 5, 1, 7, 0, 0, 123999, tzinfo=UTC), "2026-05-01T07:00:00.123Z"),
    ],
)
def test_times_are_written_in_utc_with_milliseconds(moment: datetime, text: str) -> None:
    assert format_time(moment) == text


@pytest.fixture
def nairobi(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "EAT-3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("nairobi")
def test_times_are_utc_wherever_the_machine_is() -> None:
    assert format_time(START) == "2026-05-01T07:00:00.000Z"


def test_times_sort_as_text() -> None:
    moments = [START + timedelta(milliseconds=step) for step in (0, 1, 10, 999, 1000, 61_000)]
    assert sorted(map(format_time, moments)) == list(map(format_time, moments))
    assert [parse_time(format_time(moment)) for moment in moments] == moments
