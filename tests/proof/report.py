"""How a proof tells what it does: progress while it runs, and one line of figures at its end."""

import sys
import time
from collections.abc import Mapping

_PROGRESS = 2.0  # seconds between two lines


class Report:
    """Counts what was tried and what was violated.

    Args:
        name: Of the proof, as make calls it.
        unit: What is tried, in the plural.
        total: How many there will be, where it is known; it may become known later.
    """

    def __init__(self, name: str, unit: str, total: int | None = None) -> None:
        self.tried = 0
        self.violations = 0
        self.total = total
        self._name, self._unit = name, unit
        self._begun = self._told = time.monotonic()

    def add(self, number: int = 1) -> None:
        """So many more were tried."""
        self.tried += number
        now = time.monotonic()
        if now - self._told >= _PROGRESS:
            self._told = now
            of = f" of {self.total:,}" if self.total else ""
            rate = self.tried / (now - self._begun)
            print(
                f"{self._name}: {self.tried:,}{of} {self._unit}, {rate:,.1f} a second, {self.violations} violations",
                file=sys.stderr,
                flush=True,
            )

    def violation(self, what: str, replay: str = "") -> None:
        """Something did not hold; `replay` is the command that shows it again."""
        self.violations += 1
        print(f"{self._name}: VIOLATION: {what}" + (f"\n    to see it again: {replay}" if replay else ""), flush=True)

    def close(self, more: Mapping[str, int] | None = None) -> int:
        """Print the line of figures; returns the exit status.

        Args:
            more: Other figures to tell, by their names.
        """
        took = max(time.monotonic() - self._begun, 0.001)
        figures = [f"{self.tried:,} {self._unit}", *(f"{value:,} {name}" for name, value in (more or {}).items())]
        figures += [f"{self.violations} violations", f"{took:,.0f} s ({self.tried / took:,.1f} a second)"]
        print(f"{self._name}: {', '.join(figures)}", flush=True)
        return 1 if self.violations or not self.tried else 0
