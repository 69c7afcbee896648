"""SNS: ten events a call, 256 KB a call, and which of them were not taken."""

import json
from typing import Any

import pytest
from reversals.topic import Topic

from tests.conftest import lost, refused, unreachable

LIMIT = 256 * 1024


class FakeSns:
    """Takes what SNS takes; `failing` names the positions that it fails, and whether by our fault."""

    def __init__(self) -> None:
        self.calls: list[list[dict[str, Any]]] = []
        self.failing: dict[str, bool] = {}
        self.trouble: Any = None

    code = "InvalidParameter"

    def publish_batch(self, TopicArn: str, PublishBatchRequestEntries: list[dict[str, Any]]) -> Any:  # noqa: N803
        assert TopicArn == "arn:topic"
        assert 1 <= len(PublishBatchRequestEntries) <= 10
        assert sum(len(entry["Message"].encode()) for entry in PublishBatchRequestEntries) <= LIMIT
        trouble, self.trouble = self.trouble, None
        if trouble:
            return trouble(lambda: self.calls.append(PublishBatchRequestEntries))
        self.calls.append(PublishBatchRequestEntries)
        ids = [entry["Id"] for entry in PublishBatchRequestEntries]
        assert len(set(ids)) == len(ids)
        failed = [{"Id": it, "Code": self.code, "SenderFault": self.failing[it]} for it in ids if it in self.failing]
        return {"Successful": [{"Id": it} for it in ids if it not in self.failing], "Failed": failed}


@pytest.fixture
def sns() -> FakeSns:
    return FakeSns()


@pytest.fixture
def topic(sns: FakeSns) -> Topic:
    return Topic(sns, "arn:topic")  # type: ignore[arg-type]


def event(number: int = 0, size: int = 0) -> dict[str, Any]:
    data = {"status": "reversed", "reason": "\u00e9" + "x" * size}
    return {"type": "reversal.reversed", "id": f"TQ{number}:1", "subject": f"TQ{number}", "data": data}


def test_an_event_is_a_message_with_attributes_to_filter_by(topic: Topic, sns: FakeSns) -> None:
    assert not topic.publish([event()])
    ((entry,),) = sns.calls
    assert json.loads(entry["Message"]) == event()
    assert entry["MessageAttributes"] == {
        "type": {"DataType": "String", "StringValue": "reversal.reversed"},
        "status": {"DataType": "String", "StringValue": "reversed"},
    }


@pytest.mark.parametrize(
    ("count", "calls"), [(0, []), (1, [1]), (10, [10]), (11, [10, 1]), (100, [10] * 10), (101, [10] * 10 + [1])]
)
def test_ten_events_a_call_in_their_order(topic: Topic, sns: FakeSns, count: int, calls: list[int]) -> None:
    assert not topic.publish([event(number) for number in range(count)])
    assert [len(call) for call in sns.calls] == calls
    subjects = [json.loads(entry["Message"])["subject"] for call in sns.calls for entry in call]
    assert subjects == [f"TQ{number}" for number in range(count)]


@pytest.mark.parametrize(("size", "calls"), [(20_000, [10]), (60_000, [4, 4, 2]), (200_000, [1] * 10)])
def test_large_events_are_spread_over_calls(topic: Topic, sns: FakeSns, size: int, calls: list[int]) -> None:
    assert not topic.publish([event(number, size) for number in range(10)])
    assert [len(call) for call in sns.calls] == calls


def test_an_event_that_is_too_large_will_never_be_taken_and_holds_up_none(topic: Topic, sns: FakeSns) -> None:
    assert topic.publish([event(0), event(1, LIMIT), event(2)]) == {1: True}
    assert [json.loads(entry["Message"])["subject"] for call in sns.calls for entry in call] == ["TQ0", "TQ2"]


def test_a_character_that_no_queue_takes_is_written_as_one_that_all_take(topic: Topic, sns: FakeSns) -> None:
    reason = "\ufffe\0 caf\u00e9"
    assert topic.publish([{"type": "reversal.failed", "data": {"status": "failed", "reason": reason}}]) == {}
    (message,) = (entry["Message"] for entry in sns.calls[0])
    assert message.isascii()
    assert message.isprintable()
    assert json.loads(message)["data"]["reason"] == reason


def test_those_that_were_not_taken_are_told_apart(topic: Topic, sns: FakeSns) -> None:
    sns.failing = {"3": False, "12": True}
    assert topic.publish([event(number) for number in range(15)]) == {3: False, 12: True}


def test_a_right_that_is_missing_can_be_mended_so_its_events_come_again(topic: Topic, sns: FakeSns) -> None:
    sns.failing, sns.code = {"3": True}, "KMSAccessDenied"
    assert topic.publish([event(number) for number in range(5)]) == {3: False}


@pytest.mark.parametrize("trouble", [unreachable, lost, refused("InternalError"), refused("Throttled")])
def test_a_call_that_fails_concerns_its_events_alone(topic: Topic, sns: FakeSns, trouble: Any) -> None:
    sns.trouble = trouble
    assert topic.publish([event(number) for number in range(12)]) == dict.fromkeys(range(10), False)
