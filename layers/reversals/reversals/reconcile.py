"""Asking Kopo Kopo about open reversals that we heard nothing of. It never sends a POST, and fails nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from .clock import Clock
from .errors import (
    InvalidRequestError,
    NotSentError,
    OutcomeUnknownError,
    ReversalNotFoundError,
    ReversalsError,
    TokenRefusedError,
    UnboundResultError,
)
from .kopokopo import KopoKopo
from .model import OPEN, Source, Status, parse_time
from .observability import logger, measure_seconds
from .rules import Evidence, Fact
from .schedule import SHARDS
from .store import DueReversal, Store
from .tokens import AccessTokens

# Seconds that a look takes beyond the call to Kopo Kopo.
_TIME_TO_RECORD = 7.0

# An API that does not answer is not going to: the rest is for the next run.
_UNANSWERED_IN_A_ROW = 3


@dataclass
class Summary:
    """What one run did."""

    looked_at: int = 0
    changed: int = 0
    unanswered: int = 0
    finished: bool = True


class Reconciliation:
    """Takes what is due, asks, and applies the same rules as everywhere.

    Two runs at once do no harm: each writes on the condition that the other has not.

    Args:
        store: The reversals.
        kopokopo: The API.
        tokens: Its access tokens.
        clock: The time.
    """

    def __init__(self, store: Store, kopokopo: KopoKopo, tokens: AccessTokens, clock: Clock) -> None:
        self._store = store
        self._kopokopo = kopokopo
        self._tokens = tokens
        self._clock = clock

    def run(self, seconds_left: Callable[[], float]) -> Summary:
        """Look at everything that is due, or as much of it as there is time for; the next run goes on.

        Args:
            seconds_left: How much longer this function may run.
        """
        summary = Summary()
        in_a_row = 0
        for due in self._due():
            if seconds_left() < self._kopokopo.timeout + _TIME_TO_RECORD or in_a_row >= _UNANSWERED_IN_A_ROW:
                summary.finished = False
                break
            summary.looked_at += 1
            try:
                summary.changed += self._look_at(due)
                in_a_row = 0
            except (NotSentError, OutcomeUnknownError, TokenRefusedError) as error:
                in_a_row += 1
                summary.unanswered += 1
                self._log(due, error)
                self._store.postpone(due)  # or it would stand in the way of the others at the next run, too
        self._measure_ages()
        return summary

    def _measure_ages(self) -> None:
        """How long the oldest has been open, and the oldest unknown: what alarms go by."""
        now = self._clock.now()
        oldest = {status: self._store.oldest(status) for status in sorted(OPEN)}
        claims = [reversal.claimed_at for reversals in oldest.values() for reversal in reversals]
        unknowns = [reversal.updated_at for reversal in oldest[Status.UNKNOWN]]
        for name, times in (("OldestOpen", claims), ("OldestUnknown", unknowns)):
            measure_seconds(name, max(0.0, (now - parse_time(min(times))).total_seconds()) if times else 0.0)

    def _due(self) -> Iterator[DueReversal]:
        """All shards, each run beginning with another one, so that none is always the last."""
        now = self._clock.now()
        first = int(now.timestamp() // 60)
        for offset in range(SHARDS):
            yield from self._store.due(str((first + offset) % SHARDS), now)

    def _look_at(self, due: DueReversal) -> bool:
        """Returns whether the reversal changed; if not, it is looked at again later."""
        changed = False
        try:
            if evidence := self._evidence(due):
                reversal, changed = self._store.record(due.transaction_reference, evidence)
                about = {"correlation_id": due.transaction_reference, "status": str(reversal.status)}
                logger.info("Asked", extra={**about, "fact": str(evidence.fact), "changed": changed})
        except (ReversalNotFoundError, InvalidRequestError, UnboundResultError) as error:
            self._log(due, error)
        if not changed:
            self._store.postpone(due)
        return changed

    def _evidence(self, due: DueReversal) -> Evidence | None:
        if due.status is Status.INITIATING:
            return Evidence(Fact.STALE, Source.POLL, due.attempt)
        if due.kopokopo_id is None:
            return None  # nothing to ask by: its result, a webhook or an operator has to tell
        return replace(self._ask(due.kopokopo_id), attempt=due.attempt)

    def _ask(self, kopokopo_id: str) -> Evidence:
        token = self._tokens.get()
        try:
            return self._kopokopo.outcome(kopokopo_id, token)
        except TokenRefusedError:
            return self._kopokopo.outcome(kopokopo_id, self._tokens.replace(refused=token))

    def _log(self, due: DueReversal, error: ReversalsError) -> None:
        logger.warning(str(error), extra={"correlation_id": due.transaction_reference})
