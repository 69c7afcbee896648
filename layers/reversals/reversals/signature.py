"""Whether Kopo Kopo signed a body. Pure."""

import hashlib
import hmac
import re
from collections.abc import Iterable

from .errors import SignatureError

HEADER = "x-kopokopo-signature"

_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


def sign(body: bytes, key: str) -> str:
    """Kopo Kopo's signature: the lowercase hex HMAC-SHA256 of the raw body."""
    return hmac.new(key.encode("utf-8"), body, hashlib.sha256).hexdigest()


def is_well_formed(signature: str | None) -> bool:
    """Whether it could be a signature at all."""
    return signature is not None and _HEX_DIGEST.fullmatch(signature) is not None


def verify(body: bytes, signature: str | None, keys: Iterable[str]) -> None:
    """Check that Kopo Kopo signed exactly these bytes.

    Pass the body as received: JSON that was parsed and written again does not match. The scheme has no timestamp, so
    callers make a replay harmless.

    Args:
        body: The raw bytes.
        signature: The header's value; repeated headers arrive joined by commas, and do not match.
        keys: The application's API key, and the one before it while it is being rotated.

    Raises:
        SignatureError: missing, malformed or wrong; its message holds neither the body nor the digest.
    """
    if signature is None or not is_well_formed(signature):
        raise SignatureError("The signature is missing or malformed.")
    # Every key is tried, so that the time taken does not tell which of them matched.
    matches = [hmac.compare_digest(sign(body, key), signature) for key in keys]
    if not any(matches):
        raise SignatureError("The signature does not match the body.")
