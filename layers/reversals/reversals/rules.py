"""Which evidence changes a reversal to what. Pure: no clock, no network, no AWS.

`TABLE` is the heart. The functions below say what happens where it has no row: a final status never changes by itself,
so evidence against one raises a conflict for an operator, and evidence that is known already changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from .errors import ReversalConflictError, UnboundResultError
from .model import OPEN, Reversal, ReversalRequest, Source, Status, format_time


class Fact(StrEnum):
    """What a piece of evidence says."""

    ACCEPTED = "accepted"  # Kopo Kopo has it under an id, and has not decided
    NOT_SENT = "not_sent"  # refused before it was sent, or answered with 401 or 429
    REJECTED = "rejected"  # a 4xx that says no
    AMBIGUOUS = "ambiguous"  # anything else after sending
    RUNNING = "running"  # 400 "... in Pending Reversal": someone's reversal of it is running
    STALE = "stale"  # the function that claimed it cannot be alive any more
    TRANSFERRED = "transferred"  # the money went back
    CANCELLED = "cancelled"  # the money did not go back
    RESOLVED_REVERSED = "resolved_reversed"  # an operator found that it went back
    RESOLVED_FAILED = "resolved_failed"  # an operator found that it did not


@dataclass(frozen=True)
class Row:
    """From any status in `before` to `after`; `failure` is the code that a failed reversal then carries."""

    before: frozenset[Status]
    after: Status
    failure: str | None = None


TABLE: Mapping[Fact, Row] = {
    Fact.ACCEPTED: Row(frozenset({Status.INITIATING, Status.UNKNOWN}), Status.PENDING),
    Fact.NOT_SENT: Row(frozenset({Status.INITIATING}), Status.FAILED, "not_sent"),
    Fact.REJECTED: Row(frozenset({Status.INITIATING}), Status.FAILED, "rejected"),
    Fact.AMBIGUOUS: Row(frozenset({Status.INITIATING}), Status.UNKNOWN),
    Fact.RUNNING: Row(frozenset({Status.INITIATING}), Status.UNKNOWN),
    Fact.STALE: Row(frozenset({Status.INITIATING}), Status.UNKNOWN),
    Fact.TRANSFERRED: Row(OPEN, Status.REVERSED),
    Fact.CANCELLED: Row(OPEN, Status.FAILED, "cancelled"),
    Fact.RESOLVED_REVERSED: Row(frozenset({Status.UNKNOWN}), Status.REVERSED),
    Fact.RESOLVED_FAILED: Row(frozenset({Status.UNKNOWN}), Status.FAILED, "resolved"),
}

# What a result from Kopo Kopo can say.
_RESULTS = frozenset({Fact.ACCEPTED, Fact.TRANSFERRED, Fact.CANCELLED})

RESOLUTIONS = {Status.REVERSED: Fact.RESOLVED_REVERSED, Status.FAILED: Fact.RESOLVED_FAILED}


@dataclass(frozen=True)
class Evidence:
    """A fact about one reversal, and what came with it.

    Attributes:
        fact: What it says.
        source: Who brought it.
        attempt: The attempt that it speaks of; None where the sender knows of none (webhooks, operators).
        kopokopo_id: Kopo Kopo's id of the reversal, checked to be safe in a path.
        amount: KES.
        reversal_reference: The reference of the money's way back.
        message: Kopo Kopo's words, or ours where it had none.
        by: The ARN of the operator.
        note: The operator's note.
    """

    fact: Fact
    source: Source
    attempt: int | None = None
    kopokopo_id: str | None = None
    amount: Decimal | None = None
    reversal_reference: str | None = None
    message: str | None = None
    by: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Change:
    """What one write sets (None removes an attribute), and the history entry that it appends."""

    values: Mapping[str, Any]
    entry: Mapping[str, Any]


def claim(request: ReversalRequest, attempt_id: str, now: datetime) -> Reversal:
    """The first attempt at a transaction that nobody has tried to reverse."""
    at = format_time(now)
    return Reversal(
        transaction_reference=request.transaction_reference,
        status=Status.INITIATING,
        attempt=1,
        version=1,
        created_at=at,
        claimed_at=at,
        updated_at=at,
        attempt_id=attempt_id,
        reason=request.reason,
        metadata=request.metadata,
        idempotency_key=request.idempotency_key,
    )


def claim_again(existing: Reversal, request: ReversalRequest, attempt_id: str, now: datetime) -> Change | None:
    """What a request for a transaction that has a reversal leads to.

    Returns:
        The next attempt's claim; None if it is the same request again, for which nothing is sent.

    Raises:
        ReversalConflictError: another reason or metadata than the reversal that there is, or it is in conflict.
    """
    if existing.conflict:
        raise ReversalConflictError(
            "The evidence on this reversal disagrees: an operator has to resolve it before anything else.", existing
        )
    same_key = request.idempotency_key is not None and request.idempotency_key == existing.idempotency_key
    if existing.status is Status.FAILED and not same_key:
        attempt, at = existing.attempt + 1, format_time(now)
        return Change(
            values={
                "status": Status.INITIATING,
                "attempt": attempt,
                "attempt_id": attempt_id,
                "reason": request.reason,
                "metadata": request.metadata,
                "idempotency_key": request.idempotency_key,
                "claimed_at": at,
                "updated_at": at,
                **dict.fromkeys(("kopokopo_id", "amount", "reversal_reference", "failure", "resolved_at")),
            },
            entry={"at": at, "attempt": attempt, "status": Status.INITIATING, "source": Source.API},
        )
    if (existing.reason, existing.metadata) != (request.reason, request.metadata):
        raise ReversalConflictError(
            "This Idempotency-Key was used with another reason or metadata: use a new key."
            if existing.status is Status.FAILED
            else "This transaction is already being or has been reversed, with another reason or metadata.",
            existing,
        )
    return None


def expected(evidence: Evidence, attempt: int, now: datetime) -> Change:
    """The change if the reversal stands as `TABLE` expects it: it can be written without reading first."""
    row = TABLE[evidence.fact]
    at = format_time(now)
    values: dict[str, Any] = {
        "status": row.after,
        "updated_at": at,
        "resolved_at": None if row.after in OPEN else at,
        "failure": None if row.failure is None else _failure(row.failure, evidence),
        **_details(evidence),
    }
    return Change(values, _entry(evidence, attempt, row.after, at))


def create(transaction_reference: str, evidence: Evidence, now: datetime) -> Reversal:
    """A reversal that we knew nothing of until Kopo Kopo signed something about it."""
    at, attempt = format_time(now), evidence.attempt or 1
    change = expected(evidence, attempt, now)
    return Reversal(
        transaction_reference=transaction_reference,
        attempt=attempt,
        version=1,
        created_at=at,
        claimed_at=at,
        history=(change.entry,),
        **change.values,
    )


def decide(current: Reversal, evidence: Evidence, now: datetime) -> Change | None:
    """What this evidence changes about this reversal.

    Returns:
        The one change to write, or None: it is known already, or says nothing that counts.

    Raises:
        UnboundResultError: it carries another id than the one that Kopo Kopo gave this attempt.
        ReversalConflictError: an operator's resolution of what is not to be resolved.
    """
    if evidence.attempt is not None and evidence.attempt != current.attempt:
        return _about_another_attempt(current, evidence, now)
    if evidence.kopokopo_id and current.kopokopo_id and evidence.kopokopo_id != current.kopokopo_id:
        if evidence.source is Source.API:
            return None if _is_recorded(current, evidence) else _conflict(current, evidence, now)
        raise UnboundResultError("The signed result carries the id of another reversal.")
    if evidence.source is Source.OPERATOR:
        return _resolve(current, evidence, now)
    if current.status in TABLE[evidence.fact].before:
        return expected(evidence, current.attempt, now)
    if _is_recorded(current, evidence):
        return None
    if current.status not in OPEN and _contradicts(current, evidence):
        return _conflict(current, evidence, now)
    return _enrich(current, evidence, now)


def _resolve(current: Reversal, evidence: Evidence, now: datetime) -> Change | None:
    last = current.history[-1] if current.history else {}
    if (last.get("evidence"), last.get("by"), last.get("note")) == (evidence.fact, evidence.by, evidence.note):
        return None  # the same resolution again, or our own whose reply was lost
    if not current.conflict and current.status not in TABLE[evidence.fact].before:
        raise ReversalConflictError(
            f"Only a reversal that is unknown or in conflict can be resolved; this one is {current.status}.", current
        )
    change = expected(evidence, current.attempt, now)
    return Change({**change.values, "conflict": False}, change.entry)


def _about_another_attempt(current: Reversal, evidence: Evidence, now: datetime) -> Change | None:
    if evidence.fact not in _RESULTS or _is_recorded(current, evidence):
        return None
    if evidence.fact is Fact.TRANSFERRED:
        return _conflict(current, evidence, now)
    at = format_time(now)
    attempt = evidence.attempt or current.attempt
    return Change({"updated_at": at}, _entry(evidence, attempt, TABLE[evidence.fact].after, at))


def _contradicts(current: Reversal, evidence: Evidence) -> bool:
    """Whether evidence speaks against a final status."""
    if current.status is Status.REVERSED:
        return evidence.fact is Fact.CANCELLED
    if evidence.fact is Fact.ACCEPTED:
        # Late news of what is cancelled by now; but what was never sent, or refused, cannot be running.
        return (current.failure or {}).get("code") != TABLE[Fact.CANCELLED].failure
    return evidence.fact is Fact.TRANSFERRED


def _conflict(current: Reversal, evidence: Evidence, now: datetime) -> Change:
    at = format_time(now)
    entry = _entry(evidence, evidence.attempt or current.attempt, TABLE[evidence.fact].after, at)
    return Change({"conflict": True, "updated_at": at}, {**entry, "conflict": True})


def _enrich(current: Reversal, evidence: Evidence, now: datetime) -> Change | None:
    """Evidence that changes no status may still tell what was not known: an id, an amount, a reference."""
    news = {name: value for name, value in _details(evidence).items() if getattr(current, name) is None}
    if not news:
        return None
    at = format_time(now)
    return Change({**news, "updated_at": at}, _entry(evidence, current.attempt, current.status, at))


def _is_recorded(current: Reversal, evidence: Evidence) -> bool:
    """Whether the history holds just this, whoever brought it."""
    attempt = evidence.attempt or current.attempt
    return any(
        (entry["attempt"], entry.get("evidence"), entry.get("kopokopo_id"))
        == (attempt, evidence.fact, evidence.kopokopo_id)
        for entry in current.history
    )


def _details(evidence: Evidence) -> dict[str, Any]:
    known = {
        "kopokopo_id": evidence.kopokopo_id,
        "amount": evidence.amount,
        "reversal_reference": evidence.reversal_reference,
    }
    return {name: value for name, value in known.items() if value is not None}


def _entry(evidence: Evidence, attempt: int, status: Status, at: str) -> dict[str, Any]:
    entry = {
        "at": at,
        "attempt": attempt,
        "status": status,
        "source": evidence.source,
        "evidence": evidence.fact,
        "kopokopo_id": evidence.kopokopo_id,
        "message": evidence.message,
        "by": evidence.by,
        "note": evidence.note,
    }
    return {name: value for name, value in entry.items() if value is not None}


def _failure(code: str, evidence: Evidence) -> dict[str, str]:
    return {"code": code, "message": evidence.message or evidence.note or _MESSAGES.get(code, code)}


_MESSAGES = {
    "not_sent": "It was not sent to Kopo Kopo. It is safe to try again.",
    "rejected": "Kopo Kopo refused it.",
    "cancelled": "Kopo Kopo cancelled it: the money did not go back.",
}
