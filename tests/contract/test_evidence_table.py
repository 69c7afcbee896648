"""The table of evidence, stated here once more as data: what each fact does to a reversal in each status."""

from dataclasses import replace
from itertools import product

import pytest
from reversals import rules
from reversals.errors import ReversalConflictError
from reversals.model import OPEN, Reversal, Source, Status
from reversals.rules import Evidence, Fact

from tests.conftest import START

# From any status on the left to the one on the right; and the code of the failure.
STATED = {
    Fact.ACCEPTED: ({"initiating", "unknown"}, "pending", None),
    Fact.NOT_SENT: ({"initiating"}, "failed", "not_sent"),
    Fact.REJECTED: ({"initiating"}, "failed", "rejected"),
    Fact.AMBIGUOUS: ({"initiating"}, "unknown", None),
    Fact.RUNNING: ({"initiating"}, "unknown", None),
    Fact.STALE: ({"initiating"}, "unknown", None),
    Fact.TRANSFERRED: ({"initiating", "pending", "unknown"}, "reversed", None),
    Fact.CANCELLED: ({"initiating", "pending", "unknown"}, "failed", "cancelled"),
    Fact.RESOLVED_REVERSED: ({"unknown"}, "reversed", None),
    Fact.RESOLVED_FAILED: ({"unknown"}, "failed", "resolved"),
}

# What a reversal can look like, and who brings which fact.
STANDING = {
    "initiating": (Status.INITIATING, None),
    "pending": (Status.PENDING, None),
    "unknown": (Status.UNKNOWN, None),
    "reversed": (Status.REVERSED, None),
    "not sent": (Status.FAILED, "not_sent"),
    "rejected": (Status.FAILED, "rejected"),
    "cancelled": (Status.FAILED, "cancelled"),
    "resolved as failed": (Status.FAILED, "resolved"),
}
SOURCE = {
    Fact.TRANSFERRED: Source.CALLBACK,
    Fact.CANCELLED: Source.CALLBACK,
    Fact.RESOLVED_REVERSED: Source.OPERATOR,
    Fact.RESOLVED_FAILED: Source.OPERATOR,
}

# What comes out: a status; nothing (.); a conflict (!); or a refusal of the operator (x).
OUTCOMES = """
                    initiating  pending  unknown   reversed  not_sent  rejected  cancelled  resolved
accepted            pending     .        pending   .         !         !         .          !
not_sent            failed      .        .         .         .         .         .          .
rejected            failed      .        .         .         .         .         .          .
ambiguous           unknown     .        .         .         .         .         .          .
running             unknown     .        .         .         .         .         .          .
stale               unknown     .        .         .         .         .         .          .
transferred         reversed    reversed reversed  .         !         !         !          !
cancelled           failed      failed   failed    !         .         .         .          .
resolved_reversed   x           x        reversed  x         x         x         x          x
resolved_failed     x           x        failed    x         x         x         x          x
"""
EXPECTED = {
    (Fact(fact), standing): outcome
    for fact, *outcomes in map(str.split, OUTCOMES.strip().splitlines()[1:])
    for standing, outcome in zip(STANDING, outcomes, strict=True)
}


def standing_as(name: str, *, conflict: bool = False) -> Reversal:
    status, code = STANDING[name]
    at = "2026-05-01T06:00:00.000Z"
    return Reversal(
        transaction_reference="TQ2L262026",
        status=status,
        attempt=1,
        version=3,
        created_at=at,
        claimed_at=at,
        updated_at=at,
        failure={"code": code, "message": "..."} if code else None,
        resolved_at=None if status in OPEN else at,
        conflict=conflict,
    )


def evidence(fact: Fact) -> Evidence:
    source = SOURCE.get(fact, Source.API)
    return Evidence(fact, source, attempt=None if source is Source.OPERATOR else 1)


def test_the_table_has_exactly_the_stated_rows() -> None:
    assert {fact: (set(row.before), row.after, row.failure) for fact, row in rules.TABLE.items()} == STATED


def test_every_fact_meets_every_standing() -> None:
    assert set(EXPECTED) == set(product(Fact, STANDING))


@pytest.mark.parametrize(("fact", "standing"), EXPECTED)
def test_fact_meets_standing(fact: Fact, standing: str) -> None:
    expected = EXPECTED[fact, standing]
    if expected == "x":
        with pytest.raises(ReversalConflictError):
            rules.decide(standing_as(standing), evidence(fact), START)
        return
    change = rules.decide(standing_as(standing), evidence(fact), START)
    if expected == ".":
        assert change is None
    elif expected == "!":
        assert change is not None
        assert change.values["conflict"] is True
        assert "status" not in change.values
        assert change.entry["conflict"] is True
    else:
        assert change is not None
        assert change.values["status"] == expected
        assert (change.values["failure"] or {}).get("code") == STATED[fact][2]
        assert (change.values["resolved_at"] is None) == (expected in OPEN)
        assert change.values.get("conflict", False) is False
        assert change.entry["status"] == expected


@pytest.mark.parametrize(("fact", "standing"), EXPECTED)
def test_only_an_operator_ends_a_conflict(fact: Fact, standing: str) -> None:
    change = rules.decide(standing_as(standing, conflict=True), evidence(fact), START)
    if SOURCE.get(fact) is Source.OPERATOR:
        assert change is not None
        assert change.values["conflict"] is False
        assert change.values["status"] == STATED[fact][1]
    elif change is not None:
        assert change.values.get("conflict", True) is True
        assert Status(STANDING[standing][0]) in OPEN or "status" not in change.values


@pytest.mark.parametrize(("fact", "standing"), EXPECTED)
def test_a_final_status_never_changes_by_itself(fact: Fact, standing: str) -> None:
    current = standing_as(standing)
    if current.status in OPEN or SOURCE.get(fact) is Source.OPERATOR:
        return
    for about in (1, 2, None):
        change = rules.decide(current, replace(evidence(fact), attempt=about), START)
        assert change is None or "status" not in change.values


# What evidence of another attempt than the current one does: history, a conflict, or nothing.
OTHER_ATTEMPT = dict.fromkeys(Fact, "nothing") | {
    Fact.ACCEPTED: "history",
    Fact.CANCELLED: "history",
    Fact.TRANSFERRED: "conflict",
}


@pytest.mark.parametrize("standing", STANDING)
@pytest.mark.parametrize("attempt", [1, 3])
@pytest.mark.parametrize("fact", Fact)
def test_evidence_of_another_attempt_changes_no_status(fact: Fact, attempt: int, standing: str) -> None:
    current = replace(standing_as(standing), attempt=2)
    change = rules.decide(current, replace(evidence(fact), attempt=attempt), START)
    if OTHER_ATTEMPT[fact] == "nothing":
        assert change is None
        return
    assert change is not None
    assert set(change.values) == {"updated_at"} | ({"conflict"} if OTHER_ATTEMPT[fact] == "conflict" else set())
    assert change.entry["attempt"] == attempt
    assert change.entry["status"] == rules.TABLE[fact].after
