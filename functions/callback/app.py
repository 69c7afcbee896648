"""What Kopo Kopo sends: check that it signed it, see what it proves, and write that down."""

from http import HTTPStatus
from typing import Any

from reversals import assembly, payloads, signature, web
from reversals.errors import SignatureError, UnboundResultError
from reversals.observability import count, logger

BODY_LIMIT = 256 * 1024  # bytes


@web.endpoint
def handler(request: web.Request, context: Any) -> web.Response:
    body = request.content(BODY_LIMIT)
    try:
        assembly.signing_keys().verify(body, request.headers.get(signature.HEADER))
    except SignatureError:
        count("SignatureFailures")
        raise
    document = payloads.parse_json(body, unique_keys=False)
    if payloads.kind(document) is not payloads.Kind.RESULT:
        count("IgnoredNotifications")
        return web.respond(HTTPStatus.OK, {"status": "ignored"})
    transaction_reference, attempt = request.transaction_reference(), request.attempt()
    logger.set_correlation_id(transaction_reference)
    try:
        evidence = payloads.bound_outcome(document, transaction_reference, attempt)
        reversal, changed = assembly.store().record(transaction_reference, evidence)
    except UnboundResultError:
        count("UnboundResults")
        raise
    logger.info("Result", extra={"fact": str(evidence.fact), "status": str(reversal.status), "changed": changed})
    return web.respond(HTTPStatus.OK, {"status": "recorded" if changed else "known"})
