"""When an open reversal is next looked at, and how long a final one is kept. Pure."""

import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from .model import Status

SHARDS = 4


def shard(transaction_reference: str) -> str:
    """Where in the index of what is due a reversal lies; spread, so that no one partition takes every write."""
    return str(zlib.crc32(transaction_reference.encode()) % SHARDS)


@dataclass(frozen=True)
class Schedule:
    """How long an open reversal is left alone.

    Attributes:
        stale_after: The timeout of the function that claims: a claim older than that is nobody's any more.
        first_delay: Until Kopo Kopo is first asked.
        longest_delay: Between two questions in the end; each wait is twice the one before.
        retention: How long a final reversal is kept; None is for ever.
    """

    stale_after: timedelta
    first_delay: timedelta
    longest_delay: timedelta
    retention: timedelta | None = None

    def due(self, status: Status, now: datetime, polls: int = 0) -> datetime:
        """When to look at it next.

        Args:
            status: An open one.
            now: The moment of the change, or of the last look.
            polls: How often Kopo Kopo was asked about it so far.
        """
        if status is Status.INITIATING:
            return now + self.stale_after
        return now + min(self.first_delay * (1 << min(polls, 20)), self.longest_delay)
