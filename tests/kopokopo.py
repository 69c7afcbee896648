"""Kopo Kopo's signed payloads as its public pages show them, with overrides: the one builder of all tests.

It shares nothing with the code under test, nor with the simulator: it judges both.
"""

import hashlib
import hmac
import json
from typing import Any

Document = dict[str, Any]

API_KEY = "local-api-key"
REFERENCE = "TQ2L262026"
KOPOKOPO_ID = "67b1bb87-b89b-4366-93c9-a2bb6944ec99"
REVERSAL_REFERENCE = "RVTEST01"
PHONE_NUMBER = "+254700000000"

ABSENT: Any = object()
"""An override that takes a field away."""

TRANSFERRED: Document = {
    "amount": "400.0",
    "status": "Transferred",
    "origination_time": "2026-05-01T10:00:05.000+03:00",
    "transaction_reference": REVERSAL_REFERENCE,
}
CANCELLED: Document = {**TRANSFERRED, "status": "Cancelled", "transaction_reference": None}


def result(
    reference: str = REFERENCE,
    attempt: int = 1,
    *,
    bulk: Any = TRANSFERRED,
    id: Any = KOPOKOPO_ID,  # noqa: A002 - its name in the payload
    type: Any = "reversal",  # noqa: A002
    **attributes: Any,
) -> Document:
    """A reversal's result, which is its status document as well.

    Args:
        reference: Names, with the attempt, the callback URL at which it arrives.
        attempt: The attempt that it is a result of.
        bulk: `reversal_bulk_payment`.
        id: Kopo Kopo's id of the reversal.
        type: `data.type`.
        attributes: Over the usual ones.
    """
    usual = {
        "status": "Processed",
        "created_at": "2026-05-01T10:00:00.123+03:00",
        "transaction_reference": "059278a2-8ffe-4f31-b3b4-d6c76770c72f",
        "reason": "Erroneous payment",
        "reversal_bulk_payment": bulk,
        "errors": None,
        "metadata": {"ticket": "T-1"},
        "_links": {
            "callback_url": f"https://merchant.example/kopokopo/results/{reference}/{attempt}",
            "self": f"https://sandbox.kopokopo.com/api/v2/reversals/{id}",
        },
    }
    return _present({"data": _present({"id": id, "type": type, "attributes": _present(usual | attributes)})})


def webhook(
    reference: Any = REFERENCE,
    *,
    topic: Any = "buygoods_transaction_reversed",
    type: Any = ABSENT,  # noqa: A002
    **resource: Any,
) -> Document:
    """A `*_transaction_reversed` webhook; the overrides are of `event.resource`."""
    b2b = topic == "b2b_transaction_reversed"
    sender = {
        "sender_phone_number": PHONE_NUMBER,
        "hashed_sender_phone": hashlib.sha256(PHONE_NUMBER.encode()).hexdigest(),
        "sender_first_name": "A",
        "sender_middle_name": "",
        "sender_last_name": "B",
    }
    usual = {
        "id": "458712f4-0000-4000-8000-000000000001",
        "amount": "400.0",
        "status": "Reversed",
        "system": "Lipa Na M-PESA",
        "currency": "KES",
        "reference": reference,
        "till_number": "000000",
        "origination_time": "2026-05-01T10:00:05+03:00",
        **({"sending_till": "000001"} if b2b else sender),
    }
    if type is ABSENT:
        type = "External Till To Till Reversal Transaction" if b2b else "Buygoods Transaction"  # noqa: A001
    return {
        "topic": topic,
        "id": "evt-1",
        "created_at": "2026-05-01T10:00:06+03:00",
        "event": {"type": type, "resource": _present(usual | resource)},
        "_links": {
            "self": "https://sandbox.kopokopo.com/api/v2/webhook_events/evt-1",
            "resource": "https://sandbox.kopokopo.com/api/v2/transactions/458712f4-0000-4000-8000-000000000001",
        },
    }


def anything(*values: Any) -> tuple[Any, ...]:
    """Values of any type, one of which may be what Kopo Kopo, or anybody, sends."""
    return values


def encode(document: Any) -> bytes:
    """JSON as Kopo Kopo sends it: compact, and UTF-8 as it is."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def sign(body: bytes, key: str = API_KEY) -> str:
    return hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


def _present(fields: Document) -> Document:
    return {name: value for name, value in fields.items() if value is not ABSENT}
