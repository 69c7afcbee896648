"""Telling the topic what the table's stream says, so that what is stored is what is told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import events, store
from .archive import Archive
from .errors import StorageError
from .listing import Position, position
from .model import Status, parse_time
from .observability import count, logger, measure_seconds
from .store import Store
from .topic import Topic

_PAGE = 100  # reversals
_TIME_FOR_A_PAGE = 10.0  # seconds


@dataclass(frozen=True)
class Republished:
    """What a part of a republication did; with a cursor, there is more."""

    published: int
    failed: int
    cursor: str | None


class Publication:
    """Publishes events.

    Args:
        topic: Where to.
        archive: Keeps what can never be published, so that nothing waits behind it.
    """

    def __init__(self, topic: Topic, archive: Archive) -> None:
        self._topic = topic
        self._archive = archive

    def publish(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        """Publish what a batch of stream records tells.

        Returns:
            The sequence numbers of the records that have to come again.
        """
        again: list[str] = []
        news: list[tuple[Mapping[str, Any], dict[str, Any]]] = []
        for record in records:
            try:
                change = store.from_stream(record)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                again += self._give_up(record, f"it cannot be read ({type(error).__name__})")
                continue
            if events.is_news(change.before, change.after):
                news.append((record, events.cloud_event(change.after)))
        failed = self._topic.publish([event for _, event in news])
        for index, (record, event) in enumerate(news):
            about = {"correlation_id": event["subject"], "id": event["id"], "type": event["type"]}
            if index not in failed:
                _measure(event["data"])
                logger.info("Published", extra=about)
            elif failed[index]:
                again += self._give_up(record, "the topic will not take it")
            else:
                count("PublishFailures")
                logger.warning("Not published; it comes again", extra=about)
                again.append(_sequence_number(record))
        return again

    def _give_up(self, record: Mapping[str, Any], why: str) -> list[str]:
        """Keep a record that can never be published; if not even that works, it comes again."""
        count("Unpublishable")
        logger.error(f"A record can never be published: {why}", extra={"sequence_number": _sequence_number(record)})
        try:
            self._archive.keep(record)
        except StorageError as error:
            logger.error(str(error))
            return [_sequence_number(record)]
        return []


def republish(
    reversals: Store, topic: Topic, updated_since: datetime, cursor: str | None, seconds_left: Callable[[], float]
) -> Republished:
    """Tell again how the reversals stand that were changed since: for what the stream has lost after its 24 hours.

    The events have the ids that they had, so that subscribers can drop what they have seen.

    Args:
        reversals: The table.
        topic: Where to.
        updated_since: Leave out what has not changed since.
        cursor: The one that the part before returned.
        seconds_left: How much longer this function may run.
    """
    after: Position | None = position(cursor, None) if cursor else None
    published = failed = 0
    while True:
        page, after = reversals.page(None, _PAGE, after)
        told = [
            events.cloud_event(reversal)
            for reversal in page
            if reversal.status is not Status.INITIATING and parse_time(reversal.updated_at) >= updated_since
        ]
        not_taken = len(topic.publish(told))
        published += len(told) - not_taken
        failed += not_taken
        if after is None or seconds_left() < _TIME_FOR_A_PAGE:
            return Republished(published, failed, after.cursor() if after else None)


def _measure(reversal: Mapping[str, Any]) -> None:
    """Every change passes here, whoever made it; one that comes twice counts twice."""
    match reversal:
        case {"conflict": True}:
            count("Conflicts")
        case {"status": Status.REVERSED}:
            count("Reversed")
        case {"status": Status.FAILED, "failure": {"code": code}}:
            count("Failed", reason=code)
        case {"status": Status.UNKNOWN}:
            count("Unknown")
    if reversal["resolved_at"]:
        took = parse_time(reversal["resolved_at"]) - parse_time(reversal["created_at"])
        measure_seconds("TimeToResult", took.total_seconds())


def _sequence_number(record: Mapping[str, Any]) -> str:
    return str(record["dynamodb"]["SequenceNumber"])
