"""The one module that talks to DynamoDB: one item per transaction, every change of it one conditional write.

A writer first writes what it expects to be right, without reading. If the item stands otherwise, DynamoDB's refusal
brings the item along, the rules decide on it, and the change is written on the condition that the item's version is
still the same. So whichever of two writers comes first, the other sees what it did.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from math import ceil
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import BotoCoreError, ClientError

from . import rules
from .clock import Clock
from .errors import ReversalNotFoundError, StorageError
from .lease import Hold
from .listing import Position
from .model import OPEN, Reversal, ReversalRequest, Source, Status, format_time, parse_time
from .rules import Change, Evidence
from .schedule import Schedule, shard

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Item = dict[str, Any]

KEY = "transaction_reference"

_DUE_PAGE = 25  # items a page
_OLDEST = 25  # items


class Store:
    """The reversals.

    Args:
        client: A boto3 DynamoDB client.
        table_name: The table.
        schedule: When an open reversal is looked at next.
        clock: The time.
    """

    def __init__(self, client: "DynamoDBClient", table_name: str, schedule: Schedule, clock: Clock) -> None:
        self._table = _Table(client, table_name)
        self._schedule = schedule
        self._clock = clock

    def claim(self, request: ReversalRequest) -> tuple[Reversal, bool]:
        """Claim the transaction for one attempt at reversing it.

        Returns:
            The reversal, and whether the attempt is the caller's to make. If not, it is the same request again.

        Raises:
            ReversalConflictError: the request disagrees with the reversal that there is.
            StorageError: it could not be written. What was lost may still have claimed it, but nothing was sent.
        """
        attempt_id, now = str(uuid4()), self._clock.now()
        first = rules.claim(request, attempt_id, now)
        existing = self._create(first)
        while existing is not None:
            if existing.attempt_id == attempt_id:
                # Our own write, whose reply was lost. If evidence came in since, there is nothing left to send.
                return existing, existing.status is Status.INITIATING
            change = rules.claim_again(self._as_read(existing), request, attempt_id, now)
            if change is None:
                return self._as_read(existing), False
            updated, found = self._update(existing, change)
            if updated:
                return updated, True
            existing = found or self._create(first)
        return first, True

    def record(self, transaction_reference: str, evidence: Evidence) -> tuple[Reversal, bool]:
        """Write what a piece of evidence changes.

        Returns:
            The reversal as it then stands, and whether this changed it.

        Raises:
            UnboundResultError: the evidence is of another reversal.
            ReversalConflictError: an operator's resolution of what is not to be resolved.
            ReversalNotFoundError: there is none, and the evidence is an operator's or a poll's, which makes none.
            StorageError: it could not be written.
        """
        now = self._clock.now()
        if evidence.source is Source.OPERATOR:
            updated, current = None, self._table.get(transaction_reference)
        else:
            updated, current = self._update_unread(transaction_reference, evidence, now)
        while updated is None:
            if current is None:
                if evidence.source in (Source.OPERATOR, Source.POLL):
                    raise _no_reversal(transaction_reference)
                created = rules.create(transaction_reference, evidence, now)
                current = self._create(created)
                if current is None:
                    return created, True
            change = rules.decide(self._as_read(current), evidence, now)
            if change is None:
                return self._as_read(current), False
            updated, current = self._update(current, change)
        return updated, True

    def get(self, transaction_reference: str) -> Reversal:
        """Read one reversal, consistently.

        Raises:
            ReversalNotFoundError: there is none.
            StorageError: it could not be read.
        """
        reversal = self._table.get(transaction_reference)
        if reversal is None:
            raise _no_reversal(transaction_reference)
        return self._as_read(reversal)

    def page(self, status: Status | None, limit: int, after: Position | None) -> tuple[list[Reversal], Position | None]:
        """Reversals by the time at which they were created, newest first, without their histories.

        Args:
            status: Of one status, or of all.
            limit: At most so many.
            after: Go on behind this one.

        Returns:
            The reversals, and where to go on; None at the end.

        Raises:
            StorageError: they could not be read.
        """
        statuses = [status] if status else list(Status)
        found = [reversal for each in statuses for reversal in self._table.by_status(each, limit + 1, after)]
        found.sort(key=lambda reversal: (reversal.created_at, reversal.transaction_reference), reverse=True)
        page = found[:limit]
        more = len(found) > limit
        end = Position(status, page[-1].created_at, page[-1].transaction_reference) if more else None
        return [self._as_read(reversal) for reversal in page], end

    def oldest(self, status: Status) -> list[Reversal]:
        """The few reversals of a status that were created first.

        Raises:
            StorageError: they could not be read.
        """
        return self._table.by_status(status, _OLDEST, None, newest_first=False)

    def due(self, shard: str, now: datetime) -> Iterator["DueReversal"]:
        """The open reversals of a shard that are due, longest due first, read page by page as they are taken.

        Raises:
            StorageError: they could not be read.
        """
        yield from self._table.due(shard, int(now.timestamp()))

    def postpone(self, due: "DueReversal") -> None:
        """Look at it again later: no change of the reversal, and nothing at all if somebody has changed it meanwhile.

        Raises:
            StorageError: it could not be written.
        """
        later = self._schedule.due(due.status, self._clock.now(), due.polls + 1)
        self._table.postpone(due, ceil(later.timestamp()))

    def _as_read(self, reversal: Reversal) -> Reversal:
        return reversal.as_read(self._clock.now(), self._schedule.stale_after)

    def _create(self, reversal: Reversal) -> Reversal | None:
        """Put a new item; what there is already comes back."""
        values = {field.name: getattr(reversal, field.name) for field in fields(reversal)}
        item = _attributes(values) | self._bookkeeping(reversal.transaction_reference, reversal.status)
        return self._table.put_new(item)

    def _update_unread(
        self, transaction_reference: str, evidence: Evidence, now: datetime
    ) -> tuple[Reversal | None, Reversal | None]:
        """Change the item if it stands as the table of evidence expects, whatever its version."""
        attempt = evidence.attempt or 1
        names = ["attempt", "status"]
        values: Item = {":attempt": attempt}
        before = {f":before{n}": status for n, status in enumerate(sorted(rules.TABLE[evidence.fact].before))}
        condition = f"#attempt = :attempt AND #status IN ({', '.join(before)})"
        if evidence.kopokopo_id:
            names.append("kopokopo_id")
            values[":id"] = evidence.kopokopo_id
            condition += " AND (attribute_not_exists(#kopokopo_id) OR #kopokopo_id = :id)"
        change = rules.expected(evidence, attempt, now)
        return self._write(transaction_reference, change, condition, names, {**values, **before})

    def _update(self, current: Reversal, change: Change) -> tuple[Reversal | None, Reversal | None]:
        """Change the item if nobody else has since; else nothing, and what there is now."""
        return self._write(
            current.transaction_reference, change, "#version = :seen", ["version"], {":seen": current.version}
        )

    def _write(
        self,
        transaction_reference: str,
        change: Change,
        condition: str,
        names: list[str],
        values: Mapping[str, Any],
    ) -> tuple[Reversal | None, Reversal | None]:
        changed = _attributes(change.values)
        if "status" in changed:
            changed |= self._bookkeeping(transaction_reference, changed["status"])
        if changed.get("conflict"):
            changed["expires_at"] = None  # what waits for an operator is kept
        return self._table.update(transaction_reference, changed, change.entry, condition, names, values)

    def _bookkeeping(self, transaction_reference: str, status: Status) -> Item:
        """What keeps an open reversal in the index of what is due, and a final one out of it."""
        now = self._clock.now()
        if status not in OPEN:
            expires = now + self._schedule.retention if self._schedule.retention else None
            expires_at = int(expires.timestamp()) if expires else None
            return {"due_shard": None, "due_at": None, "polls": None, "expires_at": expires_at}
        due_at = ceil(self._schedule.due(status, now).timestamp())
        return {"due_shard": shard(transaction_reference), "due_at": due_at, "polls": 0, "expires_at": None}


def _no_reversal(transaction_reference: str) -> ReversalNotFoundError:
    return ReversalNotFoundError(f"There is no reversal of {transaction_reference}.")


@dataclass(frozen=True)
class DueReversal:
    """An open reversal that is due to be looked at, as the index holds it.

    Attributes:
        due_at: When it became due, in seconds since 1970.
        polls: How often Kopo Kopo was asked about it.
    """

    transaction_reference: str
    status: Status
    attempt: int
    version: int
    kopokopo_id: str | None
    due_at: int
    polls: int


class _Table:
    """Items and expressions."""

    def __init__(self, client: "DynamoDBClient", name: str) -> None:
        self._client = client
        self._name = name

    def get(self, transaction_reference: str) -> Reversal | None:
        answer = call(self._client.get_item, TableName=self._name, Key=_key(transaction_reference), ConsistentRead=True)
        return from_item(answer["Item"]) if "Item" in answer else None

    def by_status(
        self, status: Status, limit: int, after: Position | None, *, newest_first: bool = True
    ) -> list[Reversal]:
        start: Item = {}
        if after:
            key = {"status": status, "created_at": after.created_at, KEY: after.transaction_reference}
            start = {"ExclusiveStartKey": _serialize(key)}
        found: list[Reversal] = []
        while True:
            answer = call(
                self._client.query,
                TableName=self._name,
                IndexName="by-status",
                KeyConditionExpression="#status = :status",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues=_serialize({":status": status}),
                ScanIndexForward=not newest_first,
                Limit=limit - len(found),
                **start,
            )
            found += [from_item(item) for item in answer["Items"]]
            # A query also ends where it has read a megabyte.
            if len(found) >= limit or "LastEvaluatedKey" not in answer:
                return found
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def due(self, shard: str, now: int) -> Iterator["DueReversal"]:
        start: dict[str, Any] = {}
        while True:
            answer = call(
                self._client.query,
                TableName=self._name,
                IndexName="due",
                KeyConditionExpression="#shard = :shard AND #due_at <= :now",
                ExpressionAttributeNames={"#shard": "due_shard", "#due_at": "due_at"},
                ExpressionAttributeValues=_serialize({":shard": shard, ":now": now}),
                Limit=_DUE_PAGE,
                **start,
            )
            for item in answer["Items"]:
                values = _deserialize(item)
                known: Item = {field.name: values.get(field.name) for field in fields(DueReversal)}
                known["status"] = Status(values["status"])
                yield DueReversal(**known)
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def postpone(self, due: "DueReversal", due_at: int) -> None:
        try:
            call(
                self._client.update_item,
                TableName=self._name,
                Key=_key(due.transaction_reference),
                UpdateExpression="SET #due_at = :later, #polls = :polls",
                ConditionExpression="#version = :version AND #due_at = :seen",
                ExpressionAttributeNames={"#due_at": "due_at", "#polls": "polls", "#version": "version"},
                ExpressionAttributeValues=_serialize(
                    {":later": due_at, ":polls": due.polls + 1, ":version": due.version, ":seen": due.due_at}
                ),
            )
        except _ConditionError:
            return  # somebody else was here

    def put_new(self, item: Item) -> Reversal | None:
        """Returns None if it was put, else the one that is there."""
        try:
            call(
                self._client.put_item,
                TableName=self._name,
                Item=_serialize(item),
                ConditionExpression="attribute_not_exists(#key)",
                ExpressionAttributeNames={"#key": KEY},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except _ConditionError as refusal:
            return from_item(refusal.item or {})
        return None

    def update(
        self,
        transaction_reference: str,
        changed: Mapping[str, Any],
        entry: Mapping[str, Any],
        condition: str,
        names: list[str],
        values: Mapping[str, Any],
    ) -> tuple[Reversal | None, Reversal | None]:
        """Returns the item as updated; or, where the condition does not hold, None and the item that is there."""
        sets = [f"#{name} = :{name}" for name, value in changed.items() if value is not None]
        removes = [f"#{name}" for name, value in changed.items() if value is None]
        sets += ["#version = #version + :one", "#history = list_append(#history, :entry)"]
        expression = f"SET {', '.join(sets)}" + (f" REMOVE {', '.join(removes)}" if removes else "")
        new_values = {f":{name}": value for name, value in changed.items() if value is not None}
        try:
            answer = call(
                self._client.update_item,
                TableName=self._name,
                Key=_key(transaction_reference),
                UpdateExpression=expression,
                ConditionExpression=condition,
                ExpressionAttributeNames={f"#{name}": name for name in {*changed, *names, "version", "history"}},
                ExpressionAttributeValues=_serialize({**new_values, **values, ":one": 1, ":entry": [entry]}),
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except _ConditionError as refusal:
            return None, from_item(refusal.item) if refusal.item else None
        return from_item(answer["Attributes"]), None


class TokenLease:
    """The lease under which one function of the fleet asks for an access token: an item of the same table.

    Its key is no transaction reference, and it has neither a status nor a version: no index and no event knows it.
    """

    _LEASE_KEY = "#token-lease"

    def __init__(self, client: "DynamoDBClient", table_name: str) -> None:
        self._client = client
        self._table_name = table_name
        self._owner = str(uuid4())

    def acquire(self, now: datetime, duration: timedelta) -> Hold | None:
        try:
            answer = self._update(
                "SET #owner = :owner, #until = :until ADD #fence :one",
                "attribute_not_exists(#until) OR #until <= :now",
                {":owner": self._owner, ":until": _epoch(now + duration), ":now": _epoch(now), ":one": 1},
                ["owner", "until", "fence"],
            )
            item = answer["Attributes"]
        except _ConditionError as refusal:
            held = _deserialize(refusal.item or {})
            # Our own write, whose reply was lost.
            if (held.get("owner"), held.get("until")) != (self._owner, _epoch(now + duration)):
                return None
            item = refusal.item or {}
        lease = _deserialize(item)
        written_at = lease.get("written_at")
        return Hold(int(lease["fence"]), parse_time(written_at) if written_at else None)

    def confirm(self, hold: Hold, now: datetime, duration: timedelta) -> bool:
        try:
            self._update(
                "SET #until = :until",
                "#fence = :fence",
                {":until": _epoch(now + duration), ":fence": hold.fence},
                ["until", "fence"],
            )
        except _ConditionError:
            return False
        return True

    def release(self, hold: Hold, written_at: datetime | None) -> None:
        values: Item = {":zero": 0, ":fence": hold.fence}
        expression, names = "SET #until = :zero", ["until", "fence"]
        if written_at:
            expression += ", #written_at = :written_at"
            values[":written_at"] = format_time(written_at)
            names.append("written_at")
        try:
            self._update(expression, "#fence = :fence", values, names)
        except (_ConditionError, StorageError):
            return  # a later holder has it, or it ends by itself

    def _update(self, expression: str, condition: str, values: Item, names: list[str]) -> dict[str, Any]:
        return call(
            self._client.update_item,
            TableName=self._table_name,
            Key=_key(self._LEASE_KEY),
            UpdateExpression=expression,
            ConditionExpression=condition,
            ExpressionAttributeNames={f"#{name}": name for name in names},
            ExpressionAttributeValues=_serialize(values),
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )


class _ConditionError(Exception):
    """The condition of a write does not hold; `item` is what is there, None if nothing is."""

    def __init__(self, item: Item | None) -> None:
        super().__init__()
        self.item = item


def call(operation: Any, **arguments: Any) -> dict[str, Any]:
    """Call DynamoDB, with its errors as ours."""
    try:
        answer: dict[str, Any] = operation(**arguments)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "ConditionalCheckFailedException":
            raise _ConditionError(error.response.get("Item")) from None  # type: ignore[arg-type]
        raise StorageError(f"DynamoDB did not take it ({code}).") from error
    except BotoCoreError as error:
        raise StorageError(f"DynamoDB did not answer ({type(error).__name__}).") from error
    return answer


# ------------------------------------------------------------------------------------------------------ items

_serializer = TypeSerializer()
_deserializer = TypeDeserializer()


@dataclass(frozen=True)
class StreamChange:
    """One record of the table's stream: the reversal before (None if it is new) and after."""

    sequence_number: str
    before: Reversal | None
    after: Reversal


def from_stream(record: Mapping[str, Any]) -> StreamChange:
    """Read a stream record of an item that was put or changed."""
    image = record["dynamodb"]
    before = image.get("OldImage")
    return StreamChange(image["SequenceNumber"], from_item(before) if before else None, from_item(image["NewImage"]))


def _attributes(values: Mapping[str, Any]) -> Item:
    """A reversal's values as they are stored: the amount as text, which keeps the decimals that it came with."""
    amount = values.get("amount")
    return dict(values) if amount is None else {**values, "amount": f"{amount:f}"}


def from_item(item: Item) -> Reversal:
    """A reversal from DynamoDB's attribute values, whatever else the item has."""
    values = _deserialize(item)
    known = {field.name: values[field.name] for field in fields(Reversal) if field.name in values}
    known |= {"status": Status(values["status"]), "history": tuple(values.get("history", ()))}
    if "amount" in values:
        known["amount"] = Decimal(values["amount"])
    return Reversal(**known)


def _key(transaction_reference: str) -> dict[str, Any]:
    return {KEY: {"S": transaction_reference}}


def _epoch(moment: datetime) -> Decimal:
    return Decimal(f"{moment.astimezone(UTC).timestamp():.3f}")


def _serialize(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _serializer.serialize(_storable(value)) for name, value in values.items() if value is not None}


def _deserialize(item: Item) -> Item:
    return {name: _integers(_deserializer.deserialize(value)) for name, value in item.items()}


def _storable(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: _storable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(part) for part in value]
    return value


def _integers(value: Any) -> Any:
    """All of our numbers are whole, but for the lease's times."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else value
    if isinstance(value, dict):
        return {name: _integers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_integers(part) for part in value]
    return value
