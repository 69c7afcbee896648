"""The access token, shared by every function of the fleet.

Memory first, then Secrets Manager, then Kopo Kopo's OAuth server, which one function at a time may ask: the holder of
the lease. The others wait a little and read the secret again, or go on with the old token for as long as it lasts.
"""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from .clock import Clock
from .errors import ConfigurationError, NotSentError, StorageError, TokenError
from .kopokopo import AccessToken, KopoKopo, is_printable
from .lease import Hold, Lease
from .model import format_time, parse_time
from .secretsmanager import SecretsManager

# A share of a token's life before its end, and the longest that it may be.
_EARLY = 0.1, timedelta(minutes=5)  # somebody should refresh it, while the others go on with it
_LATE = 0.02, timedelta(seconds=30)  # it might end on its way

_LEASE = timedelta(seconds=8)  # longer than one request for a token and one write of the secret
_REQUEST_TIMEOUT = 5.0  # seconds
_WAIT = timedelta(seconds=10)  # for another's token; longer than the lease of a holder who died
_PAUSE = 0.05, 0.25  # seconds between two looks at the secret, drawn at random
_SETTLED = timedelta(seconds=5)  # after which everyone sees a secret that was written
_EARLY_PAUSE = timedelta(seconds=30)  # between two tries of one function to refresh early


class AccessTokens:
    """Gives the access token, and asks for a new one when there is none or it was refused.

    Args:
        secrets: Holds the credentials, and the token that everyone shares.
        credentials_secret: `{"client_id", "client_secret"}`, filled in by the operator.
        token_secret: `{"access_token", "expires_at", "issued_at"}`, written here.
        kopokopo: Asked for tokens.
        lease: Held by whoever asks.
        clock: The time.
        on_request: Called for every request to the OAuth server.
    """

    def __init__(
        self,
        *,
        secrets: SecretsManager,
        credentials_secret: str,
        token_secret: str,
        kopokopo: KopoKopo,
        lease: Lease,
        clock: Clock,
        on_request: Callable[[], None] = lambda: None,
    ) -> None:
        self._secrets = secrets
        self._credentials_secret = credentials_secret
        self._token_secret = token_secret
        self._kopokopo = kopokopo
        self._lease = lease
        self._clock = clock
        self._on_request = on_request
        self._token: AccessToken | None = None
        self._next_early = datetime.min.replace(tzinfo=UTC)

    def get(self) -> str:
        """A token that can be used now.

        Raises:
            TokenError: there is none to be had.
        """
        token = self._token if self._lasts(self._token) else self._read()
        if token is None or not self._lasts(token):
            return self._renew(refused=None)
        self._token = token
        return self._refreshed_early(token)

    def replace(self, refused: str) -> str:
        """Another token than this one, which Kopo Kopo answered with 401.

        Raises:
            TokenError: there is none to be had.
        """
        return self._renew(refused)

    def _renew(self, refused: str | None) -> str:
        """Another's new token, or one that we ask for: whichever is there first."""
        deadline = self._clock.now() + _WAIT
        while True:
            value = self._shared(refused) or self._requested(refused)
            if value:
                return value
            if self._clock.now() >= deadline:
                raise TokenError("No access token was to be had in time.")
            self._clock.sleep(random.uniform(*_PAUSE))  # noqa: S311 - jitter, no secret

    def _refreshed_early(self, token: AccessToken) -> str:
        now = self._clock.now()
        if now < _before_end(token, *_EARLY) or now < self._next_early:
            return token.value
        self._next_early = now + _EARLY_PAUSE
        try:
            return self._requested(refused=token.value) or token.value
        except TokenError:
            return token.value  # it lasts a while yet, and the next to come tries again

    def _shared(self, refused: str | None) -> str | None:
        token = self._read()
        if token is None or not self._lasts(token) or token.value == refused:
            return None
        self._token = token
        return token.value

    def _requested(self, refused: str | None) -> str | None:
        """A token from the OAuth server, under the lease; None if another holds it or has just written a newer one."""
        now = self._clock.now()
        written_at = None
        try:
            hold = self._lease.acquire(now, _LEASE)
        except StorageError as error:
            raise TokenError(str(error)) from None
        if hold is None:
            return None
        try:
            # Whoever held the lease before us may have written a token since we looked; and for a moment Secrets
            # Manager may still show the one before it, which the lease's own word tells.
            current = self._read()
            if current and self._lasts(current) and current.value != refused:
                self._token = current
                return current.value
            if hold.written_at and abs(now - hold.written_at) < _SETTLED and _is_older(current, hold.written_at):
                return None
            token = self._request(now)
            if token is None:
                return None
            self._token = token
            if self._write(token, hold):
                written_at = token.issued_at
            return token.value
        finally:
            self._lease.release(hold, written_at)

    def _request(self, now: datetime) -> AccessToken | None:
        """None if the lease, taken at `now`, ended on the way here: another may be asking by this time."""
        try:
            client_id, client_secret = self._secrets.read_fields(self._credentials_secret, "client_id", "client_secret")
            if self._clock.now() - now >= _LEASE:
                return None
            self._on_request()
            return self._kopokopo.request_token(client_id, client_secret, now, _REQUEST_TIMEOUT)
        except (ConfigurationError, StorageError, NotSentError) as error:
            raise TokenError(str(error)) from None

    def _read(self) -> AccessToken | None:
        """The token that everyone shares; None as well where Secrets Manager does not give it."""
        try:
            document = self._secrets.read(self._token_secret) or {}
            value, expires_at = document["access_token"], _time(document["expires_at"])
            issued_at = _time(document.get("issued_at", document["expires_at"]))
        except (ConfigurationError, StorageError, ArithmeticError, KeyError, OSError, TypeError, ValueError):
            return None
        return AccessToken(value, issued_at, expires_at) if isinstance(value, str) and is_printable(value) else None

    def _write(self, token: AccessToken, hold: Hold) -> bool:
        """Share it, unless a later holder of the lease has a newer one."""
        document = {
            "access_token": token.value,
            "expires_at": format_time(token.expires_at),
            "issued_at": format_time(token.issued_at),
        }
        try:
            if not self._lease.confirm(hold, self._clock.now(), _LEASE):
                return False
            self._secrets.write(self._token_secret, document)
        except StorageError:
            return False  # this function has its token; the others will have to ask for theirs
        return True

    def _lasts(self, token: AccessToken | None) -> bool:
        return token is not None and self._clock.now() < _before_end(token, *_LATE)


def _before_end(token: AccessToken, share: float, longest: timedelta) -> datetime:
    return token.expires_at - min(share * (token.expires_at - token.issued_at), longest)


def _is_older(token: AccessToken | None, written_at: datetime) -> bool:
    return token is None or format_time(token.issued_at) < format_time(written_at)


def _time(value: str | int | float | Decimal) -> datetime:
    if not isinstance(value, str):
        return datetime.fromtimestamp(float(value), UTC)
    moment = parse_time(value)
    if moment.tzinfo is None:
        raise ValueError("A time without an offset.")
    return moment
