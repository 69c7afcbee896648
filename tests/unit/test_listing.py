"""What `GET /reversals` takes."""

import base64
import json

import pytest
from reversals import listing
from reversals.errors import InvalidRequestError
from reversals.listing import Position, Query
from reversals.model import Status

POSITION = Position("pending", "2026-05-01T07:00:00.000Z", "TQ2L262026")


@pytest.mark.parametrize(
    ("parameters", "query"),
    [
        ({}, Query(None, 50, None)),
        *[({"status": str(status)}, Query(status, 50, None)) for status in Status],
        ({"limit": "1"}, Query(None, 1, None)),
        ({"limit": "100"}, Query(None, 100, None)),
        ({"status": "pending", "cursor": POSITION.cursor()}, Query(Status.PENDING, 50, POSITION)),
    ],
)
def test_a_query(parameters: dict[str, str], query: Query) -> None:
    assert listing.query(parameters) == query


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        *[({"status": status}, ["status"]) for status in ("", "done", "Pending", "pending,failed", "pending ")],
        *[({"limit": limit}, ["limit"]) for limit in ("", "0", "101", "-1", "1.5", "ten", "\u0661", "9" * 5000, " 5")],
        ({"colour": "red"}, ["colour"]),
        ({"status": "done", "limit": "0", "page": "2"}, ["limit", "page", "status"]),
        *[({"cursor": cursor}, ["cursor"]) for cursor in ("", "x", "AAAA", "!" * 40, "\u00e9", "A" * 10_000)],
    ],
)
def test_what_cannot_be_used_is_named(parameters: dict[str, str], fields: list[str]) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        listing.query(parameters)
    assert sorted(error["field"] for error in raised.value.errors) == fields


@pytest.mark.parametrize("status", ["pending", None])
def test_a_cursor_is_read_back(status: str | None) -> None:
    position = Position(status, POSITION.created_at, POSITION.transaction_reference)
    assert listing.position(position.cursor(), status) == position


def test_a_cursor_needs_no_escaping_in_a_url() -> None:
    for number in range(100):
        cursor = Position(None, POSITION.created_at, f"TQ{number}").cursor()
        assert cursor.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("status", ["failed", None])
def test_a_cursor_belongs_to_its_list(status: str | None) -> None:
    with pytest.raises(InvalidRequestError, match="another status"):
        listing.position(POSITION.cursor(), status)


def test_a_cursor_that_was_changed_is_refused() -> None:
    cursor = POSITION.cursor()
    for place in range(len(cursor)):
        changed = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        if base64.urlsafe_b64decode(changed + "==") != base64.urlsafe_b64decode(cursor + "=="):
            with pytest.raises(InvalidRequestError):
                listing.position(changed, "pending")


def test_a_cursor_without_its_checksum_is_refused() -> None:
    content = json.dumps(["pending", POSITION.created_at, POSITION.transaction_reference]).encode()
    with pytest.raises(InvalidRequestError):
        listing.position(base64.urlsafe_b64encode(content).decode(), "pending")
