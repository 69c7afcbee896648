"""What `GET /reversals` asks for, and where a list goes on. Pure."""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidRequestError
from .model import Reversal, Status

_PAGE_BYTES = 5 * 1024 * 1024  # a Lambda function answers with 6 MB at the most
_LIMIT = 100
_DEFAULT_LIMIT = 50
_CHECKSUM = 8  # bytes


@dataclass(frozen=True)
class Position:
    """The last reversal of a page.

    Attributes:
        status: The status that the list is of; None if it is of all.
        created_at: The reversal's.
        transaction_reference: The reversal's.
    """

    status: str | None
    created_at: str
    transaction_reference: str

    def cursor(self) -> str:
        """Opaque text for the client to hand back as it is."""
        content = json.dumps([self.status, self.created_at, self.transaction_reference]).encode()
        return base64.urlsafe_b64encode(_checksum(content) + content).decode().rstrip("=")


@dataclass(frozen=True)
class Query:
    """What to list.

    Attributes:
        status: Of one status, or of all.
        limit: At most so many.
        after: Go on behind this one.
    """

    status: Status | None
    limit: int
    after: Position | None


def query(parameters: Mapping[str, str]) -> Query:
    """Read the query string of `GET /reversals`.

    Raises:
        InvalidRequestError: with every parameter that has to be mended.
    """
    errors = [
        {"field": name, "message": "is not a parameter of this request"}
        for name in parameters.keys() - {"status", "limit", "cursor"}
    ]
    status, limit = parameters.get("status"), parameters.get("limit", str(_DEFAULT_LIMIT))
    if status is not None and status not in set(Status):
        errors.append({"field": "status", "message": f"must be one of {', '.join(Status)}"})
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= _LIMIT):
        errors.append({"field": "limit", "message": f"must be a whole number from 1 to {_LIMIT}"})
    if errors:
        raise InvalidRequestError("The request has parameters that cannot be used.", errors)
    cursor = parameters.get("cursor")
    after = None if cursor is None else position(cursor, status)
    return Query(None if status is None else Status(status), int(limit), after)


def page(reversals: Sequence[Reversal], end: Position | None, status: str | None) -> dict[str, Any]:
    """The answer to a query: as many of the reversals as fit into one, and the cursor behind the last of them.

    Args:
        reversals: What was found.
        end: Where the list goes on behind them; None at its end.
        status: The status that the list is of; None if it is of all.
    """
    items: list[dict[str, Any]] = []
    size = 0
    for reversal in reversals:
        item = reversal.as_json(history=False)
        size += len(json.dumps(json.dumps(item)))  # the body is text within Lambda's own JSON
        if items and size > _PAGE_BYTES:
            last = items[-1]
            end = Position(status, last["created_at"], last["transaction_reference"])
            break
        items.append(item)
    return {"items": items, "cursor": end.cursor() if end else None}


def position(cursor: str, status: str | None) -> Position:
    """Read a cursor.

    Raises:
        InvalidRequestError: it is none of ours, or of another list.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    checksum, content = raw[:_CHECKSUM], raw[_CHECKSUM:]
    if not content or checksum != _checksum(content):
        raise InvalidRequestError("The cursor is not one that this API gave.", [_ERROR])
    found = Position(*json.loads(content))
    if found.status != status:
        raise InvalidRequestError("The cursor is of a list with another status.", [_ERROR])
    return found


_ERROR = {"field": "cursor", "message": "must be the cursor of the page before, with the same status"}


def _checksum(content: bytes) -> bytes:
    """Not a secret, but a slip of the pen is noticed: a cursor gives nobody anything that its list does not."""
    return hashlib.sha256(b"reversals cursor" + content).digest()[:_CHECKSUM]
