"""Faults that a service like this may well have, planted on purpose: the simulation has to find each of them."""

import datetime as real_datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.idempotency import base as handler
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyPersistenceLayerError,
)
from aws_lambda_powertools.utilities.idempotency.persistence import base, datarecord, dynamodb
from botocore.exceptions import BotoCoreError, ClientError
from reversals import notifications, payloads, rules, signature
from reversals.archive import Archive
from reversals.errors import NotSentError, RefusedError, ReversalNotFoundError, StorageError
from reversals.initiate import Initiation
from reversals.kopokopo import KopoKopo
from reversals.lease import Hold
from reversals.model import Reversal, ReversalRequest, Source, Status
from reversals.notifications import Notifications
from reversals.publish import Publication
from reversals.reconcile import Reconciliation
from reversals.rules import Evidence, Fact
from reversals.signing_keys import SigningKeys
from reversals.store import DueReversal, Store, TokenLease


@contextmanager
def _instead(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Something else in place of an attribute, made from it."""
    original = getattr(owner, name)
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def _unconditional_write() -> AbstractContextManager[Any]:
    """The callback writes its result over whatever is there."""

    def make(original: Any) -> Any:
        def update_unread(self: Any, reference: str, evidence: Evidence, now: Any) -> Any:
            if evidence.source is not Source.CALLBACK:
                return original(self, reference, evidence, now)
            change = rules.expected(evidence, evidence.attempt or 1, now)
            return self._write(reference, change, "attribute_exists(#version)", ["version"], {})

        return update_unread

    return _instead(Store, "_update_unread", make)


def _post_again() -> AbstractContextManager[Any]:
    """A POST whose outcome is unknown is sent once more."""

    def make(original: Any) -> Any:
        def reverse(self: Any, *arguments: Any) -> Evidence:
            evidence: Evidence = original(self, *arguments)
            return original(self, *arguments) if evidence.fact is Fact.AMBIGUOUS else evidence

        return reverse

    return _instead(KopoKopo, "reverse", make)


def _idempotency_decorator() -> AbstractContextManager[Any]:
    """Powertools' Idempotency around the POST, in place of the claim: what has not come to its end is run again."""
    now: list[Callable[[], float]] = []

    class Moved(real_datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Moved":
            return cls.fromtimestamp(now[-1](), tz)

    def make(_: Any) -> Any:
        def initiate(
            self: Any, request: ReversalRequest, own_url: str, seconds_left: Callable[[], float]
        ) -> tuple[Reversal, bool]:
            store = self._store
            now.append(lambda: store._clock.now().timestamp())
            layer = DynamoDBPersistenceLayer(
                table_name="reversals", key_attr="transaction_reference", boto3_client=store._table._client
            )
            config = IdempotencyConfig()
            config.register_lambda_context(
                SimpleNamespace(get_remaining_time_in_millis=lambda: int(seconds_left() * 1000))  # type: ignore[arg-type]
            )

            def send(*, reference: str) -> Mapping[str, str]:
                first = rules.claim(request, "any", store._clock.now())
                claimed = store._create(first) or first
                callback_url = self._callback_base_url + payloads.result_path(reference, claimed.attempt)
                evidence = self._send(request, callback_url, seconds_left)
                self._record(claimed, evidence)
                return {}

            once = idempotent_function(
                send, data_keyword_argument="reference", persistence_store=layer, config=config, key_prefix="#once"
            )
            try:
                with suppress(IdempotencyAlreadyInProgressError):
                    once(reference=request.transaction_reference)
            except (IdempotencyPersistenceLayerError, BotoCoreError, ClientError) as error:
                raise StorageError(str(error)) from None
            return store.get(request.transaction_reference), False

        return initiate

    moved = SimpleNamespace(datetime=Moved, timedelta=real_datetime.timedelta, timezone=real_datetime.timezone)
    patches = ExitStack()
    for module in (handler, base, datarecord, dynamodb):
        patches.enter_context(_instead(module, "dt", lambda _: moved))
    patches.enter_context(_instead(Initiation, "initiate", make))
    return patches


def _publish_swallows() -> AbstractContextManager[Any]:
    """Publish says that all is well, whatever the topic said."""

    def make(original: Any) -> Any:
        def publish(self: Any, records: Sequence[Mapping[str, Any]]) -> list[str]:
            original(self, records)
            return []

        return publish

    return _instead(Publication, "publish", make)


def _not_found_is_failed() -> AbstractContextManager[Any]:
    """Reconcile calls failed what it cannot find at Kopo Kopo."""

    def make(original: Any) -> Any:
        def evidence(self: Any, due: DueReversal) -> Evidence | None:
            gone = Evidence(Fact.CANCELLED, Source.POLL, due.attempt, message="Not found")
            try:
                return original(self, due) or gone
            except ReversalNotFoundError:
                return gone

        return evidence

    return _instead(Reconciliation, "_evidence", make)


def _signature_on_rewritten_json() -> AbstractContextManager[Any]:
    """The signature is checked on JSON that was parsed and written again."""

    def make(original: Any) -> Any:
        def verify(body: bytes, given: str | None, keys: Iterable[str]) -> None:
            rewritten = json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":")).encode()
            original(rewritten, given, keys)

        return verify

    return _instead(signature, "verify", make)


def _processed_is_reversed() -> AbstractContextManager[Any]:
    """`Processed` is taken for the end of it, whatever the bulk payment says."""

    def make(original: Any) -> Any:
        def outcome(document: Any, *arguments: Any) -> Evidence:
            evidence: Evidence = original(document, *arguments)
            processed = document["data"]["attributes"]["status"] == "Processed"
            return replace(evidence, fact=Fact.TRANSFERRED) if processed else evidence

        return outcome

    return _instead(payloads, "outcome", make)


def _result_at_any_door() -> AbstractContextManager[Any]:
    """A signed result counts for whatever reversal it is posted to."""

    def make(_: Any) -> Any:
        return lambda document, reference, attempt: payloads.outcome(document, Source.CALLBACK, attempt)

    return _instead(payloads, "bound_outcome", make)


def _no_lease() -> AbstractContextManager[Any]:
    """Whoever has no token asks for one."""
    return _instead(TokenLease, "acquire", lambda _: lambda self, now, duration: Hold(0, None))


def _timeout_is_not_sent() -> AbstractContextManager[Any]:
    """A POST that was not answered in time counts as not sent, and safe to try again."""

    def make(original: Any) -> Any:
        def reverse(self: Any, *arguments: Any) -> Evidence:
            evidence: Evidence = original(self, *arguments)
            if evidence.fact is Fact.AMBIGUOUS:
                raise NotSentError("It timed out.")
            return evidence

        return reverse

    return _instead(KopoKopo, "reverse", make)


def _claim_over_a_claim() -> AbstractContextManager[Any]:
    """The next attempt is claimed whatever became of the reversal since it was read."""

    def make(original: Any) -> Any:
        def update(self: Any, current: Reversal, change: rules.Change) -> Any:
            if change.values.get("status") is not Status.INITIATING:
                return original(self, current, change)
            return self._write(current.transaction_reference, change, "attribute_exists(#version)", ["version"], {})

        return update

    return _instead(Store, "_update", make)


def _queue_forgets() -> AbstractContextManager[Any]:
    """Evidence leaves the queue, whether the table took it or not."""

    def make(original: Any) -> Any:
        def take_from_queue(self: Any, records: Sequence[Mapping[str, Any]]) -> list[str]:
            original(self, records)
            return []

        return take_from_queue

    return _instead(Notifications, "take_from_queue", make)


def _archive_forgets() -> AbstractContextManager[Any]:
    """What can never be published counts as kept, whether the bucket took it or not."""

    def make(original: Any) -> Any:
        def keep(self: Any, record: Mapping[str, Any]) -> None:
            with suppress(StorageError):
                original(self, record)

        return keep

    return _instead(Archive, "keep", make)


def _queue_loses_details() -> AbstractContextManager[Any]:
    """Evidence comes out of the queue without the amount that it went in with."""

    def make(original: Any) -> Any:
        def from_message(record: Mapping[str, Any]) -> tuple[str, Evidence]:
            reference, evidence = original(record)
            return reference, replace(evidence, amount=None)

        return from_message

    return _instead(notifications, "from_message", make)


def _older_transfer_in_silence() -> AbstractContextManager[Any]:
    """That an older attempt moved money is noted, and raises no conflict."""

    def make(original: Any) -> Any:
        def about_another_attempt(*arguments: Any) -> rules.Change | None:
            change: rules.Change | None = original(*arguments)
            parts = (change.values, change.entry) if change else ()
            quiet = [{name: value for name, value in part.items() if name != "conflict"} for part in parts]
            return rules.Change(*quiet) if quiet else None

        return about_another_attempt

    return _instead(rules, "_about_another_attempt", make)


def _previous_key_forgotten() -> AbstractContextManager[Any]:
    """While the API key is rotated, the new one counts alone."""
    return _instead(SigningKeys, "_previous", lambda _: lambda self: [])


def _key_starts_again() -> AbstractContextManager[Any]:
    """An Idempotency-Key whose attempt failed starts the next one."""

    def make(original: Any) -> Any:
        return lambda existing, *others: original(replace(existing, idempotency_key=None), *others)

    return _instead(rules, "claim_again", make)


def _refusal_as_success() -> AbstractContextManager[Any]:
    """What Kopo Kopo refused is answered as the same request again: 200."""

    def make(original: Any) -> Any:
        def initiate(*arguments: Any) -> tuple[Reversal, bool]:
            try:
                answer: tuple[Reversal, bool] = original(*arguments)
            except RefusedError as refused:
                return refused.reversal, False
            return answer

        return initiate

    return _instead(Initiation, "initiate", make)


@dataclass(frozen=True)
class Fault:
    """A fault, what it breaks as the judge calls it, and a seed that shows it."""

    plant: Callable[[], AbstractContextManager[Any]]
    breaks: str
    seed: int

    @property
    def what(self) -> str:
        return (self.plant.__doc__ or "").strip()


FAULTS: Mapping[str, Fault] = {
    "unconditional-write": Fault(_unconditional_write, "C", 9),
    "post-again": Fault(_post_again, "A", 0),
    "idempotency-decorator": Fault(_idempotency_decorator, "A", 3),
    "publish-swallows": Fault(_publish_swallows, "B", 17),
    "not-found-is-failed": Fault(_not_found_is_failed, "D", 0),
    "signature-on-rewritten-json": Fault(_signature_on_rewritten_json, "G", 0),
    "timeout-is-not-sent": Fault(_timeout_is_not_sent, "A", 0),
    "processed-is-reversed": Fault(_processed_is_reversed, "truth", 13),
    "result-at-any-door": Fault(_result_at_any_door, "G", 6),
    "no-lease": Fault(_no_lease, "F", 8),
    "claim-over-a-claim": Fault(_claim_over_a_claim, "A", 63),
    "queue-forgets": Fault(_queue_forgets, "G", 101),
    "archive-forgets": Fault(_archive_forgets, "B", 653),
    "queue-loses-details": Fault(_queue_loses_details, "truth", 101),
    "older-transfer-in-silence": Fault(_older_transfer_in_silence, "C", 89),
    "previous-key-forgotten": Fault(_previous_key_forgotten, "G", 143),
    "key-starts-again": Fault(_key_starts_again, "key", 57),
    "refusal-as-success": Fault(_refusal_as_success, "answer", 3),
}


def planted(name: str) -> AbstractContextManager[Any]:
    """The service with this fault; with none, as it is."""
    return FAULTS[name].plant() if name else nullcontext()
