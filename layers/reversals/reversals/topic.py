"""The one module that talks to SNS."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sns.type_defs import PublishBatchRequestEntryTypeDef

_BATCH = 10  # messages a call
_BATCH_BYTES = 256 * 1024  # of all messages of a call together, attributes included


class Topic:
    """Where the events go.

    Args:
        client: A boto3 SNS client.
        topic_arn: A standard topic.
    """

    def __init__(self, client: "SNSClient", topic_arn: str) -> None:
        self._client = client
        self._topic_arn = topic_arn

    def publish(self, events: Sequence[Mapping[str, Any]]) -> set[int]:
        """Publish CloudEvents, ten a call.

        Returns:
            The positions of those that were not taken. Whatever a call that failed may have published, is among them:
            subscribers may see an event twice.
        """
        failed: set[int] = set()
        for batch in _batches([_entry(position, event) for position, event in enumerate(events)]):
            try:
                answer = self._client.publish_batch(TopicArn=self._topic_arn, PublishBatchRequestEntries=batch)
            except (ClientError, BotoCoreError):
                failed |= {int(entry["Id"]) for entry in batch}
            else:
                failed |= {int(entry["Id"]) for entry in answer.get("Failed", [])}
        return failed


def _entry(position: int, event: Mapping[str, Any]) -> "PublishBatchRequestEntryTypeDef":
    return {
        "Id": str(position),
        "Message": json.dumps(event, ensure_ascii=False, separators=(",", ":")),
        "MessageAttributes": {
            "type": {"DataType": "String", "StringValue": event["type"]},
            "status": {"DataType": "String", "StringValue": event["data"]["status"]},
        },
    }


def _batches(
    entries: Iterable["PublishBatchRequestEntryTypeDef"],
) -> Iterable[list["PublishBatchRequestEntryTypeDef"]]:
    batch: list[PublishBatchRequestEntryTypeDef] = []
    size = 0
    for entry in entries:
        entry_size = len(json.dumps(entry, ensure_ascii=False).encode())
        if batch and (len(batch) == _BATCH or size + entry_size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry_size
    if batch:
        yield batch
