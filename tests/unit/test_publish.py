"""Telling the topic what the stream says."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from reversals.errors import StorageError
from reversals.model import Reversal, ReversalRequest, Source
from reversals.publish import Publication, Republished, republish
from reversals.rules import Evidence, Fact
from reversals.schedule import Schedule
from reversals.store import Store

from tests.conftest import START, Cloud, FakeClock, Output


class FakeTopic:
    """Takes everything but what is named, with whether it never will be."""

    def __init__(self) -> None:
        self.told: list[Mapping[str, Any]] = []
        self.failing: dict[str, bool] = {}

    def publish(self, events: Sequence[Mapping[str, Any]]) -> dict[int, bool]:
        failed = {n: self.failing[it["subject"]] for n, it in enumerate(events) if it["subject"] in self.failing}
        self.told += [event for n, event in enumerate(events) if n not in failed]
        return failed


class FakeArchive:
    def __init__(self) -> None:
        self.kept: list[Mapping[str, Any]] = []
        self.error: Exception | None = None

    def keep(self, record: Mapping[str, Any]) -> None:
        if self.error:
            raise self.error
        self.kept.append(record)


class Setting:
    def __init__(self) -> None:
        self.topic, self.archive = FakeTopic(), FakeArchive()
        self.publication = Publication(self.topic, self.archive)  # type: ignore[arg-type]

    @property
    def told(self) -> list[str]:
        return [f"{event['type']} {event['id']}" for event in self.topic.told]


@pytest.fixture
def setting(output: Output) -> Setting:
    return Setting()


def image(reference: str, status: str, version: int, **more: Any) -> dict[str, Any]:
    at = {"S": "2026-05-01T07:00:00.000Z"}
    return {
        "transaction_reference": {"S": reference},
        "status": {"S": status},
        "attempt": {"N": "1"},
        "version": {"N": str(version)},
        **dict.fromkeys(("created_at", "claimed_at", "updated_at"), at),
        "metadata": {"M": {}},
        "conflict": {"BOOL": False},
        "history": {"L": []},
        **more,
    }


def record(sequence: int, new: dict[str, Any], old: dict[str, Any] | None = None) -> dict[str, Any]:
    images = {"NewImage": new, **({"OldImage": old} if old else {})}
    return {"eventName": "MODIFY" if old else "INSERT", "dynamodb": {"SequenceNumber": str(sequence), **images}}


CANCELLED = {
    "failure": {"M": {"code": {"S": "cancelled"}, "message": {"S": "..."}}},
    "resolved_at": {"S": "2026-05-01T07:00:30.000Z"},
}


def ended(sequence: int, reference: str) -> dict[str, Any]:
    return record(sequence, image(reference, "reversed", 3), image(reference, "pending", 2))


def test_what_is_news_is_told_in_order(setting: Setting, output: Output) -> None:
    records = [
        record(1, image("TQ1", "initiating", 1)),
        record(2, image("TQ1", "pending", 2), image("TQ1", "initiating", 1)),
        record(3, image("TQ2", "reversed", 1)),
        record(7, image("TQ3", "unknown", 2), image("TQ3", "initiating", 1)),
        record(4, image("TQ1", "pending", 2, polls={"N": "1"}), image("TQ1", "pending", 2)),
        record(5, image("TQ1", "failed", 3, **CANCELLED), image("TQ1", "pending", 2)),
        record(6, image("TQ1", "failed", 4, **CANCELLED, conflict={"BOOL": True}), image("TQ1", "failed", 3)),
    ]
    assert setting.publication.publish(records) == []
    assert setting.told == [
        "reversal.pending TQ1:2",
        "reversal.reversed TQ2:1",
        "reversal.unknown TQ3:2",
        "reversal.failed TQ1:3",
        "reversal.conflict TQ1:4",
    ]
    told = {name: output.metric(name) for name in ("Reversed", "Failed", "Conflicts", "Unknown")}
    assert told == {"Reversed": 1, "Failed": 1, "Conflicts": 1, "Unknown": 1}


def test_the_log_tells_which_events_went_out_and_which_did_not(setting: Setting, output: Output) -> None:
    setting.topic.failing = {"TQ2": False}
    setting.publication.publish([ended(1, "TQ1"), ended(2, "TQ2"), record(3, BROKEN[0])])
    told = [(line["level"], line.get("id") or line.get("sequence_number")) for line in output.lines]
    assert sorted(told) == [("ERROR", "3"), ("INFO", "TQ1:3"), ("WARNING", "TQ2:3")]


def test_what_was_not_taken_comes_again(setting: Setting, output: Output) -> None:
    setting.topic.failing = {"TQ2": False, "TQ4": False}
    assert setting.publication.publish([ended(n, f"TQ{n}") for n in range(1, 6)]) == ["2", "4"]
    assert setting.archive.kept == []
    assert output.metric("PublishFailures") == 2


def test_what_will_never_be_taken_is_kept_and_does_not_come_again(setting: Setting, output: Output) -> None:
    setting.topic.failing = {"TQ2": True}
    records = [ended(n, f"TQ{n}") for n in range(1, 4)]
    assert setting.publication.publish(records) == []
    assert setting.archive.kept == [records[1]]
    assert output.metric("Unpublishable") == 1


BROKEN = [
    {"transaction_reference": {"S": "TQ1"}, "version": {"N": "1"}},
    image("TQ1", "never heard of", 1),
    image("TQ1", "pending", 1, amount={"S": "much"}),
    image("TQ1", "pending", 1, metadata={"X": "?"}),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_cannot_be_read_is_kept_and_holds_up_nothing(setting: Setting, broken: dict[str, Any]) -> None:
    records = [record(1, broken), ended(2, "TQ2")]
    assert setting.publication.publish(records) == []
    assert setting.told == ["reversal.reversed TQ2:3"]
    assert setting.archive.kept == [records[0]]


def test_what_cannot_even_be_kept_comes_again(setting: Setting) -> None:
    setting.archive.error = StorageError("S3 is down.")
    assert setting.publication.publish([record(1, BROKEN[0]), ended(2, "TQ2")]) == ["1"]
    assert setting.told == ["reversal.reversed TQ2:3"]


# ------------------------------------------------------------------------------------------------ once more


@pytest.fixture
def store(cloud: Cloud, clock: FakeClock) -> Store:
    schedule = Schedule(timedelta(seconds=28), timedelta(minutes=2), timedelta(hours=6))
    return Store(cloud.dynamodb, cloud.table, schedule, clock)


def made(store: Store, reference: str, fact: Fact | None = Fact.TRANSFERRED) -> Reversal:
    store.claim(ReversalRequest(reference, "Paid twice", {"a": "b"}))
    if fact:
        store.record(reference, Evidence(fact, Source.CALLBACK, 1))
    return store.get(reference)


def test_republishing_tells_how_everything_stands_as_it_was_told(setting: Setting, store: Store) -> None:
    reversal = made(store, "TQ1")
    made(store, "TQ2", None)
    topic: Any = setting.topic
    assert republish(store, topic, START, None, lambda: 30) == Republished(1, 0, None)
    ((event),) = setting.topic.told
    assert event["id"] == f"TQ1:{reversal.version}"
    assert event["data"] == reversal.as_json(history=False)


def test_republishing_leaves_out_what_has_not_changed_since(setting: Setting, store: Store, clock: FakeClock) -> None:
    made(store, "TQ1")
    clock.advance(60)
    made(store, "TQ2")
    topic: Any = setting.topic
    assert republish(store, topic, START + timedelta(seconds=60), None, lambda: 30) == Republished(1, 0, None)
    assert setting.told == ["reversal.reversed TQ2:2"]


def test_republishing_goes_on_where_it_ended(setting: Setting, store: Store, clock: FakeClock) -> None:
    for number in range(120):
        made(store, f"TQ{number}")
        clock.advance(1)
    setting.topic.failing = {"TQ5": False}
    topic: Any = setting.topic
    first = republish(store, topic, START, None, lambda: 5)
    assert (first.published, first.failed) == (100, 0)
    assert first.cursor
    assert republish(store, topic, START, first.cursor, lambda: 5) == Republished(19, 1, None)
    assert len({event["id"] for event in setting.topic.told}) == 119
    # With time for both pages, one call tells them all.
    assert republish(store, topic, START, None, lambda: 30) == Republished(119, 1, None)


def test_how_long_a_result_took_is_measured(setting: Setting, output: Output) -> None:
    setting.publication.publish([record(1, image("TQ1", "failed", 3, **CANCELLED), image("TQ1", "pending", 2))])
    assert output.metric("TimeToResult") == 30
