"""The API key that Kopo Kopo signs with, and the one before it while it is being rotated."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from . import signature
from .clock import Clock
from .errors import ConfigurationError, SignatureError, StorageError
from .secretsmanager import SecretsManager

_FIELD = "api_key"

# A forged request must not cost us a read of the secret each time.
_LOOK_AGAIN = timedelta(seconds=10)


class SigningKeys:
    """Verifies with the keys in memory, and looks for newer ones once in a while when they do not match.

    Args:
        secrets: Holds the key.
        signature_secret: `{"api_key"}`; its current and its previous version both count.
        clock: The time.
    """

    def __init__(self, secrets: SecretsManager, signature_secret: str, clock: Clock) -> None:
        self._secrets = secrets
        self._signature_secret = signature_secret
        self._clock = clock
        self._keys: list[str] = []
        self._are_all = False
        self._read_at = datetime.min.replace(tzinfo=UTC)

    def verify(self, body: bytes, given: str | None) -> None:
        """Check that Kopo Kopo signed these bytes.

        Raises:
            SignatureError: it did not.
            ConfigurationError: there is no key to check with.
            StorageError: it does not match the keys that Secrets Manager gave, and those may not be all.
        """
        try:
            signature.verify(body, given, self._keys)
        except SignatureError:
            if not signature.is_well_formed(given):
                raise
            self._look_again()
            self._verify_again(body, given)

    def _verify_again(self, body: bytes, given: str | None) -> None:
        try:
            signature.verify(body, given, self._keys)
        except SignatureError:
            if self._are_all:
                raise
            raise StorageError("Secrets Manager did not give every key that the signature may be of.") from None

    def _look_again(self) -> None:
        now = self._clock.now()
        if self._keys and now - self._read_at < _LOOK_AGAIN:
            return
        self._read_at, self._are_all = now, False
        self._keys = self._secrets.read_fields(self._signature_secret, _FIELD)
        with suppress(StorageError):  # it may not be needed
            self._keys += self._previous()
            self._are_all = True

    def _previous(self) -> list[str]:
        try:
            document = self._secrets.read(self._signature_secret, "AWSPREVIOUS") or {}
        except ConfigurationError:
            return []
        value = document.get(_FIELD)
        return [value] if isinstance(value, str) and value else []
