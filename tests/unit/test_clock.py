"""The machine's own clock, which every other test replaces."""

import time
from datetime import UTC, datetime, timedelta

from reversals.clock import SystemClock


def test_the_time_is_now_and_says_that_it_is_utc() -> None:
    before = datetime.now(UTC)
    now = SystemClock().now()
    assert before <= now <= datetime.now(UTC)
    assert now.utcoffset() == timedelta(0)


def test_sleeping_lets_at_least_that_much_time_pass() -> None:
    begin = time.monotonic()
    SystemClock().sleep(0.01)
    assert time.monotonic() - begin >= 0.01
