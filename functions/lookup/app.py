"""GET /reversals/{transaction_reference}, GET /reversals, and what no other route takes."""

import re
from http import HTTPStatus
from typing import Any

from reversals import assembly, listing, web
from reversals.errors import MethodNotAllowedError, ReversalNotFoundError, ReversalsError

# Every path that the API has, for telling a wrong method (405) from a wrong path (404).
METHODS = {
    "/reversals": ["GET", "POST"],
    "/reversals/[^/]+": ["GET"],
    "/reversals/[^/]+/resolution": ["POST"],
    "/kopokopo/results/[^/]+/[^/]+": ["POST"],
    "/kopokopo/webhooks": ["POST"],
}


@web.endpoint
def handler(request: web.Request, context: Any) -> web.Response:
    match request.route_key:
        case "GET /reversals":
            return list_reversals(request)
        case "GET /reversals/{transaction_reference}":
            reversal = assembly.store().get(request.transaction_reference())
            return web.respond(HTTPStatus.OK, reversal.as_json())
    raise nothing_here(request.raw_path)


def list_reversals(request: web.Request) -> web.Response:
    query = listing.query(request.query_string_parameters)
    reversals, end = assembly.store().page(query.status, query.limit, query.after)
    return web.respond(HTTPStatus.OK, listing.page(reversals, end, query.status))


def nothing_here(path: str) -> ReversalsError:
    for pattern, methods in METHODS.items():
        if re.fullmatch(pattern, path):
            return MethodNotAllowedError(f"This path takes {' and '.join(methods)} alone.", methods)
    return ReversalNotFoundError("There is nothing at this path.")
