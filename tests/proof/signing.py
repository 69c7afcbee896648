"""A hook for schemathesis: what it sends is signed as Kopo Kopo would."""

from typing import Any

import requests
import schemathesis
from requests.auth import AuthBase

from tests.kopokopo import sign


class Signed(AuthBase):
    """Signs the bytes that leave."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        request.headers["X-KopoKopo-Signature"] = sign(body.encode() if isinstance(body, str) else body)
        return request


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    kwargs["auth"] = Signed()
