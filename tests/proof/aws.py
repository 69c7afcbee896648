"""AWS in memory, as far as the functions use it: exact, quick, and with a stream that can be read.

moto is the yardstick: tests/proof/test_store_machine.py holds the table against it, operation by operation. In the
simulation it would take a hundred times as long.
"""
# ruff: noqa: N803 - arguments as boto3 names them

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, NoReturn

from botocore.exceptions import ClientError

Item = dict[str, Any]
Names = Mapping[str, str]
Condition = Callable[[Item, Names, Item], bool]

_VISIBILITY = 90.0  # seconds
_INDEX_LAG = 1.0  # seconds
_SECRET_LAG = 3.0  # seconds
_TOKEN = re.compile(r"\s*([#:]?[A-Za-z_]\w*|<=|>=|<|>|=|\(|\)|,|\+)")


def refuse(code: str, operation: str, **more: Any) -> NoReturn:
    answer: Any = {"Error": {"Code": code, "Message": "..."}, **more}
    raise ClientError(answer, operation)


@dataclass(frozen=True)
class Index:
    """An index: its keys, and what it shows of an item."""

    partition: str
    sort: str
    attributes: frozenset[str]


class Table:
    """A DynamoDB table with indexes, one shard of a stream, and conditional writes. Items are never changed in place.

    Args:
        key: Name of its key.
        indexes: By their names.
        now: Epoch seconds.
        lags: Whether an index still shows the item as it was, now, if it was changed in the last second.
    """

    def __init__(
        self,
        key: str,
        indexes: Mapping[str, Index],
        now: Callable[[], float],
        lags: Callable[[], bool] = lambda: False,
    ) -> None:
        self.items: dict[str, Item] = {}
        self.stream: list[Item] = []
        self._key, self._indexes, self._now, self._lags = key, indexes, now, lags
        self._before: dict[str, tuple[float, Item]] = {}

    def get_item(self, *, Key: Item, **_: Any) -> Item:
        item = self.items.get(Key[self._key]["S"])
        return {"Item": item} if item is not None else {}

    def put_item(self, *, Item: Item, **request: Any) -> Item:
        key = Item[self._key]["S"]
        self._check(self.items.get(key), request, "PutItem")
        self._write(key, Item)
        return {}

    def update_item(self, *, Key: Item, UpdateExpression: str, **request: Any) -> Item:
        key = Key[self._key]["S"]
        current = self.items.get(key)
        self._check(current, request, "UpdateItem")
        names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
        item = _update(UpdateExpression)({**(current or {}), **Key}, names, values)
        self._write(key, item)
        return {"Attributes": item}

    def delete_item(self, *, Key: Item, **_: Any) -> Item:
        self.items.pop(Key[self._key]["S"], None)
        return {}

    def query(
        self,
        *,
        IndexName: str,
        KeyConditionExpression: str,
        Limit: int,
        ScanIndexForward: bool = True,
        **request: Any,
    ) -> Item:
        holds = _condition(KeyConditionExpression)
        names, values = request["ExpressionAttributeNames"], request["ExpressionAttributeValues"]
        index = self._indexes[IndexName]
        keys = (index.partition, index.sort)
        visible = [self._as_indexed(key) for key in self.items]
        found = [it for it in visible if all(key in it for key in keys) and holds(it, names, values)]
        shown = index.attributes | {*keys, self._key}
        found = [{name: value for name, value in it.items() if name in shown} for it in found]

        def order(item: Item) -> tuple[Any, str]:
            return _value(item[keys[1]]), item[self._key]["S"]

        found.sort(key=order, reverse=not ScanIndexForward)
        if start := request.get("ExclusiveStartKey"):
            after = order(start)
            found = [it for it in found if (order(it) > after if ScanIndexForward else order(it) < after)]
        page = {"Items": found[:Limit]}
        if len(found) < Limit:
            return page
        last = found[Limit - 1]
        return {**page, "LastEvaluatedKey": {name: last[name] for name in (*keys, self._key)}}

    def _as_indexed(self, key: str) -> Item:
        changed_at, before = self._before[key]
        return before if self._now() - changed_at < _INDEX_LAG and self._lags() else self.items[key]

    def _check(self, current: Item | None, request: Item, operation: str) -> None:
        if expression := request.get("ConditionExpression"):
            names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
            if not _condition(expression)(current or {}, names, values):
                wanted = request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
                old = {"Item": current} if wanted and current else {}
                refuse("ConditionalCheckFailedException", operation, **old)

    def _write(self, key: str, item: Item) -> None:
        before = self.items.get(key)
        self.items[key] = item
        self._before[key] = (self._now(), before or {})
        if item != before:
            image: Item = {"Keys": {self._key: {"S": key}}, "NewImage": item, "StreamViewType": "NEW_AND_OLD_IMAGES"}
            image |= {"SequenceNumber": f"{len(self.stream) + 1:021d}", "SizeBytes": 1}
            image["ApproximateCreationDateTime"] = datetime.fromtimestamp(self._now(), UTC)
            if before is not None:
                image["OldImage"] = before
            name = "INSERT" if before is None else "MODIFY"
            self.stream.append({"eventID": str(len(self.stream)), "eventName": name, "dynamodb": image})


class Stream:
    """The table's stream, as the Streams API shows it."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def describe_stream(self, **_: Any) -> Item:
        return {"StreamDescription": {"Shards": [{"ShardId": "shard-1"}]}}

    def get_shard_iterator(self, **position: Any) -> Item:
        return {"ShardIterator": str(int(position.get("SequenceNumber", "0")))}

    def get_records(self, *, ShardIterator: str, Limit: int) -> Item:
        start = int(ShardIterator)
        return {"Records": self._table.stream[start : start + Limit]}


class Secrets:
    """Secrets Manager: what was written is not seen by everyone at once.

    Args:
        now: Epoch seconds.
        lags: Whether a reader is shown the value before, now, if it was written in the last seconds.
    """

    def __init__(self, now: Callable[[], float], lags: Callable[[], bool]) -> None:
        self._now, self._lags = now, lags
        self._versions: dict[str, list[str]] = {}
        self._written_at: dict[str, float] = {}

    def put_secret_value(self, *, SecretId: str, SecretString: str) -> Item:
        self._versions.setdefault(SecretId, []).append(SecretString)
        self._written_at[SecretId] = self._now()
        return {}

    def get_secret_value(self, *, SecretId: str, VersionStage: str = "AWSCURRENT") -> Item:
        versions = self._versions.get(SecretId, [])
        index = {"AWSCURRENT": -1, "AWSPREVIOUS": -2}[VersionStage]
        is_new = self._now() - self._written_at.get(SecretId, 0.0) < _SECRET_LAG
        if VersionStage == "AWSCURRENT" and is_new and self._lags():
            index -= 1
        if len(versions) < -index:
            refuse("ResourceNotFoundException", "GetSecretValue")
        return {"SecretString": versions[index]}


class Topic:
    """SNS: what was published, in order.

    Args:
        refuses: Why it does not take an event, by its id; None if it does.
    """

    def __init__(self, refuses: Callable[[str], str | None]) -> None:
        self.messages: list[Item] = []
        self._refuses = refuses

    def publish_batch(self, *, PublishBatchRequestEntries: list[Item], **_: Any) -> Item:
        answer: Item = {"Successful": [], "Failed": []}
        for entry in PublishBatchRequestEntries:
            event = json.loads(entry["Message"])
            if code := self._refuses(event["id"]):
                failure = {"Id": entry["Id"], "Code": code, "SenderFault": code.startswith("Invalid")}
                answer["Failed"].append(failure)
            else:
                self.messages.append(event)
                answer["Successful"].append({"Id": entry["Id"]})
        return answer


@dataclass
class _Message:
    id: str
    body: str
    visible_at: float = 0.0
    deleted: bool = field(default=False)


class Queue:
    """SQS: what is received is hidden for a while, and comes again unless it is deleted."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._messages: list[_Message] = []

    @property
    def sent(self) -> int:
        return len(self._messages)

    def next_at(self) -> float:
        """When there is something to receive; infinity if there is nothing."""
        return min((message.visible_at for message in self._messages if not message.deleted), default=float("inf"))

    def get_queue_url(self, *, QueueName: str) -> Item:
        return {"QueueUrl": QueueName}

    def send_message(self, *, MessageBody: str, **_: Any) -> Item:
        self._messages.append(_Message(str(len(self._messages)), MessageBody))
        return {}

    def receive_message(self, *, MaxNumberOfMessages: int, **_: Any) -> Item:
        now = self._now()
        found = [it for it in self._messages if not it.deleted and it.visible_at <= now][:MaxNumberOfMessages]
        for message in found:
            message.visible_at = now + _VISIBILITY
        return {"Messages": [self._shown(message) for message in found]}

    def delete_message(self, *, ReceiptHandle: str, **_: Any) -> Item:
        self._messages[int(ReceiptHandle)].deleted = True
        return {}

    def _shown(self, message: _Message) -> Item:
        digest = hashlib.md5(message.body.encode(), usedforsecurity=False).hexdigest()
        return {"MessageId": message.id, "ReceiptHandle": message.id, "Body": message.body, "MD5OfBody": digest}


class Bucket:
    """S3: the objects that were put."""

    def __init__(self) -> None:
        self.objects: list[Any] = []

    def put_object(self, *, Body: bytes, **_: Any) -> Item:
        self.objects.append(json.loads(Body))
        return {}


# ------------------------------------------------------------------------------------------------------ expressions


@cache
def _condition(expression: str) -> Condition:
    """Compile a condition: comparisons, IN, attribute_exists and attribute_not_exists, AND, OR, parentheses."""
    tokens = _Tokens(expression)
    condition = _either(tokens)
    tokens.end()
    return condition


class _Tokens:
    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        if "".join(self._tokens) != re.sub(r"\s", "", text):
            raise ValueError(f"an expression that is not understood: {text}")

    @property
    def next(self) -> str:
        return self._tokens[0] if self._tokens else ""

    def take(self, *wanted: str) -> str:
        if wanted and self.next not in wanted:
            raise ValueError(f"{wanted} is wanted, and there is {self._tokens}")
        return str(self._tokens.pop(0))

    def accept(self, *wanted: str) -> bool:
        if self.next in wanted:
            self.take()
            return True
        return False

    def end(self) -> None:
        if self._tokens:
            raise ValueError(f"more than is understood: {self._tokens}")


def _either(tokens: _Tokens) -> Condition:
    parts = [_both(tokens)]
    while tokens.accept("OR"):
        parts.append(_both(tokens))
    return lambda item, names, values: any(part(item, names, values) for part in parts)


def _both(tokens: _Tokens) -> Condition:
    parts = [_one(tokens)]
    while tokens.accept("AND"):
        parts.append(_one(tokens))
    return lambda item, names, values: all(part(item, names, values) for part in parts)


def _one(tokens: _Tokens) -> Condition:
    if tokens.accept("("):
        inner = _either(tokens)
        tokens.take(")")
        return inner
    first = tokens.take()
    if first in ("attribute_exists", "attribute_not_exists"):
        tokens.take("(")
        name = tokens.take()
        tokens.take(")")
        wanted = first == "attribute_exists"
        return lambda item, names, values: (names.get(name, name) in item) is wanted
    operator = tokens.take("=", "<", "<=", ">", ">=", "IN")
    if operator == "IN":
        tokens.take("(")
        choices = [tokens.take()]
        while tokens.accept(","):
            choices.append(tokens.take())
        tokens.take(")")
        return lambda item, names, values: (
            (value := item.get(names.get(first, first))) is not None
            and any(_equal(value, values[choice]) for choice in choices)
        )
    second = tokens.take()

    def compare(item: Item, names: Names, values: Item) -> bool:
        value, other = item.get(names.get(first, first)), values[second]
        if value is None or value.keys() != other.keys():
            return False
        if operator == "=":
            return _equal(value, other)
        left, right = _value(value), _value(other)
        return bool({"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator])

    return compare


@cache
def _update(expression: str) -> Callable[[Item, Names, Item], Item]:
    """Compile an update: SET (a value, a sum, list_append), REMOVE, ADD."""
    tokens = _Tokens(expression)
    actions: list[Callable[[Item, Item, Names, Item], None]] = []
    while tokens.next:
        clause = tokens.take("SET", "REMOVE", "ADD")
        actions.append(_action(clause, tokens))
        while tokens.accept(","):
            actions.append(_action(clause, tokens))

    def apply(item: Item, names: Names, values: Item) -> Item:
        changed = dict(item)
        for action in actions:
            action(changed, item, names, values)
        return changed

    return apply


def _action(clause: str, tokens: _Tokens) -> Callable[[Item, Item, Names, Item], None]:
    target = tokens.take()
    if clause == "REMOVE":
        return lambda changed, item, names, values: changed.pop(names.get(target, target), None) and None
    if clause == "ADD":
        operand = tokens.take()

        def add(changed: Item, item: Item, names: Names, values: Item) -> None:
            before = item.get(names.get(target, target), {"N": "0"})
            changed[names.get(target, target)] = _sum(before, values[operand])

        return add
    tokens.take("=")
    first = tokens.take()
    if first == "list_append":
        tokens.take("(")
        start = tokens.take()
        tokens.take(",")
        more = tokens.take()
        tokens.take(")")

        def append(changed: Item, item: Item, names: Names, values: Item) -> None:
            changed[names.get(target, target)] = {"L": item[names.get(start, start)]["L"] + values[more]["L"]}

        return append
    if tokens.accept("+"):
        second = tokens.take()

        def increase(changed: Item, item: Item, names: Names, values: Item) -> None:
            changed[names.get(target, target)] = _sum(item[names.get(first, first)], values[second])

        return increase

    def assign(changed: Item, item: Item, names: Names, values: Item) -> None:
        changed[names.get(target, target)] = values[first] if first.startswith(":") else item[names.get(first, first)]

    return assign


def _sum(one: Item, other: Item) -> Item:
    return {"N": str(Decimal(one["N"]) + Decimal(other["N"]))}


def _equal(one: Item, other: Item) -> bool:
    return one.keys() == other.keys() and _value(one) == _value(other)


def _value(attribute: Item) -> Any:
    ((kind, value),) = attribute.items()
    return Decimal(value) if kind == "N" else value
