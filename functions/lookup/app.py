"""GET /reversals/{transaction_reference}; and what no other route takes."""

import re
from http import HTTPStatus
from typing import Any

from reversals import assembly, web
from reversals.errors import MethodNotAllowedError, ReversalNotFoundError

# Every path that the API has, for telling a wrong method (405) from a wrong path (404).
METHODS = {
    r"/reversals": ["POST"],
    r"/reversals/[^/]+": ["GET"],
    r"/kopokopo/results/[^/]+/[^/]+": ["POST"],
}


@web.endpoint
def handler(request: web.Request, context: Any) -> web.Response:
    if request.route_key == "$default":
        raise nothing_here(request.raw_path)
    return web.respond(HTTPStatus.OK, assembly.store().get(request.transaction_reference()).as_json())


def nothing_here(path: str) -> Exception:
    for pattern, methods in METHODS.items():
        if re.fullmatch(pattern, path):
            return MethodNotAllowedError(f"{path} takes {' and '.join(methods)} alone.", methods)
    return ReversalNotFoundError("There is nothing at this path.")
