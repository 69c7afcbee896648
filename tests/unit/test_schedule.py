"""When an open reversal is looked at next."""

from datetime import timedelta

import pytest
from reversals.model import Status
from reversals.schedule import SHARDS, Schedule, shard

from tests.conftest import START

SCHEDULE = Schedule(
    stale_after=timedelta(seconds=28), first_delay=timedelta(minutes=2), longest_delay=timedelta(hours=6)
)


@pytest.mark.parametrize(
    ("status", "polls", "after"),
    [
        (Status.INITIATING, 0, timedelta(seconds=28)),
        (Status.INITIATING, 9, timedelta(seconds=28)),
        (Status.PENDING, 0, timedelta(minutes=2)),
        (Status.UNKNOWN, 0, timedelta(minutes=2)),
        (Status.PENDING, 1, timedelta(minutes=4)),
        (Status.PENDING, 2, timedelta(minutes=8)),
        (Status.PENDING, 7, timedelta(minutes=256)),
        (Status.PENDING, 8, timedelta(hours=6)),
        (Status.PENDING, 10_000_000, timedelta(hours=6)),
    ],
)
def test_each_wait_is_twice_the_one_before_up_to_the_longest(status: Status, polls: int, after: timedelta) -> None:
    assert SCHEDULE.due(status, START, polls) == START + after


def test_the_first_wait_is_no_longer_than_the_longest() -> None:
    hasty = Schedule(SCHEDULE.stale_after, first_delay=timedelta(minutes=2), longest_delay=timedelta(seconds=1))
    assert hasty.due(Status.PENDING, START) == START + timedelta(seconds=1)


def test_what_was_never_asked_about_waits_the_first_delay() -> None:
    assert SCHEDULE.due(Status.PENDING, START) == START + timedelta(minutes=2)


def test_shards_are_known_and_all_used() -> None:
    assert {shard(f"TQ{number}") for number in range(100)} == {str(number) for number in range(SHARDS)}


def test_a_reversal_stays_in_its_shard() -> None:
    """A pinned value: another would lose what lies in the index already."""
    assert shard("TQ2L262026") == "2"
