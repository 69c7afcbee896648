"""What a lock for the whole fleet has to do."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True)
class Hold:
    """A lease that is held.

    Attributes:
        fence: A number that rises with every holder, so that one who was late cannot undo what a later one did.
        written_at: When the latest token that was written under the lease was issued.
    """

    fence: int
    written_at: datetime | None


class Lease(Protocol):
    """A lock for the whole fleet that ends by itself."""

    def acquire(self, now: datetime, duration: timedelta) -> Hold | None:
        """Take it, or None if another holds it."""

    def confirm(self, hold: Hold, now: datetime, duration: timedelta) -> bool:
        """Hold on to it; False if a later holder has it."""

    def release(self, hold: Hold, written_at: datetime | None) -> None:
        """Let it go, and leave word of the token that was written."""
