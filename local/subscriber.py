"""A queue of one's own on the stack's topic, as a merchant has on AWS."""

import json
from typing import Any

from local.cloud import LaptopCloud

Document = dict[str, Any]


class Subscriber:
    """Hears every event that the stack publishes.

    Attributes:
        events: What has been taken from the queue so far, in order of arrival.
    """

    def __init__(self, cloud: LaptopCloud) -> None:
        self.events: list[Document] = []
        self._sqs = cloud.client("sqs")
        self._queue = self._sqs.create_queue(QueueName="subscriber")["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["QueueArn"])["Attributes"]
        cloud.client("sns").subscribe(
            TopicArn=cloud.outputs["TopicArn"],
            Protocol="sqs",
            Endpoint=attributes["QueueArn"],
            Attributes={"RawMessageDelivery": "true"},
        )

    def receive(self) -> bool:
        """Take what waits in the queue, ten events at the most; returns whether there were any."""
        messages = self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10).get("Messages", [])
        self.events += [json.loads(message["Body"]) for message in messages]
        entries = [{"Id": str(n), "ReceiptHandle": it["ReceiptHandle"]} for n, it in enumerate(messages)]
        if entries:
            self._sqs.delete_message_batch(QueueUrl=self._queue, Entries=entries)
        return bool(entries)

    def about(self, reference: str) -> list[Document]:
        """Every event about a reversal that has come by now, in order of arrival."""
        while self.receive():
            pass
        return [event for event in self.events if event["subject"] == reference]
