"""What Kopo Kopo sends, and what of it had to wait in the queue while the table could not take it."""

from http import HTTPStatus
from typing import Any

from reversals import assembly, signature, web
from reversals.observability import logger

BODY_LIMIT = 256 * 1024  # bytes


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return on_queue(event, context) if "Records" in event else on_request(event, context)


@web.endpoint
def on_request(request: web.Request, context: Any) -> web.Response:
    body = request.content(BODY_LIMIT)
    path = request.path_parameters
    target = (path["transaction_reference"], path["attempt"]) if "attempt" in path else None
    receipt = assembly.notifications().receive(body, request.headers.get(signature.HEADER), target)
    return web.respond(HTTPStatus.OK, {"status": receipt})


@logger.inject_lambda_context(clear_state=True)
def on_queue(event: dict[str, Any], context: Any) -> dict[str, Any]:
    waiting = assembly.notifications().take_from_queue(event["Records"])
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in waiting]}
