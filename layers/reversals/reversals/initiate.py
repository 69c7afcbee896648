"""Initiating a reversal: claim, POST, answer."""

from collections.abc import Callable
from dataclasses import replace

from . import payloads
from .errors import NotSentError, RefusedError, StorageError, TokenRefusedError
from .kopokopo import KopoKopo
from .model import Reversal, ReversalRequest, Source
from .observability import count, logger
from .rules import TABLE, Evidence, Fact
from .store import Store
from .tokens import AccessTokens

# Seconds that must be left after a POST that takes as long as it may, to write down what came of it.
_TIME_TO_RECORD = 7.0


class Initiation:
    """Sends a reversal to Kopo Kopo, once.

    Args:
        store: The reversals.
        kopokopo: The API.
        tokens: Its access tokens.
        callback_base_url: Where Kopo Kopo reaches us; empty for wherever the request came in.
    """

    def __init__(self, store: Store, kopokopo: KopoKopo, tokens: AccessTokens, callback_base_url: str) -> None:
        self._store = store
        self._kopokopo = kopokopo
        self._tokens = tokens
        self._callback_base_url = callback_base_url

    def initiate(
        self, request: ReversalRequest, own_url: str, seconds_left: Callable[[], float]
    ) -> tuple[Reversal, bool]:
        """Reverse a transaction.

        Args:
            request: What the merchant asks for.
            own_url: The base URL at which this request arrived.
            seconds_left: How much longer this function may run.

        Returns:
            The reversal, and whether it was sent now. If not, it is the same request again, or its end was told from
            elsewhere.

        Raises:
            ReversalConflictError: the request disagrees with the reversal that there is.
            RefusedError: Kopo Kopo said no.
            NotSentError: it did not get as far as Kopo Kopo.
            StorageError: it could not be claimed; nothing was sent.
        """
        claimed, is_ours = self._store.claim(request)
        if not is_ours:
            return claimed, False
        count("Initiated")
        path = payloads.result_path(request.transaction_reference, claimed.attempt)
        evidence = self._send(request, (self._callback_base_url or own_url) + path, seconds_left)
        reversal = self._record(claimed, evidence)
        # Where the next attempt has begun already, what came of ours is what the evidence says.
        is_latest = reversal.attempt == claimed.attempt
        code = (reversal.failure or {}).get("code") if is_latest else TABLE[evidence.fact].failure
        if code == "not_sent":
            again = "Try again with another Idempotency-Key." if request.idempotency_key else "It is safe to try again."
            raise NotSentError(f"It was not sent: {evidence.message} {again}", reversal)
        if code == "rejected":
            raise RefusedError(f"Kopo Kopo refused the reversal: {evidence.message}", reversal)
        return reversal, evidence.fact not in (Fact.NOT_SENT, Fact.REJECTED)

    def _send(self, request: ReversalRequest, callback_url: str, seconds_left: Callable[[], float]) -> Evidence:
        """One POST; a second only after a 401, which was not processed."""
        try:
            token = self._tokens.get()
            try:
                return self._post(request, callback_url, token, seconds_left)
            except TokenRefusedError:
                token = self._tokens.replace(refused=token)
                return self._post(request, callback_url, token, seconds_left)
        except (NotSentError, TokenRefusedError) as error:
            return Evidence(Fact.NOT_SENT, Source.API, message=str(error))

    def _post(
        self, request: ReversalRequest, callback_url: str, token: str, seconds_left: Callable[[], float]
    ) -> Evidence:
        if seconds_left() < self._kopokopo.timeout + _TIME_TO_RECORD:
            raise NotSentError("Too little of the function's time was left.")
        return self._kopokopo.reverse(request, callback_url, token)

    def _record(self, reversal: Reversal, evidence: Evidence) -> Reversal:
        about = {"fact": str(evidence.fact), "kopokopo_id": evidence.kopokopo_id}
        try:
            recorded, _ = self._store.record(
                reversal.transaction_reference, replace(evidence, attempt=reversal.attempt)
            )
        except StorageError as error:
            # It was sent, so this is no failure: the result, or reconcile, will tell. Until then nobody knows more.
            logger.critical("Kopo Kopo's answer could not be stored", extra={**about, "error": str(error)})
            return reversal
        logger.info("Kopo Kopo answered", extra={**about, "status": str(recorded.status)})
        return recorded
