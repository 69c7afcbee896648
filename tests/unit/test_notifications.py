"""What Kopo Kopo sends: checked, read, kept; and nothing of it lost while the table is down."""

import json
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from reversals import payloads
from reversals.errors import InvalidRequestError, SignatureError, StorageError, UnboundResultError
from reversals.evidence_queue import EvidenceQueue, from_message
from reversals.model import Reversal, Status
from reversals.notifications import Notifications
from reversals.rules import Evidence, Fact

from tests import kopokopo
from tests.conftest import Output
from tests.kopokopo import result, webhook

TARGET = ("TQ2L262026", "1")
DOWN = StorageError("DynamoDB did not answer.")


class FakeKeys:
    def verify(self, body: bytes, given: str | None) -> None:
        if given != kopokopo.sign(body):
            raise SignatureError("No.")


class FakeStore:
    """Remembers what it was told to record; `failing` says of which references it raises what."""

    def __init__(self) -> None:
        self.recorded: list[tuple[str, Evidence]] = []
        self.failing: dict[str, Exception] = {}
        self.changed = True

    def record(self, reference: str, evidence: Evidence) -> tuple[Reversal, bool]:
        if reference in self.failing:
            raise self.failing[reference]
        self.recorded.append((reference, evidence))
        at = "2026-05-01T07:00:00.000Z"
        return Reversal(reference, Status.REVERSED, 1, 2, at, at, at), self.changed


class FakeQueue:
    """A queue as Lambda hands it over."""

    def __init__(self) -> None:
        self.records: list[dict[str, str]] = []
        self.error: Exception | None = None

    def send_message(self, QueueUrl: str, MessageBody: str) -> None:  # noqa: N803
        if self.error:
            raise self.error
        self.records.append({"messageId": f"message-{len(self.records)}", "body": MessageBody})


class Setting:
    def __init__(self) -> None:
        self.store, self.sqs = FakeStore(), FakeQueue()
        queue = EvidenceQueue(lambda: self.sqs, "url")  # type: ignore[arg-type,return-value]
        self.notifications = Notifications(FakeKeys(), self.store, queue)  # type: ignore[arg-type]

    def receive(self, document: Any, target: tuple[str, str] | None = TARGET) -> str:
        body = document if isinstance(document, bytes) else kopokopo.encode(document)
        path = (target[0], str(target[1])) if target else None
        return self.notifications.receive(body, kopokopo.sign(body), path)


@pytest.fixture
def setting(output: Output) -> Setting:
    return Setting()


@pytest.mark.parametrize(
    ("document", "target", "recorded"),
    [
        (result(), TARGET, ("TQ2L262026", Fact.TRANSFERRED)),
        (result(bulk=kopokopo.CANCELLED), TARGET, ("TQ2L262026", Fact.CANCELLED)),
        (result(bulk=None), TARGET, ("TQ2L262026", Fact.ACCEPTED)),
        (webhook("TQ9"), None, ("TQ9", Fact.TRANSFERRED)),
        (webhook("TQ9", topic="b2b_transaction_reversed"), None, ("TQ9", Fact.TRANSFERRED)),
        # A subscription may have been made for the wrong URL: the evidence is the same.
        (webhook("TQ9"), TARGET, ("TQ9", Fact.TRANSFERRED)),
    ],
)
def test_evidence_is_recorded(
    setting: Setting, document: Any, target: tuple[str, str] | None, recorded: tuple[str, Fact]
) -> None:
    assert setting.receive(document, target) == "recorded"
    assert [(reference, evidence.fact) for reference, evidence in setting.store.recorded] == [recorded]


def test_what_is_known_already_is_acknowledged(setting: Setting) -> None:
    setting.store.changed = False
    assert setting.receive(result()) == "known"


@pytest.mark.parametrize("target", [TARGET, None])
@pytest.mark.parametrize(
    "document",
    [
        webhook(topic="buygoods_transaction_received"),
        webhook(topic="customer_created"),
        {"data": {"id": "1", "type": "incoming_payment", "attributes": {}}},
        {"data": {"id": "1", "type": "send_money", "attributes": {}}},
        {"TransactionType": "Buygoods", "TransID": "TQ1"},
    ],
)
def test_what_is_none_of_ours_is_acknowledged_and_counted(
    setting: Setting, output: Output, document: Any, target: tuple[str, str] | None
) -> None:
    assert setting.receive(document, target) == "ignored"
    assert setting.store.recorded == []
    assert output.metric("IgnoredNotifications") == 1


def test_a_bad_signature_is_refused_before_anything_is_read(setting: Setting, output: Output) -> None:
    for body in (kopokopo.encode(result()), b"no JSON"):
        with pytest.raises(SignatureError):
            setting.notifications.receive(body, "0" * 64, TARGET)
    assert setting.store.recorded == []
    assert output.metric("SignatureFailures") == 2


@pytest.mark.parametrize("document", [b"no JSON", [], {}, {"id": "1"}, {"data": None}, webhook(None)])
def test_what_is_signed_and_yet_unusable_is_refused(setting: Setting, document: Any) -> None:
    with pytest.raises(InvalidRequestError):
        setting.receive(document)


@pytest.mark.parametrize("target", [("odd_reference", "1"), ("TQ2L262026", "0"), ("TQ2L262026", "one"), ("", "")])
def test_a_path_that_we_never_gave_out_is_refused_once_the_signature_is_checked(
    setting: Setting, target: tuple[str, str]
) -> None:
    with pytest.raises(InvalidRequestError):
        setting.receive(result(), target)
    with pytest.raises(SignatureError):
        setting.notifications.receive(b"{}", "0" * 64, target)


@pytest.mark.parametrize("document", [result("TQ9"), result(attempt=2), result(_links=None)])
def test_another_reversals_result_is_refused_and_counted(setting: Setting, output: Output, document: Any) -> None:
    with pytest.raises(UnboundResultError):
        setting.receive(document)
    assert setting.store.recorded == []
    assert output.metric("UnboundResults") == 1


# ------------------------------------------------------------------------------------------------ the table is down


def test_what_the_table_does_not_take_waits_in_the_queue(setting: Setting, output: Output) -> None:
    setting.store.failing = {"TQ2L262026": DOWN}
    assert setting.receive(result()) == "queued"
    reference, evidence = from_message(setting.sqs.records[0])
    assert (reference, evidence) == ("TQ2L262026", payloads.bound_outcome(result(), "TQ2L262026", 1))
    assert output.metric("Queued") == 1


def test_neither_a_phone_number_nor_a_name_waits_in_the_queue(setting: Setting) -> None:
    setting.store.failing = {"TQ2L262026": DOWN}
    assert setting.receive(webhook(), None) == "queued"
    assert setting.receive(result(bulk=None, errors=["+254700000000 has no money"])) == "queued"
    waiting = json.dumps(setting.sqs.records)
    assert "254700" not in waiting
    assert "sender" not in waiting


def test_the_log_tells_what_became_of_a_notification(setting: Setting, output: Output) -> None:
    setting.receive(result())
    setting.store.failing = {"TQ2L262026": DOWN}
    setting.receive(result())
    setting.notifications.take_from_queue(setting.sqs.records)
    recorded, queued, waiting = output.lines
    assert recorded.items() >= {"level": "INFO", "fact": "transferred"}.items()
    assert recorded.items() >= {"status": "reversed", "changed": True, "correlation_id": "TQ2L262026"}.items()
    assert (queued["level"], queued["error"]) == ("WARNING", str(DOWN))
    assert (waiting["level"], waiting["message_id"]) == ("ERROR", "message-0")


def test_what_neither_takes_has_to_be_sent_again(setting: Setting) -> None:
    setting.store.failing = {"TQ2L262026": DOWN}
    setting.sqs.error = EndpointConnectionError(endpoint_url="https://sqs.example")
    with pytest.raises(StorageError):
        setting.receive(result())


def test_what_waited_is_recorded(setting: Setting) -> None:
    setting.store.failing = {"TQ2L262026": DOWN, "TQ9": DOWN}
    setting.receive(result())
    setting.receive(webhook("TQ9"), None)
    setting.store.failing = {}
    assert setting.notifications.take_from_queue(setting.sqs.records) == []
    assert [reference for reference, _ in setting.store.recorded] == ["TQ2L262026", "TQ9"]


def test_what_still_cannot_be_recorded_waits_on_and_holds_up_nothing(setting: Setting) -> None:
    setting.store.failing = dict.fromkeys(("TQ1", "TQ2", "TQ3"), DOWN)
    for reference in setting.store.failing:
        setting.receive(webhook(reference), None)
    setting.store.failing = {"TQ2": DOWN}
    assert setting.notifications.take_from_queue(setting.sqs.records) == ["message-1"]
    assert [reference for reference, _ in setting.store.recorded] == ["TQ1", "TQ3"]


def test_what_turns_out_to_be_another_reversals_does_not_come_again(setting: Setting, output: Output) -> None:
    setting.store.failing = {"TQ2L262026": DOWN}
    setting.receive(result())
    setting.store.failing = {"TQ2L262026": UnboundResultError("Another id.")}
    assert setting.notifications.take_from_queue(setting.sqs.records) == []
    assert output.metric("UnboundResults") == 1


def test_a_message_that_nobody_can_read_holds_up_no_other(setting: Setting) -> None:
    setting.store.failing = {"TQ2L262026": DOWN}
    setting.receive(result())
    setting.store.failing = {}
    strange = [{"messageId": f"strange-{n}", "body": body} for n, body in enumerate(["", "{}", "[]", '{"evidence":1}'])]
    waiting = setting.notifications.take_from_queue([*strange, *setting.sqs.records])
    assert waiting == [it["messageId"] for it in strange]
    assert len(setting.store.recorded) == 1
