"""Taking what Kopo Kopo sends: check the signature, see what it proves, keep that for good."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from . import payloads
from .errors import SignatureError, StorageError, UnboundResultError
from .evidence_queue import EvidenceQueue, from_message
from .model import Reversal
from .observability import count, logger
from .payloads import Kind
from .rules import Evidence
from .signing_keys import SigningKeys
from .store import Store


class Receipt(StrEnum):
    """What became of a notification; all of these are durable, or need not be."""

    RECORDED = "recorded"
    KNOWN = "known"
    QUEUED = "queued"
    IGNORED = "ignored"


class Notifications:
    """Receives results and webhooks.

    Args:
        keys: Check the signatures.
        store: The reversals.
        queue: Keeps evidence while the table cannot.
    """

    def __init__(self, keys: SigningKeys, store: Store, queue: EvidenceQueue) -> None:
        self._keys = keys
        self._store = store
        self._queue = queue

    def receive(self, body: bytes, signature: str | None, target: tuple[str, str] | None) -> Receipt:
        """Take one notification.

        Args:
            body: The raw bytes.
            signature: The header's value.
            target: The transaction reference and the attempt in the path at which it arrived, as they stand there;
                None at the webhooks' path.

        Raises:
            SignatureError: Kopo Kopo did not sign it.
            InvalidRequestError: it did, and yet it cannot be used.
            StorageError: neither the table nor the queue took it; it has to be sent again.
        """
        try:
            self._keys.verify(body, signature)
        except SignatureError:
            count("SignatureFailures")
            raise
        document = payloads.parse_json(body, unique_keys=False)
        kind = payloads.kind(document)
        try:
            if kind is Kind.RESULT and target is not None:
                transaction_reference, attempt = payloads.result_target(*target)
                evidence = payloads.bound_outcome(document, transaction_reference, attempt)
                return self._keep(transaction_reference, evidence)
            if kind is Kind.REVERSED_WEBHOOK:
                return self._keep(*payloads.reversed_webhook(document))
        except UnboundResultError:
            count("UnboundResults")
            raise
        count("IgnoredNotifications")
        return Receipt.IGNORED

    def take_from_queue(self, records: Iterable[Mapping[str, Any]]) -> list[str]:
        """Write what waited in the queue; returns the ids of the messages that have to wait on."""
        waiting = []
        for record in records:
            try:
                transaction_reference, evidence = from_message(record)
                self._record(transaction_reference, evidence)
            except UnboundResultError as error:
                count("UnboundResults")
                logger.warning(str(error), extra={"message_id": record["messageId"]})
            except (StorageError, LookupError, TypeError, ValueError) as error:
                # What cannot be read goes the way of what cannot be written: in the end, to the dead letters.
                logger.error(
                    "A queued message waits on", extra={"message_id": record["messageId"], "error": str(error)}
                )
                waiting.append(record["messageId"])
        return waiting

    def _keep(self, transaction_reference: str, evidence: Evidence) -> Receipt:
        logger.set_correlation_id(transaction_reference)
        try:
            _, changed = self._record(transaction_reference, evidence)
        except StorageError as error:
            logger.warning("Queued, since the table did not take it", extra={"error": str(error)})
            self._queue.put(transaction_reference, evidence)
            count("Queued")
            return Receipt.QUEUED
        return Receipt.RECORDED if changed else Receipt.KNOWN

    def _record(self, transaction_reference: str, evidence: Evidence) -> tuple[Reversal, bool]:
        reversal, changed = self._store.record(transaction_reference, evidence)
        logger.info(
            "Notification",
            extra={
                "correlation_id": transaction_reference,
                "fact": str(evidence.fact),
                "status": str(reversal.status),
                "conflict": reversal.conflict,
                "changed": changed,
            },
        )
        return reversal, changed
