"""Asking about open reversals: who is asked about, when again, and what an answer changes."""

import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from reversals.errors import (
    InvalidRequestError,
    NotSentError,
    OutcomeUnknownError,
    ReversalNotFoundError,
    StorageError,
    TokenError,
    TokenRefusedError,
)
from reversals.model import ReversalRequest, Source, Status
from reversals.reconcile import Reconciliation, Summary
from reversals.rules import Evidence, Fact
from reversals.schedule import Schedule, shard
from reversals.store import Store

from tests.conftest import Cloud, FakeClock, Meddled, Output, unreachable

TRANSFERRED = Evidence(Fact.TRANSFERRED, Source.POLL, kopokopo_id="id-1", amount=Decimal("400.0"))
CANCELLED = Evidence(Fact.CANCELLED, Source.POLL, kopokopo_id="id-1")
ACCEPTED = Evidence(Fact.ACCEPTED, Source.POLL, kopokopo_id="id-1")
SCHEDULE = Schedule(timedelta(seconds=28), timedelta(minutes=2), timedelta(hours=6))


class FakeKopoKopo:
    """Answers by id; what it has no answer for is as the reversal was.

    Attributes:
        asked: The id and token of each question.
    """

    timeout = 10.0

    def __init__(self) -> None:
        self.answers: dict[str, Evidence | Exception] = {}
        self.asked: list[tuple[str, str]] = []
        self.expired: set[str] = set()

    def outcome(self, kopokopo_id: str, access_token: str) -> Evidence:
        self.asked.append((kopokopo_id, access_token))
        if access_token in self.expired:
            raise TokenRefusedError("401")
        answer = self.answers.get(kopokopo_id, replace(ACCEPTED, kopokopo_id=kopokopo_id))
        if isinstance(answer, Exception):
            raise answer
        return answer


class FakeTokens:
    error: Exception | None = None

    def get(self) -> str:
        if self.error:
            raise self.error
        return "old"

    def replace(self, refused: str) -> str:
        return "new"


class Setting:
    def __init__(self, cloud: Cloud, clock: FakeClock) -> None:
        self.clock = clock
        self.client = Meddled(cloud.dynamodb)
        self.store = Store(self.client, cloud.table, SCHEDULE, clock)  # type: ignore[arg-type]
        self.kopokopo, self.tokens = FakeKopoKopo(), FakeTokens()
        self.seconds_left: list[float] = [55.0]

    def reversal(self, reference: str, *evidence: Evidence) -> None:
        """A reversal as evidence has left it; pending, with an id made of its reference, unless another is given."""
        self.store.claim(ReversalRequest(reference, "Paid twice"))
        for each in evidence or (Evidence(Fact.ACCEPTED, Source.API, 1, kopokopo_id=f"id-{reference}"),):
            self.store.record(reference, each)

    def run(self, after: float = 0) -> Summary:
        self.clock.advance(after)
        left = self.seconds_left
        reconciliation = Reconciliation(self.store, self.kopokopo, self.tokens, self.clock)  # type: ignore[arg-type]
        return reconciliation.run(lambda: left.pop(0) if len(left) > 1 else left[0])

    @property
    def asked(self) -> list[str]:
        return [kopokopo_id for kopokopo_id, _ in self.kopokopo.asked]


@pytest.fixture
def setting(cloud: Cloud, clock: FakeClock) -> Setting:
    return Setting(cloud, clock)


def in_one_shard(count: int) -> list[str]:
    return [it for it in (f"TQ{number}" for number in range(100 * count)) if shard(it) == "0"][:count]


# ------------------------------------------------------------------------------------------------ whom it asks about


def test_nothing_is_asked_before_it_is_due(setting: Setting) -> None:
    setting.reversal("TQ1")
    assert setting.run(after=119) == Summary(looked_at=0)
    assert setting.run(after=1) == Summary(looked_at=1)
    assert setting.asked == ["id-TQ1"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [(TRANSFERRED, Status.REVERSED), (CANCELLED, Status.FAILED), (ACCEPTED, Status.PENDING)],
)
def test_an_answer_is_evidence_like_any_other(setting: Setting, answer: Evidence, status: Status) -> None:
    setting.reversal("TQ1")
    setting.kopokopo.answers["id-TQ1"] = replace(answer, kopokopo_id="id-TQ1")
    changed = status is not Status.PENDING
    assert setting.run(after=120) == Summary(looked_at=1, changed=int(changed))
    reversal = setting.store.get("TQ1")
    assert reversal.status is status
    assert reversal.history[-1]["source"] == ("poll" if changed else "api")
    if changed:
        assert setting.run(after=10**6) == Summary(looked_at=0)


def test_what_is_not_decided_is_asked_about_less_and_less(setting: Setting) -> None:
    setting.reversal("TQ1")
    asked_at = []
    for minute in range(1, 121):
        if setting.run(after=60).looked_at:
            asked_at.append(minute)
    assert asked_at == [2, 6, 14, 30, 62]


def test_looking_changes_nothing_that_anybody_reads(setting: Setting) -> None:
    setting.reversal("TQ1")
    before = setting.store.get("TQ1")
    setting.run(after=120)
    assert setting.store.get("TQ1") == before


def test_a_look_is_one_question_and_at_most_one_write(setting: Setting) -> None:
    setting.reversal("TQ1")
    setting.kopokopo.answers["id-TQ1"] = replace(TRANSFERRED, kopokopo_id="id-TQ1")
    setting.client.calls.clear()
    setting.run(after=120)
    assert [it for it in setting.client.calls if it != "query"] == ["update_item"]
    assert len(setting.kopokopo.asked) == 1


def test_a_claim_that_nobody_can_be_making_any_more_becomes_unknown(setting: Setting) -> None:
    setting.store.claim(ReversalRequest("TQ1", "Paid twice"))
    assert setting.run(after=27.9).changed == 0
    assert setting.run(after=1).changed == 1
    reversal = setting.store.get("TQ1")
    assert (reversal.status, reversal.version) == (Status.UNKNOWN, 2)
    assert setting.asked == []


def test_without_an_id_there_is_nothing_to_ask_by(setting: Setting) -> None:
    setting.reversal("TQ1", Evidence(Fact.AMBIGUOUS, Source.API, 1))
    assert setting.run(after=120) == Summary(looked_at=1)
    assert setting.asked == []
    assert setting.run(after=60).looked_at == 0
    assert setting.store.get("TQ1").status is Status.UNKNOWN


def test_an_unknown_one_whose_id_came_with_a_result_is_asked_about(setting: Setting) -> None:
    setting.reversal("TQ1", Evidence(Fact.AMBIGUOUS, Source.API, 1), replace(ACCEPTED, attempt=1))
    setting.kopokopo.answers["id-1"] = TRANSFERRED
    setting.run(after=120)
    assert setting.store.get("TQ1").status is Status.REVERSED


# ------------------------------------------------------------------------------------------------ no answer


@pytest.mark.parametrize(
    "error",
    [
        ReversalNotFoundError("404"),
        InvalidRequestError("500"),
        replace(TRANSFERRED, kopokopo_id="id-of-another"),
        replace(ACCEPTED, kopokopo_id=None),
    ],
)
def test_an_answer_that_tells_nothing_fails_nothing(setting: Setting, error: Any) -> None:
    setting.reversal("TQ1")
    before = setting.store.get("TQ1")
    setting.kopokopo.answers["id-TQ1"] = error
    assert setting.run(after=120) == Summary(looked_at=1)
    assert setting.store.get("TQ1") == before
    assert setting.run(after=60).looked_at == 0
    assert setting.run(after=180).looked_at == 1


NO_ANSWERS = [NotSentError("Refused"), OutcomeUnknownError("No answer"), TokenRefusedError("401")]


@pytest.mark.parametrize("error", NO_ANSWERS)
def test_an_api_that_does_not_answer_is_left_alone_until_the_next_run(setting: Setting, error: Exception) -> None:
    for number in range(10):
        setting.reversal(f"TQ{number}")
        setting.kopokopo.answers[f"id-TQ{number}"] = error
    assert setting.run(after=120) == Summary(looked_at=3, unanswered=3, finished=False)
    setting.kopokopo.answers = {}
    assert setting.run(after=3600).looked_at == 10


def test_without_a_token_nothing_is_asked(setting: Setting) -> None:
    setting.reversal("TQ1")
    setting.tokens.error = TokenError("None to be had")
    assert setting.run(after=120) == Summary(looked_at=1, unanswered=1)
    assert setting.asked == []


def test_those_that_are_never_answered_do_not_stand_in_the_way_of_the_others(setting: Setting) -> None:
    """They are due longest, so they come first; but not every time."""
    *stuck, good = in_one_shard(4)
    for reference in stuck:
        setting.reversal(reference)
        setting.kopokopo.answers[f"id-{reference}"] = OutcomeUnknownError("No answer")
    setting.clock.advance(1)
    setting.reversal(good)
    setting.kopokopo.answers[f"id-{good}"] = replace(TRANSFERRED, kopokopo_id=f"id-{good}")
    setting.clock.advance(120)
    for _ in range(5):
        setting.run(after=60)
    assert setting.store.get(good).status is Status.REVERSED


def test_an_answer_in_between_counts_as_one(setting: Setting) -> None:
    for number, reference in enumerate(in_one_shard(9)):
        setting.reversal(reference)
        if number % 3:
            setting.kopokopo.answers[f"id-{reference}"] = OutcomeUnknownError("No answer")
        setting.clock.advance(1)
    assert setting.run(after=120) == Summary(looked_at=9, unanswered=6)


def test_a_refused_token_is_replaced(setting: Setting) -> None:
    setting.reversal("TQ1")
    setting.kopokopo.expired = {"old"}
    setting.kopokopo.answers["id-TQ1"] = replace(TRANSFERRED, kopokopo_id="id-TQ1")
    assert setting.run(after=120).changed == 1
    assert setting.kopokopo.asked == [("id-TQ1", "old"), ("id-TQ1", "new")]


# ------------------------------------------------------------------------------------------------ time and company


def test_it_stops_while_there_is_time_to_write_down_what_it_learnt(setting: Setting) -> None:
    for number in range(10):
        setting.reversal(f"TQ{number}")
    setting.seconds_left = [55, 35, 17, 16.9]
    assert setting.run(after=120) == Summary(looked_at=3, finished=False)
    setting.seconds_left = [55]
    assert setting.run() == Summary(looked_at=7)


def test_no_shard_is_always_the_last(setting: Setting) -> None:
    """With time for one look a run, everything is looked at after as many runs."""
    references = [next(f"TQ{n}" for n in range(100) if shard(f"TQ{n}") == str(number)) for number in range(4)]
    for reference in references:
        setting.reversal(reference)
        setting.kopokopo.answers[f"id-{reference}"] = NotSentError("Refused")
    setting.clock.advance(120)
    first = set()
    for _ in range(4):
        setting.seconds_left = [55, 1]
        setting.kopokopo.asked.clear()
        setting.run(after=60)
        first.add(setting.asked[0])
    assert first == {f"id-{reference}" for reference in references}


def test_a_result_that_arrives_while_it_asks_is_not_undone(setting: Setting) -> None:
    setting.reversal("TQ1")
    result = replace(TRANSFERRED, source=Source.CALLBACK, attempt=1, kopokopo_id="id-TQ1")

    class Overtaken(FakeKopoKopo):
        def outcome(self, kopokopo_id: str, access_token: str) -> Evidence:
            setting.store.record("TQ1", result)
            return replace(ACCEPTED, kopokopo_id=kopokopo_id)

    setting.kopokopo = Overtaken()
    assert setting.run(after=120) == Summary(looked_at=1)
    reversal = setting.store.get("TQ1")
    assert (reversal.status, reversal.version) == (Status.REVERSED, 3)
    assert setting.run(after=10**6) == Summary()


def test_what_is_deleted_while_it_asks_stays_deleted(setting: Setting, cloud: Cloud) -> None:
    setting.reversal("TQ1")

    class Deleting(FakeKopoKopo):
        def outcome(self, kopokopo_id: str, access_token: str) -> Evidence:
            cloud.dynamodb.delete_item(TableName=cloud.table, Key={"transaction_reference": {"S": "TQ1"}})
            return replace(TRANSFERRED, kopokopo_id=kopokopo_id)

    setting.kopokopo = Deleting()
    assert setting.run(after=120) == Summary(looked_at=1)
    assert cloud.items() == []


def test_two_runs_at_once_do_what_one_does(setting: Setting) -> None:
    setting.reversal("TQ1")
    answer = replace(TRANSFERRED, kopokopo_id="id-TQ1")
    setting.kopokopo.answers["id-TQ1"] = answer
    nested: list[Summary] = []

    class Twin(FakeKopoKopo):
        def outcome(self, kopokopo_id: str, access_token: str) -> Evidence:
            if not nested:
                nested.append(Summary())
                nested[0] = setting.run()
            return answer

    setting.kopokopo = Twin()
    outer = setting.run(after=120)
    assert (nested[0].changed, outer.changed) == (1, 0)
    assert len(setting.store.get("TQ1").history) == 2


def test_how_long_the_oldest_have_been_open_is_measured(setting: Setting, output: Output) -> None:
    setting.reversal("TQ1", Evidence(Fact.ACCEPTED, Source.API, 1, kopokopo_id="id-1"), replace(TRANSFERRED, attempt=1))
    setting.clock.advance(10)
    setting.reversal("TQ2")
    setting.clock.advance(10)
    setting.reversal("TQ3", Evidence(Fact.AMBIGUOUS, Source.API, 1))
    setting.run(after=30)
    assert (output.metric("OldestOpen"), output.metric("OldestUnknown")) == (40, 30)


def test_with_nothing_open_the_oldest_is_of_no_age(setting: Setting, output: Output) -> None:
    setting.run()
    names = [name for line in map(json.loads, output.text.splitlines()) for name in line]
    assert {"OldestOpen", "OldestUnknown"} <= set(names)
    assert (output.metric("OldestOpen"), output.metric("OldestUnknown")) == (0, 0)


def test_a_table_that_cannot_be_read_is_an_error(setting: Setting) -> None:
    setting.client.meddle("query", unreachable)
    with pytest.raises(StorageError):
        setting.run(after=120)


def test_what_was_deleted_while_it_asks_is_not_made_again(setting: Setting, cloud: Cloud) -> None:
    setting.reversal("TQ1")

    class Deleting(FakeKopoKopo):
        def outcome(self, kopokopo_id: str, access_token: str) -> Evidence:
            cloud.dynamodb.delete_item(TableName=cloud.table, Key={"transaction_reference": {"S": "TQ1"}})
            return replace(TRANSFERRED, kopokopo_id=kopokopo_id)

    setting.kopokopo = Deleting()
    assert setting.run(after=120).changed == 0
    assert cloud.items() == []
