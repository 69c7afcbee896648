"""What can go wrong, by what the caller may do next.

ReversalsError
├── InvalidRequestError        400  mend the request
│   └── UnboundResultError     400  a signed result that belongs to another reversal
├── SignatureError             401  Kopo Kopo did not sign this
├── ReversalNotFoundError      404
├── MethodNotAllowedError      405
├── ReversalConflictError      409  look at the reversal that it carries
├── PayloadTooLargeError       413
├── RefusedError               422  Kopo Kopo said no; nothing was reversed
├── ConfigurationError         500  mend the deployment
├── StorageError               503  nothing was kept; send it again
├── NotSentError               503  nothing was sent; safe to try again
│   └── TokenError             503  no access token was to be had
├── TokenRefusedError               a call was answered 401: it was not processed
└── OutcomeUnknownError             it was sent, and may have been done: never send it again
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import Reversal

__all__ = [
    "ConfigurationError",
    "InvalidRequestError",
    "MethodNotAllowedError",
    "NotSentError",
    "OutcomeUnknownError",
    "PayloadTooLargeError",
    "RefusedError",
    "ReversalConflictError",
    "ReversalNotFoundError",
    "ReversalsError",
    "SignatureError",
    "StorageError",
    "TokenError",
    "TokenRefusedError",
    "UnboundResultError",
]


class ReversalsError(Exception):
    """The base of all; its message is for the reader of an answer or a log, and holds no secret."""


class InvalidRequestError(ReversalsError):
    """The request cannot be used as it is; `errors` says why, field by field."""

    def __init__(self, message: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(message)
        self.errors = list(errors)


class UnboundResultError(InvalidRequestError):
    """Kopo Kopo signed it, but for another reversal than the one at whose URL it arrived."""


class SignatureError(ReversalsError):
    """The signature is missing, malformed or wrong. Which of them is not told to the sender."""


class ReversalNotFoundError(ReversalsError):
    """There is nothing at this path."""


class MethodNotAllowedError(ReversalsError):
    """The path is known, but not with this method; `allowed` lists the methods that it takes."""

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = list(allowed)


class ReversalConflictError(ReversalsError):
    """The request disagrees with the reversal that exists, which `reversal` holds."""

    def __init__(self, message: str, reversal: "Reversal") -> None:
        super().__init__(message)
        self.reversal = reversal


class PayloadTooLargeError(ReversalsError):
    """The body is larger than this path takes."""


class RefusedError(ReversalsError):
    """Kopo Kopo refused the reversal; `reversal` holds its words. Nothing was reversed."""

    def __init__(self, message: str, reversal: "Reversal") -> None:
        super().__init__(message)
        self.reversal = reversal


class ConfigurationError(ReversalsError):
    """A setting or a secret is missing or malformed; the message names it."""


class StorageError(ReversalsError):
    """DynamoDB did not take it; nothing is durable. The sender may send the same again."""


class NotSentError(ReversalsError):
    """Nothing reached Kopo Kopo; the same request may be made again."""

    def __init__(self, message: str, reversal: "Reversal | None" = None) -> None:
        super().__init__(message)
        self.reversal = reversal


class TokenError(NotSentError):
    """There is no access token: Kopo Kopo, or Secrets Manager, gave none."""


class TokenRefusedError(ReversalsError):
    """The access token was answered with 401. The call was not processed; a new token may be tried once."""


class OutcomeUnknownError(ReversalsError):
    """It was sent and no usable answer came: it may have been processed. Never send it again by itself."""
