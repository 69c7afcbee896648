"""The one module that talks to Kopo Kopo.

Credentials go to the two configured origins and nowhere else: no URL that came from outside is ever followed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from . import payloads
from .errors import (
    InvalidRequestError,
    OutcomeUnknownError,
    ReversalNotFoundError,
    TokenError,
    TokenRefusedError,
)
from .model import ReversalRequest, Source
from .rules import Evidence, Fact
from .transport import Answer, Transport

_JSON = "application/json"
_LONGEST_LIFETIME = 30 * 24 * 3600.0  # seconds


@dataclass(frozen=True)
class AccessToken:
    """A bearer token and its life."""

    value: str = field(repr=False)
    issued_at: datetime
    expires_at: datetime


class KopoKopo:
    """The Kopo Kopo API, as far as reversals need it.

    Args:
        api_url: Origin of the API.
        auth_url: Origin that issues tokens.
        timeout: Seconds that any one call may take as a whole.
        transport: How calls are made.
    """

    def __init__(self, api_url: str, auth_url: str, timeout: float, transport: Transport) -> None:
        self.timeout = timeout
        self._api_url = api_url.rstrip("/")
        self._auth_url = auth_url.rstrip("/")
        self._transport = transport

    def request_token(self, client_id: str, client_secret: str, now: datetime, timeout: float) -> AccessToken:
        """Exchange the application's credentials for a token: `POST /oauth/token`.

        Args:
            client_id: The application's.
            client_secret: The application's.
            now: The token's life is counted from here: by our clock, and from before it was asked for.
            timeout: Seconds for the whole call.

        Raises:
            TokenError: there was no answer, or none with a token in it.
            NotSentError: Kopo Kopo could not be reached.
        """
        form = {"client_id": client_id, "client_secret": client_secret, "grant_type": "client_credentials"}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": _JSON}
        try:
            answer = self._transport.call(
                "POST",
                f"{self._auth_url}/oauth/token",
                headers=headers,
                body=urlencode(form).encode(),
                timeout=timeout,
            )
        except OutcomeUnknownError:
            raise TokenError("Kopo Kopo did not answer the request for an access token.") from None
        if answer.status == 401:
            raise TokenError("Kopo Kopo does not know these credentials (401): check the credentials secret.")
        document = _document(answer) if answer.status == 200 else None
        match document:
            case {"access_token": str(value), "expires_in": lifetime} if is_printable(value):
                seconds = payloads.amount(lifetime)
                if seconds is not None:
                    return AccessToken(value, now, now + timedelta(seconds=min(float(seconds), _LONGEST_LIFETIME)))
        raise TokenError(f"Kopo Kopo answered {answer.status} to the request for an access token, without one.")

    def reverse(self, request: ReversalRequest, callback_url: str, access_token: str) -> Evidence:
        """Ask for a reversal, once: `POST /api/v2/reversals`. There is no idempotency key, so it is never repeated.

        Returns:
            What the answer, or its absence, proves.

        Raises:
            TokenRefusedError: 401, which was not processed.
            NotSentError: it never left.
        """
        document = {
            "transaction_reference": request.transaction_reference,
            "reason": request.reason,
            "metadata": dict(request.metadata),
            "_links": {"callback_url": callback_url},
        }
        try:
            answer = self._transport.call(
                "POST",
                self._api_url + payloads.REVERSALS_PATH,
                headers={**_bearer(access_token), "Content-Type": _JSON},
                body=json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(),
                timeout=self.timeout,
            )
        except OutcomeUnknownError as error:
            return Evidence(Fact.AMBIGUOUS, Source.API, message=str(error))
        if answer.status == 401:
            raise TokenRefusedError("Kopo Kopo refused the access token (401).")
        # Its words are shown and stored: should it repeat what we sent, the token must not be among them.
        body = answer.body and answer.body.replace(access_token.encode(), b"(access token)")
        return payloads.answer(answer.status, answer.headers.get("location"), body, self._api_url)

    def outcome(self, kopokopo_id: str, access_token: str) -> Evidence:
        """Ask how a reversal stands: `GET /api/v2/reversals/{id}`.

        Raises:
            TokenRefusedError: 401.
            ReversalNotFoundError: 404, which proves nothing.
            InvalidRequestError: the answer says nothing that can be read.
            NotSentError: Kopo Kopo could not be reached.
            OutcomeUnknownError: it did not answer.
        """
        answer = self._transport.call(
            "GET",
            f"{self._api_url}{payloads.REVERSALS_PATH}/{kopokopo_id}",
            headers=_bearer(access_token),
            timeout=self.timeout,
        )
        if answer.status == 401:
            raise TokenRefusedError("Kopo Kopo refused the access token (401).")
        if answer.status == 404:
            raise ReversalNotFoundError("Kopo Kopo does not know this id (404).")
        if answer.status != 200:
            raise InvalidRequestError(f"Kopo Kopo answered {answer.status} when asked about a reversal.")
        return payloads.outcome(_document(answer), Source.POLL)

    def subscribe(self, subscription: Mapping[str, Any], access_token: str) -> None:
        """Subscribe to a webhook: `POST /api/v2/webhook_subscriptions`. Twice the same does no harm: events may repeat.

        Raises:
            TokenRefusedError: 401.
            InvalidRequestError: Kopo Kopo did not take it.
            NotSentError: Kopo Kopo could not be reached.
            OutcomeUnknownError: it did not answer.
        """
        answer = self._transport.call(
            "POST",
            f"{self._api_url}{payloads.SUBSCRIPTIONS_PATH}",
            headers={**_bearer(access_token), "Content-Type": _JSON},
            body=json.dumps(subscription).encode(),
            timeout=self.timeout,
        )
        if answer.status == 401:
            raise TokenRefusedError("Kopo Kopo refused the access token (401).")
        if not 200 <= answer.status < 300:
            words = payloads.error_words(answer.body or b"") or "no reason given"
            raise InvalidRequestError(f"Kopo Kopo did not take the subscription ({answer.status}): {words}")


def _bearer(access_token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {access_token}", "Accept": _JSON}


def is_printable(text: str) -> bool:
    """Whether it can stand in a header."""
    return text.isascii() and text.isprintable() and text != ""


def _document(answer: Answer) -> Any:
    try:
        return payloads.parse_json(answer.body or b"", unique_keys=False)
    except InvalidRequestError:
        return None
