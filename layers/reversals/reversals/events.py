"""The events that subscribers receive: CloudEvents 1.0, one per change of a reversal's status or conflict. Pure."""

from typing import Any

from .model import Reversal, Status

SOURCE = "kopokopo-reversals"


def is_news(before: Reversal | None, after: Reversal) -> bool:
    """Whether a change of the table is anybody else's business.

    A claim is not, and neither is a detail that was filled in later, nor the bookkeeping of reconcile.
    """
    if after.status is Status.INITIATING and not after.conflict:
        return False
    return before is None or _told(before) != _told(after)


def _told(reversal: Reversal) -> tuple[Any, ...]:
    return reversal.status, reversal.attempt, reversal.conflict


def cloud_event(reversal: Reversal) -> dict[str, Any]:
    """The event that tells how a reversal stands.

    Its id is the same whenever the same state is told, so that a subscriber can drop what it has seen; `sequence` tells
    which of two is the newer.
    """
    return {
        "specversion": "1.0",
        "id": f"{reversal.transaction_reference}:{reversal.version}",
        "source": SOURCE,
        "type": f"reversal.{'conflict' if reversal.conflict else reversal.status}",
        "subject": reversal.transaction_reference,
        "time": reversal.updated_at,
        "datacontenttype": "application/json",
        "sequence": reversal.version,
        "data": reversal.as_json(history=False),
    }
