"""The one module that talks to SQS: what was proven while DynamoDB could not take it waits there."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from . import payloads
from .errors import StorageError
from .model import Source
from .rules import Evidence, Fact

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


class EvidenceQueue:
    """Evidence of which Kopo Kopo's signature was checked already.

    Args:
        client: Gives a boto3 SQS client; asked for it only when the table fails.
        queue_url: The queue.
    """

    def __init__(self, client: "Callable[[], SQSClient]", queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url

    def put(self, transaction_reference: str, evidence: Evidence) -> None:
        """Keep it until it can be written.

        Raises:
            StorageError: it could not be kept.
        """
        known = {field.name: getattr(evidence, field.name) for field in fields(evidence)}
        message = {"transaction_reference": transaction_reference, "evidence": known}
        try:
            self._client().send_message(QueueUrl=self._queue_url, MessageBody=json.dumps(message, default=str))
        except (ClientError, BotoCoreError) as error:
            raise StorageError(f"Neither the table nor the queue took it ({type(error).__name__}).") from error


def from_message(record: Mapping[str, Any]) -> tuple[str, Evidence]:
    """Read a message of the queue, as Lambda hands it over: the transaction reference and the evidence."""
    message = json.loads(record["body"])
    known = message["evidence"]
    known |= {
        "fact": Fact(known["fact"]),
        "source": Source(known["source"]),
        "amount": payloads.amount(known["amount"]),
    }
    return message["transaction_reference"], Evidence(**known)
