"""SQS: what was proven while the table could not take it."""

from decimal import Decimal
from typing import Any

import pytest
from reversals.errors import StorageError
from reversals.evidence_queue import EvidenceQueue, from_message
from reversals.model import Source
from reversals.rules import Evidence, Fact

from tests.conftest import Cloud, Meddled, lost, refused, unreachable


@pytest.fixture
def client(cloud: Cloud) -> Meddled:
    return Meddled(cloud.sqs)


@pytest.fixture
def queue(cloud: Cloud, client: Meddled) -> EvidenceQueue:
    return EvidenceQueue(lambda: client, cloud.ref("EvidenceQueue"))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(Fact.TRANSFERRED, Source.WEBHOOK),
        Evidence(
            Fact.TRANSFERRED,
            Source.CALLBACK,
            attempt=2,
            kopokopo_id="id-1",
            amount=Decimal("400.0"),
            reversal_reference="RVTEST01",
        ),
        Evidence(Fact.CANCELLED, Source.CALLBACK, attempt=1, kopokopo_id="id-1", message="Kein Geld \u00e9"),
        Evidence(Fact.ACCEPTED, Source.CALLBACK, attempt=1, amount=Decimal("1E+3")),
    ],
)
def test_what_is_put_is_read(queue: EvidenceQueue, cloud: Cloud, evidence: Evidence) -> None:
    queue.put("TQ2L262026", evidence)
    (message,) = cloud.sqs.receive_message(QueueUrl=cloud.ref("EvidenceQueue"))["Messages"]
    reference, read = from_message({"messageId": message["MessageId"], "body": message["Body"]})
    assert (reference, read) == ("TQ2L262026", evidence)
    assert str(read.amount) == str(evidence.amount)


@pytest.mark.parametrize("trouble", [unreachable, lost, refused("AccessDenied")])
def test_what_cannot_be_kept_is_an_error(queue: EvidenceQueue, client: Meddled, trouble: Any) -> None:
    client.meddle("send_message", trouble)
    with pytest.raises(StorageError):
        queue.put("TQ2L262026", Evidence(Fact.TRANSFERRED, Source.WEBHOOK))
