"""Subscribing this stack's own webhook URL at Kopo Kopo: a CloudFormation custom resource, used at deployment."""

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .errors import ConfigurationError, InvalidRequestError, ReversalsError, TokenRefusedError
from .kopokopo import KopoKopo
from .observability import logger
from .payloads import REVERSED_TOPICS
from .tokens import AccessTokens

WEBHOOKS_PATH = "/kopokopo/webhooks"

_ANSWER_TIMEOUT = 10  # seconds
_REASON_LENGTH = 1000


@dataclass(frozen=True)
class Subscription:
    """What the stack asks for.

    Attributes:
        base_url: Where Kopo Kopo reaches this API.
        scope: `till` or `company`.
        scope_reference: The till's number; empty for a company.
    """

    base_url: str
    scope: str
    scope_reference: str

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> "Subscription":
        """Read a resource's properties.

        Raises:
            ConfigurationError: they do not make a subscription.
        """
        asked = cls(properties.get("BaseUrl", ""), properties.get("Scope", ""), properties.get("ScopeReference", ""))
        if asked.scope not in ("till", "company") or not asked.base_url:
            raise ConfigurationError("A subscription needs a BaseUrl, and a Scope of till or company.")
        if asked.scope == "till" and not asked.scope_reference:
            raise ConfigurationError("A subscription for a till needs its number: set WebhookScopeReference.")
        return asked

    @property
    def resource_id(self) -> str:
        """Another one makes CloudFormation replace the resource."""
        return f"{self.base_url}{WEBHOOKS_PATH}|{self.scope}|{self.scope_reference}"


class Subscriptions:
    """Keeps the subscription as the stack has it.

    Kopo Kopo offers no way to end a subscription, so deleting one leaves it: what it sends is then answered by nobody.

    Args:
        kopokopo: The API.
        tokens: Its access tokens.
    """

    def __init__(self, kopokopo: KopoKopo, tokens: AccessTokens) -> None:
        self._kopokopo = kopokopo
        self._tokens = tokens

    def handle(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Do what CloudFormation asks; whatever happens, there is an answer for it.

        Args:
            event: A custom resource's request: `RequestType`, `ResourceProperties`, `PhysicalResourceId`, ...
        """
        resource_id = event.get("PhysicalResourceId") or "none"
        status, reason = "SUCCESS", ""
        try:
            if event["RequestType"] != "Delete":
                asked = Subscription.of(event["ResourceProperties"])
                if asked.resource_id != resource_id:
                    self._subscribe(asked)
                resource_id = asked.resource_id
        except ReversalsError as error:
            status, reason = "FAILED", str(error)
        except Exception as error:  # noqa: BLE001 - without an answer the deployment would hang for an hour
            logger.exception("Unexpected error")
            status, reason = "FAILED", f"Unexpected {type(error).__name__}: see the function's logs."
        logger.info("Subscription", extra={"request_type": event.get("RequestType"), "outcome": status})
        return {
            "Status": status,
            "Reason": reason[:_REASON_LENGTH],
            "PhysicalResourceId": resource_id,
            **{name: event.get(name) for name in ("StackId", "RequestId", "LogicalResourceId")},
        }

    def _subscribe(self, asked: Subscription) -> None:
        for topic in sorted(REVERSED_TOPICS):
            document = {
                "event_type": topic,
                "url": asked.base_url + WEBHOOKS_PATH,
                "scope": asked.scope,
                "enable_daraja_payload": False,
                **({"scope_reference": asked.scope_reference} if asked.scope_reference else {}),
            }
            token = self._tokens.get()
            try:
                self._kopokopo.subscribe(document, token)
            except TokenRefusedError:
                self._kopokopo.subscribe(document, self._tokens.replace(refused=token))


def answer(event: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Tell CloudFormation, at the URL that it signed for this answer alone.

    Raises:
        InvalidRequestError: the URL is not one to answer at.
        OSError: it could not be told; Lambda tries the whole invocation again.
    """
    url = event["ResponseURL"]
    if urlsplit(url).scheme not in ("https", "http"):
        raise InvalidRequestError("CloudFormation's ResponseURL is no web address.")
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        url, data=json.dumps(document).encode(), method="PUT", headers={"Content-Type": ""}
    )
    with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT):  # noqa: S310
        pass
