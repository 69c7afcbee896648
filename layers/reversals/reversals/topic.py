"""The one module that talks to SNS."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sns.type_defs import PublishBatchRequestEntryTypeDef

_BATCH = 10  # messages a call
_BATCH_BYTES = 256 * 1024  # of all the messages of a call together, attributes included


class Topic:
    """Where the events go.

    Args:
        client: A boto3 SNS client.
        topic_arn: A standard topic.
    """

    def __init__(self, client: "SNSClient", topic_arn: str) -> None:
        self._client = client
        self._topic_arn = topic_arn

    def publish(self, events: Sequence[Mapping[str, Any]]) -> dict[int, bool]:
        """Publish CloudEvents, ten a call.

        Returns:
            The positions of those that were not taken, each with whether it never will be. Where a whole call failed,
            some of its events may have been published all the same: subscribers may see an event twice.
        """
        failed: dict[int, bool] = {}
        for batch in _batches([_entry(position, event) for position, event in enumerate(events)]):
            if _size(batch) > _BATCH_BYTES:
                failed[int(batch[0]["Id"])] = True
                continue
            try:
                answer = self._client.publish_batch(TopicArn=self._topic_arn, PublishBatchRequestEntries=batch)
            except (ClientError, BotoCoreError):
                failed |= {int(entry["Id"]): False for entry in batch}
            else:
                failed |= {int(entry["Id"]): _is_for_good(entry) for entry in answer.get("Failed", [])}
        return failed


def _is_for_good(failure: Mapping[str, Any]) -> bool:
    """Whether the message itself is at fault. A missing right is the sender's fault, too, but can be mended."""
    return bool(failure["SenderFault"]) and failure["Code"].startswith("InvalidParameter")


def _entry(position: int, event: Mapping[str, Any]) -> "PublishBatchRequestEntryTypeDef":
    return {
        "Id": str(position),
        # In ASCII: neither SNS nor SQS takes every character that a reason may have.
        "Message": json.dumps(event, separators=(",", ":")),
        "MessageAttributes": {
            "type": {"DataType": "String", "StringValue": event["type"]},
            "status": {"DataType": "String", "StringValue": event["data"]["status"]},
        },
    }


def _batches(
    entries: Sequence["PublishBatchRequestEntryTypeDef"],
) -> Iterator[list["PublishBatchRequestEntryTypeDef"]]:
    """As few calls as there can be; an event that is too large by itself has one to itself."""
    batch: list[PublishBatchRequestEntryTypeDef] = []
    for entry in entries:
        if batch and (len(batch) == _BATCH or _size([*batch, entry]) > _BATCH_BYTES):
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch


def _size(batch: Sequence["PublishBatchRequestEntryTypeDef"]) -> int:
    return sum(len(json.dumps(entry, ensure_ascii=False).encode()) for entry in batch)
