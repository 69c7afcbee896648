"""The one place where the parts are put together: each is made when first needed, and kept by its container."""

from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError

from .clock import SystemClock
from .observability import count
from .schedule import Schedule
from .secretsmanager import SecretsManager
from .settings import Settings
from .store import Store, TokenLease

if TYPE_CHECKING:
    from .initiate import Initiation
    from .kopokopo import KopoKopo
    from .notifications import Notifications
    from .publish import Publication
    from .reconcile import Reconciliation
    from .subscribe import Subscriptions
    from .tokens import AccessTokens
    from .topic import Topic

# Two tries within seven seconds: a function has to be able to write down what it did before its time is up.
_CONFIG = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 2})

_clock = SystemClock()


@cache
def settings() -> Settings:
    return Settings()


@cache
def _client(service: str) -> Any:
    client = boto3.client(service, config=_CONFIG)  # type: ignore[call-overload]
    client.meta.events.register("before-parse", _require_whole, unique_id="whole")
    return client


def _require_whole(response_dict: Mapping[str, Any], **_: Any) -> None:
    """Refuse an answer that broke off.

    http.client takes a head that broke off for a short one, without a body; and botocore takes no body for no news: an
    item that is there would not be found.
    """
    headers, body = response_dict["headers"], response_dict["body"]
    if "chunked" not in headers.get("transfer-encoding", "") and headers.get("content-length") != str(len(body)):
        raise ConnectionClosedError(endpoint_url="AWS")


@cache
def schedule() -> Schedule:
    seconds, days = settings().seconds, int(settings().optional("RETENTION_DAYS") or 0)
    return Schedule(
        stale_after=timedelta(seconds=seconds("INITIATE_TIMEOUT")),
        first_delay=timedelta(seconds=seconds("RECONCILE_FIRST_DELAY")),
        longest_delay=timedelta(seconds=seconds("RECONCILE_LONGEST_DELAY")),
        retention=timedelta(days=days) if days else None,
    )


@cache
def store() -> Store:
    return Store(_client("dynamodb"), settings().text("TABLE_NAME"), schedule(), _clock)


# What only some functions need is imported when they do: a cold start pays for nothing else.


@cache
def _kopokopo() -> "KopoKopo":
    from .kopokopo import KopoKopo
    from .transport import Transport

    return KopoKopo(
        settings().text("KOPOKOPO_API_URL"),
        settings().text("KOPOKOPO_AUTH_URL"),
        settings().seconds("KOPOKOPO_TIMEOUT"),
        Transport(),
    )


@cache
def _tokens() -> "AccessTokens":
    from .tokens import AccessTokens

    return AccessTokens(
        secrets=SecretsManager(_client("secretsmanager")),
        credentials_secret=settings().text("CREDENTIALS_SECRET"),
        token_secret=settings().text("TOKEN_SECRET"),
        kopokopo=_kopokopo(),
        lease=TokenLease(_client("dynamodb"), settings().text("TABLE_NAME")),
        clock=_clock,
        on_request=lambda: count("TokenRequests"),
    )


@cache
def initiation() -> "Initiation":
    from .initiate import Initiation

    return Initiation(store(), _kopokopo(), _tokens(), settings().optional("CALLBACK_BASE_URL"))


@cache
def reconciliation() -> "Reconciliation":
    from .reconcile import Reconciliation

    return Reconciliation(store(), _kopokopo(), _tokens(), _clock)


@cache
def subscriptions() -> "Subscriptions":
    from .subscribe import Subscriptions

    return Subscriptions(_kopokopo(), _tokens())


@cache
def notifications() -> "Notifications":
    from .evidence_queue import EvidenceQueue
    from .notifications import Notifications
    from .signing_keys import SigningKeys

    keys = SigningKeys(SecretsManager(_client("secretsmanager")), settings().text("SIGNATURE_SECRET"), _clock)
    return Notifications(keys, store(), EvidenceQueue(lambda: _client("sqs"), settings().text("EVIDENCE_QUEUE_URL")))


@cache
def topic() -> "Topic":
    from .topic import Topic

    return Topic(_client("sns"), settings().text("TOPIC_ARN"))


@cache
def publication() -> "Publication":
    from .archive import Archive
    from .publish import Publication

    return Publication(topic(), Archive(lambda: _client("s3"), settings().text("UNPUBLISHED_BUCKET")))
