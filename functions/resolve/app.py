"""POST /reversals/{transaction_reference}/resolution: an operator found out what no evidence told."""

from http import HTTPStatus
from typing import Any

from reversals import assembly, payloads, web
from reversals.observability import logger

BODY_LIMIT = 64 * 1024  # bytes


@web.endpoint
def handler(request: web.Request, context: Any) -> web.Response:
    transaction_reference = request.transaction_reference()
    logger.set_correlation_id(transaction_reference)
    evidence = payloads.resolution(request.json_content(BODY_LIMIT), request.caller)
    reversal, _ = assembly.store().record(transaction_reference, evidence)
    logger.info("Resolved", extra={"status": str(reversal.status), "by": evidence.by})
    return web.respond(HTTPStatus.OK, reversal.as_json(), web.location(reversal))
