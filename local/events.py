"""What calls functions by itself: table streams, queues and schedules, as event source mappings and schedules say."""

import base64
import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from local.aws import Aws
from local.lambdas import Function, FunctionError
from local.settings import ACCOUNT_ID, REGION
from local.template import Document, Stack, TemplateError

BUSY_PAUSE, IDLE_PAUSE = 0.02, 0.1  # seconds between looks; it doubles from the one to the other
FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 1.0  # seconds between tries of a batch; it doubles
AFTER_ERROR = 1.0  # seconds
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}  # seconds are the laptop's own
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "anything-but": lambda wanted, value: value not in (wanted if isinstance(wanted, list) else [wanted]),
    "prefix": lambda wanted, value: isinstance(value, str) and value.startswith(wanted),
}
_MISSING = object()


class Sources:
    """Threads that look for work for functions, each at one source, until they are stopped."""

    def __init__(self) -> None:
        self._stopped = Event()
        self._threads: list[Thread] = []

    def start(self, stack: Stack, aws: Aws, function_of: Callable[[str], Function]) -> None:
        """Begin with all event source mappings and schedules of a stack that are enabled."""
        for name, mapping in stack.of_type("AWS::Lambda::EventSourceMapping"):
            if (kind := SOURCES.get(mapping["EventSourceArn"].split(":")[2])) is None:
                raise TemplateError(f"{name}: a laptop has streams of tables and queues as event sources.")
            if mapping.get("Enabled", True):
                source = kind(aws, name, mapping, function_of(mapping["FunctionName"]))
                self._begin(self._poll, source)
        for name, schedule in stack.of_type("AWS::Events::Rule", "AWS::Scheduler::Schedule"):
            period = read_rate(name, schedule.get("ScheduleExpression", "no rate"))
            if schedule.get("State", "ENABLED") == "ENABLED":
                arn = stack.attributes(name)["Arn"]
                for target in schedule.get("Targets") or [schedule["Target"]]:
                    event = partial(scheduled_event, "aws.events" if "Targets" in schedule else "aws.scheduler", arn)
                    if "Input" in target:
                        event = partial(json.loads, target["Input"])
                    self._begin(self._repeat, period, function_of(target["Arn"]), event)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped.set()

    def join(self) -> None:
        """Wait for what is under way."""
        for thread in self._threads:
            thread.join()

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _poll(self, source: "StreamSource | QueueSource") -> None:
        pause = IDLE_PAUSE
        while not self._stopped.wait(pause):
            try:
                pause = BUSY_PAUSE if source.look(self._stopped) else min(pause * 2, IDLE_PAUSE)
            except (BotoCoreError, ClientError) as error:
                source.function.log(f"event source: {error}")
                pause = AFTER_ERROR

    def _repeat(self, period: float, function: Function, event: Callable[[], Any]) -> None:
        """One run after the other, so that a long one is not doubled."""
        while not self._stopped.wait(period):
            with suppress(FunctionError):  # it is in the function's log
                function.invoke(event())


class StreamSource:
    """A table's stream, one shard: batches in order, and each again until it is done or given up."""

    def __init__(self, aws: Aws, name: str, mapping: Document, function: Function) -> None:
        if mapping.get("StartingPosition", "TRIM_HORIZON") != "TRIM_HORIZON":
            raise TemplateError(f"{name}: a laptop reads streams from TRIM_HORIZON.")
        self.function = function
        self._name = name
        self._arn: str = mapping["EventSourceArn"]
        self._batch_size = int(mapping.get("BatchSize", 100))
        self._reports_items = "ReportBatchItemFailures" in mapping.get("FunctionResponseTypes", [])
        self._bisects = mapping.get("BisectBatchOnFunctionError", False)
        self._retries = int(mapping.get("MaximumRetryAttempts", -1))
        self._destination = mapping.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination", "")
        self._patterns = read_patterns(mapping)
        self._aws = aws
        self._streams = aws.client("dynamodbstreams")
        shards = self._streams.describe_stream(StreamArn=self._arn)["StreamDescription"]["Shards"]
        self._shard: str = shards[0]["ShardId"]
        self._position: dict[str, str] = {"ShardIteratorType": "TRIM_HORIZON"}

    def look(self, stopped: Event) -> bool:
        """Take what is there to the function; returns whether there was anything."""
        # A new iterator for each look: that of a plain moto reads on in a table that a failed transaction has replaced.
        iterator = self._streams.get_shard_iterator(StreamArn=self._arn, ShardId=self._shard, **self._position)
        answer = self._streams.get_records(ShardIterator=iterator["ShardIterator"], Limit=self._batch_size)
        if not (records := json.loads(json.dumps(answer["Records"], default=_plain))):
            return False
        for record in records:
            record.update(awsRegion=REGION, eventSourceARN=self._arn)
        self._deliver([record for record in records if self._wants(record)], stopped)
        last = records[-1]["dynamodb"]["SequenceNumber"]
        self._position = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": last}
        return True

    def _wants(self, record: Document) -> bool:
        images = record["dynamodb"]
        if record["eventName"] == "MODIFY" and images.get("OldImage") == images.get("NewImage", _MISSING):
            return False  # moto tells of writes that change nothing, DynamoDB does not
        return not self._patterns or any(matches(pattern, record) for pattern in self._patterns)

    def _deliver(self, records: list[Document], stopped: Event) -> None:
        batches = [(records, 0)] if records else []  # and how often each was tried again; the next one last
        while batches and not stopped.is_set():
            batch, tries = batches.pop()
            done = self._try(batch)
            if done == len(batch):
                continue
            if done > 0:
                batches.append((batch[done:], 0))
            elif self._bisects and len(batch) > 1:
                middle = len(batch) // 2
                batches += [(batch[middle:], tries), (batch[:middle], tries)]
            elif 0 <= self._retries <= tries:
                self._give_up(batch, tries + 1)
            else:
                batches.append((batch, tries + 1))
                stopped.wait(min(FIRST_BACKOFF * 2**tries, LONGEST_BACKOFF))

    def _try(self, batch: list[Document]) -> int:
        """How many records, from the first, need not come again."""
        try:
            result = self.function.invoke({"Records": batch})
        except FunctionError:
            return 0  # it is in the function's log
        if not self._reports_items:
            return len(batch)
        numbers = [record["dynamodb"]["SequenceNumber"] for record in batch]
        failed = failed_items(result, numbers)
        return min(map(numbers.index, failed), default=len(batch))

    def _give_up(self, batch: list[Document], invocations: int) -> None:
        """Tell the destination: all of it to a bucket, what it was about to a queue."""
        now = datetime.now(UTC)
        first, last = batch[0]["dynamodb"], batch[-1]["dynamodb"]
        failure: Document = {
            "requestContext": {
                "requestId": str(uuid4()),
                "functionArn": self.function.arn,
                "condition": "RetryAttemptsExhausted",
                "approximateInvokeCount": invocations,
            },
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
            "version": "1.0",
            "timestamp": _timestamp(now),
            "DDBStreamBatchInfo": {
                "shardId": self._shard,
                "startSequenceNumber": first["SequenceNumber"],
                "endSequenceNumber": last["SequenceNumber"],
                "approximateArrivalOfFirstRecord": _timestamp(_time_of(first)),
                "approximateArrivalOfLastRecord": _timestamp(_time_of(last)),
                "batchSize": len(batch),
                "streamArn": self._arn,
            },
        }
        self.function.log(f"event source: gave up {json.dumps(failure['DDBStreamBatchInfo'])}")
        service, _, place = self._destination.removeprefix("arn:aws:").partition(":")
        if service == "s3":
            failure["payload"] = json.dumps({"Records": batch})
            key = f"aws/lambda/{self._name}/{self._shard}/{now:%Y/%m/%d/%Y-%m-%dT%H.%M.%S}-{uuid4()}"
            self._aws.client("s3").put_object(Bucket=place.lstrip(":"), Key=key, Body=json.dumps(failure).encode())
        elif service == "sqs":
            queues = self._aws.client("sqs")
            url = queues.get_queue_url(QueueName=place.rpartition(":")[2])["QueueUrl"]
            queues.send_message(QueueUrl=url, MessageBody=json.dumps(failure))


class QueueSource:
    """A queue: what the function took is deleted, the rest is seen again when its visibility timeout ends."""

    def __init__(self, aws: Aws, name: str, mapping: Document, function: Function) -> None:
        if mapping.get("FilterCriteria"):
            raise TemplateError(f"{name}: a laptop filters streams, not queues.")
        self.function = function
        self._arn: str = mapping["EventSourceArn"]
        self._batch_size = min(int(mapping.get("BatchSize", 10)), 10)
        self._reports_items = "ReportBatchItemFailures" in mapping.get("FunctionResponseTypes", [])
        self._queues = aws.client("sqs")
        self._url = self._queues.get_queue_url(QueueName=self._arn.rpartition(":")[2])["QueueUrl"]

    def look(self, stopped: Event) -> bool:
        messages = self._queues.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=self._batch_size,
            WaitTimeSeconds=0,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        if not messages:
            return False
        try:
            result = self.function.invoke({"Records": [self._record(message) for message in messages]})
        except FunctionError:
            return True
        ids = [message["MessageId"] for message in messages]
        failed = set(failed_items(result, ids)) if self._reports_items else set()
        for message in messages:
            if message["MessageId"] not in failed:
                self._queues.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return True

    def _record(self, message: Document) -> Document:
        attributes = message.get("MessageAttributes", {})
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message.get("Attributes", {}),
            "messageAttributes": {
                name: {key[0].lower() + key[1:]: _plain(value) for key, value in attribute.items()}
                for name, attribute in attributes.items()
            },
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self._arn,
            "awsRegion": REGION,
        }


SOURCES = {"dynamodb": StreamSource, "sqs": QueueSource}


def failed_items(result: Any, items: list[str]) -> list[str]:
    """The items that a partial batch response names as failed; all of them, as in Lambda, if it cannot be right."""
    try:
        failed = [failure["itemIdentifier"] for failure in (result or {}).get("batchItemFailures") or []]
    except (AttributeError, KeyError, TypeError):
        return items
    return failed if set(failed) <= set(items) else items


def read_patterns(mapping: Document) -> list[Document]:
    """The patterns of a mapping's filters; a record has to match one of them.

    Raises:
        TemplateError: a pattern uses an operator that a laptop does not know.
    """
    filters = mapping.get("FilterCriteria", {}).get("Filters", [])
    patterns: list[Document] = [json.loads(it["Pattern"]) for it in filters]
    for pattern in patterns:
        matches(pattern, {})  # speaks of an unknown operator now, not at the first record
    return patterns


def matches(pattern: Document, value: Any) -> bool:
    """Whether an event matches a filter pattern: each of its keys has to, by one of the conditions in its list."""
    fields = value if isinstance(value, dict) else {}
    outcomes = [_matches_field(condition, fields.get(key, _MISSING)) for key, condition in pattern.items()]
    return all(outcomes)


def read_rate(name: str, expression: str) -> float:
    """The seconds of `rate(5 minutes)`; also, on a laptop alone, of `rate(2 seconds)`."""
    match = re.fullmatch(r"rate\((\d+) (second|minute|hour|day)s?\)", expression.strip())
    if match is None or int(match[1]) == 0:
        raise TemplateError(f"{name}: a laptop knows schedules like rate(5 minutes), not {expression}.")
    return float(int(match[1]) * UNITS[match[2]])


def scheduled_event(source: str, arn: str) -> Document:
    """What a schedule without an input of its own sends; `source` is `aws.events` or `aws.scheduler`."""
    return {
        "version": "0",
        "id": str(uuid4()),
        "detail-type": "Scheduled Event",
        "source": source,
        "account": ACCOUNT_ID,
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "region": REGION,
        "resources": [arn],
        "detail": {} if source == "aws.events" else "{}",
    }


def _matches_field(condition: Any, value: Any) -> bool:
    if isinstance(condition, dict):
        return matches(condition, value)
    outcomes = [_matches_one(choice, value) for choice in condition]
    return any(outcomes)


def _matches_one(choice: Any, value: Any) -> bool:
    if not isinstance(choice, dict):
        return value is not _MISSING and bool(value == choice)
    ((operator, wanted),) = choice.items()
    if operator == "exists":
        return bool((value is not _MISSING) == wanted)
    if operator not in OPERATORS:
        raise TemplateError(f"The filter operator {operator!r} is not one that a laptop knows.")
    return value is not _MISSING and OPERATORS[operator](wanted, value)


def _plain(value: Any) -> Any:
    """What botocore made of a value, back as an event has it."""
    if isinstance(value, datetime):
        return int(value.timestamp())
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _time_of(change: Document) -> datetime:
    return datetime.fromtimestamp(change["ApproximateCreationDateTime"], UTC)


def _timestamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
