"""HTTP as API Gateway hands it over (payload format 2.0), and every error's answer as RFC 9457 has it."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any

from . import errors, payloads
from .model import Reversal
from .observability import count, logger

Response = dict[str, Any]

_STATUS: Mapping[type[errors.ReversalsError], HTTPStatus] = {
    errors.InvalidRequestError: HTTPStatus.BAD_REQUEST,
    errors.SignatureError: HTTPStatus.UNAUTHORIZED,
    errors.ReversalNotFoundError: HTTPStatus.NOT_FOUND,
    errors.MethodNotAllowedError: HTTPStatus.METHOD_NOT_ALLOWED,
    errors.ReversalConflictError: HTTPStatus.CONFLICT,
    errors.PayloadTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.RefusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ConfigurationError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.StorageError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NotSentError: HTTPStatus.SERVICE_UNAVAILABLE,
}

_RETRY_AFTER = "10"  # seconds


class Request:
    """One request, in payload format 2.0.

    Not Powertools' class for it: that brings the classes of every event source into each cold start.

    Attributes:
        headers: With names in lower case, repeated ones joined by commas.
        route_key: The route that took it, such as `GET /reversals`, or `$default`.
    """

    def __init__(self, event: Mapping[str, Any]) -> None:
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
        self.path_parameters: Mapping[str, str] = event.get("pathParameters") or {}
        self.query_string_parameters: Mapping[str, str] = event.get("queryStringParameters") or {}
        self.route_key: str = event.get("routeKey", "")
        self.raw_path: str = event.get("rawPath", "")
        self._body: str = event.get("body") or ""
        self._is_base64: bool = event.get("isBase64Encoded", False)
        self._context: Mapping[str, Any] = event.get("requestContext") or {}

    def content(self, limit: int) -> bytes:
        """The body as it was sent.

        Args:
            limit: In bytes.

        Raises:
            PayloadTooLargeError: it is larger.
            InvalidRequestError: it is marked as base64, and is not.
        """
        text = self._body
        try:
            body = base64.b64decode(text, validate=True) if self._is_base64 else text.encode("utf-8", "replace")
        except (binascii.Error, ValueError):
            raise errors.InvalidRequestError("The body is not base64.") from None
        if len(body) > limit:
            raise errors.PayloadTooLargeError(f"The body is larger than {limit // 1024} KB.")
        return body

    def json_content(self, limit: int) -> bytes:
        """The body, if it is said to be JSON.

        Raises:
            InvalidRequestError: it is said to be something else.
            PayloadTooLargeError: it is larger than the limit.
        """
        body = self.content(limit)
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise errors.InvalidRequestError("The Content-Type must be application/json.")
        return body

    def transaction_reference(self) -> str:
        """The path's.

        Raises:
            ReversalNotFoundError: it is none, so nothing can be there.
        """
        value = self.path_parameters.get("transaction_reference", "")
        if not payloads.is_transaction_reference(value):
            raise errors.ReversalNotFoundError("There is no such transaction reference.")
        return value

    @property
    def own_url(self) -> str:
        """Where this API is, as its caller sees it."""
        return f"https://{self._context['domainName']}"

    @property
    def caller(self) -> str:
        """Who calls, for the record: the ARN that IAM checked, or the subject of the token."""
        match self._context.get("authorizer"):
            case {"iam": {"userArn": str(caller)}} | {"jwt": {"claims": {"sub": str(caller)}}} if caller:
                return caller
        return "unknown"


def respond(status: HTTPStatus, document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return {
        "statusCode": int(status),
        "headers": {"content-type": "application/json", **(headers or {})},
        "body": json.dumps(document, ensure_ascii=False, separators=(",", ":")),
    }


def location(reversal: Reversal) -> dict[str, str]:
    return {"location": f"/reversals/{reversal.transaction_reference}"}


def endpoint(handle: Callable[[Request, Any], Response]) -> Callable[[dict[str, Any], Any], Response]:
    """Make a Lambda handler of a function from a request to an answer: every error gets one, too."""

    @logger.inject_lambda_context(clear_state=True)
    @wraps(handle)
    def handler(event: dict[str, Any], context: Any) -> Response:
        try:
            return handle(Request(event), context)
        except errors.ReversalsError as error:
            return _problem(error)
        except Exception:  # noqa: BLE001 - the last line before API Gateway's own 500, which says nothing
            logger.exception("Unexpected error")
            count("UnexpectedErrors")
            return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, "unexpected", "Something went wrong; try again later.")

    return handler


def _problem(error: errors.ReversalsError) -> Response:
    kinds = (kind for kind in type(error).__mro__ if kind in _STATUS)
    status = _STATUS[next(kinds, errors.ConfigurationError)]
    log = logger.error if status >= HTTPStatus.INTERNAL_SERVER_ERROR else logger.info
    log(str(error), extra={"problem": type(error).__name__, "http_status": int(status)})
    headers: dict[str, str] = {}
    members: dict[str, Any] = {}
    if isinstance(error, errors.InvalidRequestError) and error.errors:
        members["errors"] = error.errors
    if isinstance(error, errors.MethodNotAllowedError):
        headers["allow"] = ", ".join(error.allowed)
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = _RETRY_AFTER
    reversal = getattr(error, "reversal", None)
    if reversal is not None:
        headers |= location(reversal)
        members["reversal"] = reversal.as_json()
    detail = str(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        detail = "This deployment is not set up completely; its logs say what is missing."
    return _answer(status, _kind(error), detail, headers, members)


def _kind(error: errors.ReversalsError) -> str:
    words = re.findall(r"[A-Z][a-z]+", type(error).__name__.removesuffix("Error"))
    return "-".join(words).lower()


def _answer(
    status: HTTPStatus,
    kind: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> Response:
    problem = {
        "type": f"urn:kopokopo-reversals:{kind}",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        **(members or {}),
    }
    return respond(status, problem, {"content-type": "application/problem+json", **(headers or {})})
