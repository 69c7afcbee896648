"""Claim, POST, answer: whatever Kopo Kopo does, it is sent once, and what is not known is not said."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from reversals.errors import NotSentError, RefusedError, StorageError, TokenError, TokenRefusedError
from reversals.initiate import Initiation
from reversals.model import Reversal, ReversalRequest, Source, Status
from reversals.rules import Evidence, Fact
from reversals.schedule import Schedule
from reversals.store import Store

from tests.conftest import Cloud, FakeClock, Meddled, Output, lost, unreachable

REQUEST = ReversalRequest("TQ2L262026", "Paid twice")
OWN_URL = "https://api.example"
ACCEPTED = Evidence(Fact.ACCEPTED, Source.API, kopokopo_id="id-1")
TRANSFERRED = Evidence(Fact.TRANSFERRED, Source.CALLBACK, 1, kopokopo_id="id-1", amount=Decimal("400.0"))


class FakeKopoKopo:
    """Answers each POST with the next of its answers, or raises it.

    Attributes:
        posts: The reference, callback URL and token of each.
        meanwhile: What happens while a POST is under way.
    """

    timeout = 10.0

    def __init__(self) -> None:
        self.answers: list[Evidence | Exception] = [ACCEPTED]
        self.posts: list[tuple[str, str, str]] = []
        self.meanwhile: Callable[[], Any] = lambda: None

    def reverse(self, request: ReversalRequest, callback_url: str, access_token: str) -> Evidence:
        self.posts.append((request.transaction_reference, callback_url, access_token))
        self.meanwhile()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class FakeTokens:
    """Gives `old`, and `new` in its place; or raises."""

    error: Exception | None = None

    def get(self) -> str:
        if self.error:
            raise self.error
        return "old"

    def replace(self, refused: str) -> str:
        assert refused == "old"
        if self.error:
            raise self.error
        return "new"


class Setting:
    """An initiation on a real table, and a Kopo Kopo that does as it is told."""

    def __init__(self, cloud: Cloud, clock: FakeClock) -> None:
        self.client = Meddled(cloud.dynamodb)
        schedule = Schedule(timedelta(seconds=28), timedelta(minutes=2), timedelta(hours=6))
        self.store = Store(self.client, cloud.table, schedule, clock)  # type: ignore[arg-type]
        self.somebody_else = Store(cloud.dynamodb, cloud.table, schedule, clock)
        self.kopokopo, self.tokens = FakeKopoKopo(), FakeTokens()
        self.base_url = ""
        self.seconds_left: list[float] = [28.0]

    def initiate(self, request: ReversalRequest = REQUEST) -> tuple[Reversal, bool]:
        left = self.seconds_left
        initiation = Initiation(self.store, self.kopokopo, self.tokens, self.base_url)  # type: ignore[arg-type]
        return initiation.initiate(request, OWN_URL, lambda: left.pop(0) if len(left) > 1 else left[0])

    @property
    def stored(self) -> Reversal:
        return self.somebody_else.get("TQ2L262026")


@pytest.fixture
def setting(cloud: Cloud, clock: FakeClock) -> Setting:
    return Setting(cloud, clock)


# ------------------------------------------------------------------------------------------------ the way it goes


def test_a_reversal_is_claimed_sent_and_pending(setting: Setting) -> None:
    reversal, sent = setting.initiate()
    assert (reversal.status, reversal.kopokopo_id, sent) == (Status.PENDING, "id-1", True)
    assert setting.kopokopo.posts == [("TQ2L262026", f"{OWN_URL}/kopokopo/results/TQ2L262026/1", "old")]
    assert setting.client.calls == ["put_item", "update_item"]
    assert setting.stored == reversal


def test_it_is_claimed_before_it_is_sent(setting: Setting) -> None:
    seen: list[Status] = []
    setting.kopokopo.meanwhile = lambda: seen.append(setting.stored.status)
    setting.initiate()
    assert seen == [Status.INITIATING]


def test_the_same_request_again_is_not_sent(setting: Setting) -> None:
    first, _ = setting.initiate()
    assert setting.initiate() == (first, False)
    assert len(setting.kopokopo.posts) == 1


def test_results_are_sent_where_the_deployment_says(setting: Setting) -> None:
    setting.base_url = "https://reversals.example/v1"
    setting.initiate()
    assert setting.kopokopo.posts[0][1] == "https://reversals.example/v1/kopokopo/results/TQ2L262026/1"


def test_each_attempt_has_a_url_of_its_own(setting: Setting) -> None:
    setting.kopokopo.answers = [Evidence(Fact.REJECTED, Source.API, message="No"), ACCEPTED]
    with pytest.raises(RefusedError):
        setting.initiate()
    setting.initiate()
    assert [url.rpartition("/")[2] for _, url, _ in setting.kopokopo.posts] == ["1", "2"]


# ------------------------------------------------------------------------------------------------ what comes of it


@pytest.mark.parametrize(("fact", "error"), [(Fact.REJECTED, RefusedError), (Fact.NOT_SENT, NotSentError)])
def test_who_failed_is_told_so_even_if_another_attempt_is_under_way_by_then(
    setting: Setting, fact: Fact, error: type[Exception]
) -> None:
    setting.kopokopo.answers = [Evidence(fact, Source.API, message="No")]

    def twice_with_another_attempt_between(do: Callable[[], Any]) -> Any:
        do()  # its answer is lost, and botocore calls again
        setting.somebody_else.claim(REQUEST)
        return do()

    setting.client.meddle("update_item", twice_with_another_attempt_between)
    with pytest.raises(error) as raised:
        setting.initiate()
    assert raised.value.reversal.attempt == 2  # type: ignore[attr-defined]
    assert setting.stored.status is Status.INITIATING


@pytest.mark.parametrize("fact", [Fact.REJECTED, Fact.NOT_SENT])
def test_what_was_reversed_elsewhere_meanwhile_was_not_sent_by_us(setting: Setting, fact: Fact) -> None:
    setting.kopokopo.answers = [Evidence(fact, Source.API, message="No")]
    webhook = Evidence(Fact.TRANSFERRED, Source.WEBHOOK)
    setting.kopokopo.meanwhile = lambda: setting.somebody_else.record("TQ2L262026", webhook)
    reversal, sent = setting.initiate()
    assert (reversal.status, sent) == (Status.REVERSED, False)


@pytest.mark.parametrize("fact", [Fact.AMBIGUOUS, Fact.RUNNING])
def test_what_is_not_known_is_not_said(setting: Setting, fact: Fact) -> None:
    setting.kopokopo.answers = [Evidence(fact, Source.API, message="No answer")]
    reversal, sent = setting.initiate()
    assert (reversal.status, reversal.failure, sent) == (Status.UNKNOWN, None, True)


def test_a_refusal_carries_the_reversal_and_kopo_kopos_words(setting: Setting) -> None:
    setting.kopokopo.answers = [Evidence(Fact.REJECTED, Source.API, message="Older than 30 days")]
    with pytest.raises(RefusedError, match="Older than 30 days") as raised:
        setting.initiate()
    assert raised.value.reversal == setting.stored
    assert setting.stored.failure == {"code": "rejected", "message": "Older than 30 days"}


@pytest.mark.parametrize(
    "answer", [NotSentError("Connection refused."), Evidence(Fact.NOT_SENT, Source.API, message="Slow down (429).")]
)
def test_what_was_not_sent_can_be_tried_again(setting: Setting, answer: Any) -> None:
    setting.kopokopo.answers = [answer, ACCEPTED]
    with pytest.raises(NotSentError) as raised:
        setting.initiate()
    assert raised.value.reversal == setting.stored
    assert (setting.stored.failure or {})["code"] == "not_sent"
    reversal, _ = setting.initiate()
    assert (reversal.status, reversal.attempt) == (Status.PENDING, 2)


def test_without_a_token_nothing_is_sent(setting: Setting) -> None:
    setting.tokens.error = TokenError("No access token was to be had.")
    with pytest.raises(NotSentError):
        setting.initiate()
    assert setting.kopokopo.posts == []
    assert (setting.stored.status, (setting.stored.failure or {})["code"]) == (Status.FAILED, "not_sent")


# ------------------------------------------------------------------------------------------------ the second POST


def test_a_refused_token_is_replaced_once(setting: Setting) -> None:
    setting.kopokopo.answers = [TokenRefusedError("401"), ACCEPTED]
    reversal, _ = setting.initiate()
    assert reversal.status is Status.PENDING
    assert [token for _, _, token in setting.kopokopo.posts] == ["old", "new"]


def test_a_token_that_is_refused_twice_is_not_replaced_again(setting: Setting) -> None:
    setting.kopokopo.answers = [TokenRefusedError("401"), TokenRefusedError("401"), ACCEPTED]
    with pytest.raises(NotSentError):
        setting.initiate()
    assert len(setting.kopokopo.posts) == 2
    assert setting.stored.status is Status.FAILED


@pytest.mark.parametrize("answer", [NotSentError("Refused."), Evidence(Fact.NOT_SENT, Source.API, message="429.")])
def test_nothing_but_a_refused_token_leads_to_a_second_post(setting: Setting, answer: Any) -> None:
    setting.kopokopo.answers = [answer, ACCEPTED]
    with pytest.raises(NotSentError):
        setting.initiate()
    assert len(setting.kopokopo.posts) == 1


@pytest.mark.parametrize("answer", [Evidence(Fact.AMBIGUOUS, Source.API), Evidence(Fact.REJECTED, Source.API)])
def test_the_second_answer_counts(setting: Setting, answer: Evidence) -> None:
    setting.kopokopo.answers = [TokenRefusedError("401"), answer, ACCEPTED]
    with suppress(RefusedError):
        setting.initiate()
    assert len(setting.kopokopo.posts) == 2
    assert [entry["evidence"] for entry in setting.stored.history] == [answer.fact]


@pytest.mark.parametrize(("seconds_left", "posts"), [([17.0], 1), ([16.9], 0), ([28.0, 16.9], 1)])
def test_nothing_is_sent_that_there_is_no_time_to_write_down(
    setting: Setting, seconds_left: list[float], posts: int
) -> None:
    """Ten seconds for the POST, and six for the writes."""
    setting.seconds_left = seconds_left
    setting.kopokopo.answers = [TokenRefusedError("401"), ACCEPTED] if len(seconds_left) > 1 else [ACCEPTED]
    if seconds_left == [17.0]:
        setting.initiate()
    else:
        with pytest.raises(NotSentError):
            setting.initiate()
    assert len(setting.kopokopo.posts) == posts


# ------------------------------------------------------------------------------------------------ who comes first


def test_a_result_that_arrives_before_the_answer_is_not_undone(setting: Setting) -> None:
    setting.kopokopo.meanwhile = lambda: setting.somebody_else.record("TQ2L262026", TRANSFERRED)
    reversal, sent = setting.initiate()
    assert (reversal.status, reversal.conflict, sent) == (Status.REVERSED, False, True)


@pytest.mark.parametrize("fact", [Fact.AMBIGUOUS, Fact.REJECTED, Fact.NOT_SENT, Fact.RUNNING])
def test_a_result_that_arrives_before_a_bad_answer_is_not_undone(setting: Setting, fact: Fact) -> None:
    setting.kopokopo.meanwhile = lambda: setting.somebody_else.record("TQ2L262026", TRANSFERRED)
    setting.kopokopo.answers = [Evidence(fact, Source.API, message="...")]
    reversal, _ = setting.initiate()
    assert (reversal.status, reversal.conflict) == (Status.REVERSED, False)


def test_an_early_result_with_another_id_than_the_answers_leaves_the_merchant_no_wrong_answer(
    setting: Setting,
) -> None:
    """It was sent: a 4xx would say that it was not."""
    setting.kopokopo.meanwhile = lambda: setting.somebody_else.record("TQ2L262026", TRANSFERRED)
    setting.kopokopo.answers = [Evidence(Fact.ACCEPTED, Source.API, kopokopo_id="id-2")]
    reversal, sent = setting.initiate()
    assert (reversal.status, sent) == (Status.REVERSED, True)


# ------------------------------------------------------------------------------------------------ the table fails


def test_a_claim_that_cannot_be_written_sends_nothing(setting: Setting) -> None:
    setting.client.meddle("put_item", unreachable)
    with pytest.raises(StorageError):
        setting.initiate()
    assert setting.kopokopo.posts == []


@pytest.mark.parametrize("answer", [ACCEPTED, Evidence(Fact.REJECTED, Source.API), NotSentError("Refused.")])
def test_an_answer_that_cannot_be_written_is_not_given(setting: Setting, answer: Any) -> None:
    """What nobody else can read would be gone with the next request."""
    setting.kopokopo.answers = [answer]
    setting.client.meddle("update_item", unreachable)
    reversal, _ = setting.initiate()
    assert reversal.status is Status.INITIATING
    assert setting.stored.status is Status.INITIATING


def test_an_answer_that_cannot_be_written_is_in_the_log(setting: Setting, output: Output) -> None:
    """Nobody else knows the id."""
    setting.client.meddle("update_item", unreachable)
    setting.initiate()
    (line,) = [line for line in output.lines if line["level"] == "CRITICAL"]
    assert (line["fact"], line["kopokopo_id"]) == ("accepted", "id-1")


def test_what_was_initiated_is_counted_and_logged(setting: Setting, output: Output) -> None:
    setting.initiate()
    setting.initiate()
    assert output.metric("Initiated") == 1
    (line,) = output.lines
    assert (line["fact"], line["kopokopo_id"], line["status"]) == ("accepted", "id-1", "pending")


def test_a_key_that_was_used_is_not_advised_again(setting: Setting) -> None:
    setting.kopokopo.answers = [NotSentError("Refused."), NotSentError("Refused.")]
    with pytest.raises(NotSentError, match="safe to try again"):
        setting.initiate()
    with pytest.raises(NotSentError, match="another Idempotency-Key"):
        setting.initiate(replace(REQUEST, idempotency_key="key-1"))


def test_an_answer_of_which_only_the_acknowledgement_was_lost_is_written(setting: Setting) -> None:
    setting.client.meddle("update_item", lost)
    setting.initiate()
    assert setting.stored.status is Status.PENDING
