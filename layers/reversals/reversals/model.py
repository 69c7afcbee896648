"""What a reversal is. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

CURRENCY = "KES"


class Status(StrEnum):
    """How a reversal stands."""

    INITIATING = "initiating"  # claimed; the POST may be under way
    PENDING = "pending"  # Kopo Kopo accepted it and has not decided
    UNKNOWN = "unknown"  # it was sent, and we cannot know whether it was accepted
    REVERSED = "reversed"  # the money went back
    FAILED = "failed"  # evidence says that it did not


OPEN = frozenset({Status.INITIATING, Status.PENDING, Status.UNKNOWN})


class Source(StrEnum):
    """Who brought a piece of evidence."""

    API = "api"  # Kopo Kopo's answer to our POST
    CALLBACK = "callback"
    WEBHOOK = "webhook"
    POLL = "poll"
    OPERATOR = "operator"


@dataclass(frozen=True)
class ReversalRequest:
    """What a merchant asks for."""

    transaction_reference: str
    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Reversal:
    """One transaction's reversal, as the table holds it. Times are RFC 3339 in UTC.

    Attributes:
        attempt_id: Random; by it a function knows its own claim again.
        version: Raised by one with every change; the `sequence` of the events.
        claimed_at: When the latest attempt was claimed.
        amount: KES; known once Kopo Kopo has told it.
        reversal_reference: The reference of the money's way back.
        failure: `{"code", "message"}` of a failed reversal.
        conflict: Evidence against the final status is in the history and waits for an operator.
        resolved_at: When it became final.
        history: One entry per change, oldest first.
    """

    transaction_reference: str
    status: Status
    attempt: int
    version: int
    created_at: str
    claimed_at: str
    updated_at: str
    attempt_id: str | None = None
    reason: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    kopokopo_id: str | None = None
    amount: Decimal | None = None
    reversal_reference: str | None = None
    failure: Mapping[str, str] | None = None
    conflict: bool = False
    resolved_at: str | None = None
    history: tuple[Mapping[str, Any], ...] = ()

    def as_read(self, now: datetime, stale_after: timedelta) -> "Reversal":
        """The reversal as a reader should see it: `unknown` once nobody can be initiating it any more.

        Args:
            now: The reader's time.
            stale_after: The timeout of the function that claims.
        """
        if self.status is Status.INITIATING and now - parse_time(self.claimed_at) > stale_after:
            return replace(self, status=Status.UNKNOWN)
        return self

    def as_json(self, *, history: bool = True) -> dict[str, Any]:
        """The reversal as the HTTP API and the events show it."""
        shown: dict[str, Any] = {
            "transaction_reference": self.transaction_reference,
            "status": str(self.status),
            "attempt": self.attempt,
            "version": self.version,
            "reason": self.reason,
            "metadata": dict(self.metadata),
            "amount": None if self.amount is None else f"{self.amount:f}",
            "currency": CURRENCY,
            "reversal_reference": self.reversal_reference,
            "kopokopo_id": self.kopokopo_id,
            "failure": None if self.failure is None else dict(self.failure),
            "conflict": self.conflict,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "resolved_at": self.resolved_at,
        }
        if history:
            shown["history"] = [dict(entry) for entry in self.history]
        return shown


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: always as long, so that text sorts as time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text)
