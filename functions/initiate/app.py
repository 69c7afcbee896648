"""POST /reversals: claim the transaction, send its reversal to Kopo Kopo once, and say what came of it."""

from http import HTTPStatus
from typing import Any

from reversals import assembly, payloads, web
from reversals.model import Status
from reversals.observability import logger

BODY_LIMIT = 64 * 1024  # bytes

_UNDECIDED = (Status.INITIATING, Status.UNKNOWN)


@web.endpoint
def handler(request: web.Request, context: Any) -> web.Response:
    asked = payloads.reversal_request(request.json_content(BODY_LIMIT), request.headers.get("idempotency-key"))
    logger.set_correlation_id(asked.transaction_reference)
    reversal, sent = assembly.initiation().initiate(
        asked, request.own_url, lambda: context.get_remaining_time_in_millis() / 1000
    )
    decided = HTTPStatus.CREATED if sent else HTTPStatus.OK
    status = HTTPStatus.ACCEPTED if reversal.status in _UNDECIDED else decided
    return web.respond(status, reversal.as_json(), web.location(reversal))
