"""Kopo Kopo on one machine: tokens, reversals, results, webhooks, and a journal of every request.

    python -m local.simulator --port 3001

    with Simulator(delay=0.01) as simulator:
        requests.get(simulator.url + "/_journal", timeout=5)

The transaction reference chooses what happens to a reversal, as test card numbers do: see BEHAVIOURS. The journal is
the judge of "no second reversal is ever accepted", so nothing here is shared with the code that it judges.

Kopo Kopo does not say whether it tries a delivery again: here each result and each webhook is tried once.
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import re
import secrets
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

__all__ = ["BEHAVIOURS", "Reversal", "Simulator", "compact", "main", "result_document", "sign", "webhook_document"]

DELIVERY_TIMEOUT = 5.0  # seconds, from connecting to the end of the receiver's answer
MAX_BODY = 1024 * 1024
NAIROBI = timezone(timedelta(hours=3))
BUYGOODS_REVERSED = "buygoods_transaction_reversed"
B2B_REVERSED = "b2b_transaction_reversed"
EVENT_TYPE = re.compile(r"[a-z0-9]+_[a-z_]+")
HTTP_URL = re.compile(r"https?://[!-~]+")
HOST = re.compile(r"[A-Za-z0-9.:\[\]-]+")
SECRET_NAME = re.compile(r"secret|token|api_?key|password|authorization", re.IGNORECASE)

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What happens to the reversals whose transaction reference begins with one prefix.

    Attributes:
        accepted: A reversal starts: money may move.
        status: What the POST is answered with; None: nothing, and the connection is held until the client goes.
        reset: Nothing is answered, and the connection is reset.
        message: `error_message` of a 4xx. (A 5xx is HTML, as gateways send it.)
        location: The Location header, of `{base}` (as the client called us), `{elsewhere}` (another host) and `{id}`.
        bulk: Status of the bulk payment, once decided; None: it is never decided.
        results: How often the result is posted to the callback URL.
        topic: The webhook that its subscribers get after the result.
        early: The result is delivered before the POST is answered.
        expires_token: The first POST of a reference is refused, and its token is expired from then on.
    """

    accepted: bool = True
    status: int | None = 201
    reset: bool = False
    message: str | list[str] = ""
    location: str = "{base}/api/v2/reversals/{id}"
    bulk: str | None = "Transferred"
    results: int = 1
    topic: str | None = BUYGOODS_REVERSED
    early: bool = False
    expires_token: bool = False


BEHAVIOURS: Mapping[str, Behaviour] = {
    "": Behaviour(),
    "BROKEN": Behaviour(status=500),
    "CANCEL": Behaviour(bulk="Cancelled", topic=None),
    "DOWN": Behaviour(accepted=False, status=503),
    "DROP": Behaviour(status=None, reset=True),
    "EARLY": Behaviour(early=True),
    "EVIL": Behaviour(location="{elsewhere}/_trap/api/v2/reversals/{id}"),
    "EXPIRED": Behaviour(expires_token=True),
    "LOST": Behaviour(results=0, topic=None),
    "MOVED": Behaviour(accepted=False, status=302, location="{base}/_trap/api/v2/reversals/{id}"),
    "MUTE": Behaviour(status=None, results=0, topic=None),
    "NOLOC": Behaviour(location=""),
    "OLD": Behaviour(accepted=False, status=400, message=["You cannot reverse a transaction older than 30 days"]),
    "REJECT": Behaviour(accepted=False, status=400, message="Transaction reference invalid"),
    "SILENT": Behaviour(status=None),
    "THRICE": Behaviour(results=3),
    "WEBHOOK": Behaviour(results=0, bulk=None),
    "WEBHOOKB2B": Behaviour(results=0, bulk=None, topic=B2B_REVERSED),
}


def behaviour_of(transaction_reference: str) -> Behaviour:
    """That of the longest prefix in BEHAVIOURS that the reference begins with."""
    return BEHAVIOURS[max((prefix for prefix in BEHAVIOURS if transaction_reference.startswith(prefix)), key=len)]


@dataclass(frozen=True, slots=True)
class Reversal:
    """An accepted reversal.

    Attributes:
        base_url: Of the simulator, as the client called it.
        transaction_uuid: What its documents name the transaction by: not the reference that was sent.
        created_at: Epoch seconds.
        decided_at: On the monotonic clock.
        plays: What happens to it, if not what its reference chooses.
    """

    transaction_reference: str
    callback_url: str
    reason: str = "Erroneous payment"
    metadata: Any = None
    base_url: str = "http://127.0.0.1:3001"
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    transaction_uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    reversal_reference: str = field(default_factory=lambda: "RV" + secrets.token_hex(4).upper())
    created_at: float = field(default_factory=time.time)
    decided_at: float = 0.0
    plays: Behaviour | None = None

    @property
    def behaviour(self) -> Behaviour:
        return self.plays or behaviour_of(self.transaction_reference)


def compact(document: object) -> bytes:
    """JSON as Kopo Kopo sends it: no spaces, UTF-8 unescaped. Raises ValueError for what JSON cannot say (NaN)."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def sign(body: bytes, key: str) -> str:
    """The `X-KopoKopo-Signature` of exactly these bytes; the key is the application's API key."""
    return hmac.new(key.encode(), body, hashlib.sha256).hexdigest()


def timestamp(at: float, zone: tzinfo = NAIROBI) -> str:
    return datetime.fromtimestamp(at, zone).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def result_document(reversal: Reversal, *, decided: bool = True) -> Document:
    """What the status of a reversal shows, and what its callback brings. Another prefix ends another way."""
    bulk = reversal.behaviour.bulk if decided else None
    payment = bulk and {
        "amount": "400.0",
        "status": bulk,
        "origination_time": timestamp(reversal.created_at // 1 - 600),  # before created_at, as on the official page
        "transaction_reference": reversal.reversal_reference if bulk == "Transferred" else None,
    }
    attributes = {
        "status": "Processed" if payment else "Received",
        "created_at": timestamp(reversal.created_at),
        "transaction_reference": reversal.transaction_uuid,
        "reason": reversal.reason,
        "reversal_bulk_payment": payment,
        "errors": None,
        "metadata": reversal.metadata,
        "_links": {
            "callback_url": reversal.callback_url,
            "self": f"{reversal.base_url}/api/v2/reversals/{reversal.id}",
        },
    }
    return {"data": {"id": reversal.id, "type": "reversal", "attributes": attributes}}


def webhook_document(reversal: Reversal, topic: str = BUYGOODS_REVERSED) -> Document:
    """The webhook about a reversed transaction, by a fictional sender; the same each time for a reversal and topic."""
    sender = {
        "sender_phone_number": "+254700000000",
        "hashed_sender_phone": hashlib.sha256(b"254700000000").hexdigest(),
        "sender_first_name": "A",
        "sender_middle_name": "",
        "sender_last_name": "B",
    }
    resource = {
        "id": reversal.transaction_uuid,
        "amount": "400.0",
        "status": "Reversed",
        "system": "Lipa Na M-PESA",
        "currency": "KES",
        "reference": reversal.transaction_reference,
        "till_number": "000000",
        "origination_time": timestamp(reversal.created_at),
        "reversal_time": timestamp(reversal.created_at),
        **({"sending_till": "000001"} if topic == B2B_REVERSED else sender),
    }
    event_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{topic}/{reversal.id}"))
    kind = "External Till To Till Reversal Transaction" if topic == B2B_REVERSED else "Buygoods Transaction"
    return {
        "topic": topic,
        "id": event_id,
        "created_at": timestamp(reversal.created_at),
        "event": {"type": kind, "resource": resource},
        "_links": {
            "self": f"{reversal.base_url}/api/v2/webhook_events/{event_id}",
            "resource": f"{reversal.base_url}/api/v2/transactions/{reversal.transaction_uuid}",
        },
    }


def parsed(content_type: str, body: bytes) -> Any:
    """A request's body: a form as a dict, anything else as JSON, an empty one as None.

    Raises:
        ValueError: neither, or nothing that could be written as JSON again (NaN, half a surrogate pair).
        RecursionError: nested too deeply.
    """
    if not body:
        return None
    if "x-www-form-urlencoded" in content_type:
        form = dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))
        if not all(map(str.isidentifier, form)):  # JSON under a false name: its secrets would be in the names
            raise ValueError("not a form")
        return form
    document = json.loads(body.decode())
    compact(document)
    return document


def redacted(value: Any) -> Any:
    """The same value, with whatever is named like a secret replaced."""
    if isinstance(value, dict):
        return {name: "***" if SECRET_NAME.search(name) else redacted(item) for name, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list) else value


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_url(value: Any) -> bool:
    if not isinstance(value, str) or not HTTP_URL.fullmatch(value):
        return False
    with suppress(ValueError):  # a port out of range, a bracket left open
        return bool(urlsplit(value).hostname) and urlsplit(value).port != 0
    return False


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `status` None: none is given."""

    status: int | None = 200
    body: bytes = b""
    content_type: str = "application/json"
    location: str = ""
    reset: bool = False


class ApiError(Exception):
    """Kopo Kopo says no, with this status and document."""

    def __init__(self, status: int, **document: Any) -> None:
        super().__init__(status)
        self.reply = Reply(status, compact(document))


def refusal(status: int, message: str | list[str], **more: str) -> ApiError:
    return ApiError(status, **more, error_code=status, error_message=message)


def require(condition: object, message: str | list[str]) -> None:
    """Raise the 400 with this message unless the condition holds."""
    if not condition:
        raise refusal(400, message)


class Request:
    """A request as it was received whole.

    Attributes:
        line: Its line in the journal, without any credential. `credentials` says whether it had an Authorization
            header (a trap path should never see one), `accepted` that it started a reversal, whatever it was answered.
        told: What has to be over before it is answered.
    """

    def __init__(self, method: str, target: str, headers: Message, body: bytes, problem: ApiError | None):
        self.method, self.path = method, target.partition("?")[0]  # a query may hold a token
        host, self.authorization = headers.get("Host", ""), headers.get("Authorization", "")
        self.base_url = f"http://{host if HOST.fullmatch(host) else '127.0.0.1'}"
        self.problem = problem
        self.told: Future[None] | None = None
        document = noted = None
        try:
            document = parsed(headers.get("Content-Type", ""), body)
            noted = redacted(document)
        except (ValueError, RecursionError):
            self.problem = refusal(400, "The request body is not valid JSON")
        self.fields: Document = document if isinstance(document, dict) else {}
        self.line: Document = {
            "sequence": 0,
            "at": "",
            "method": method,
            "path": self.path,
            "host": host,
            "user_agent": headers.get("User-Agent"),
            "credentials": bool(self.authorization),
            "status": None,
            "accepted": False,
            "transaction_reference": None,
            "id": None,
            "body": noted,
        }


@dataclass(slots=True)
class Token:
    """Issued at an epoch second; dead from a moment of the monotonic clock on."""

    issued_at: float
    dead_at: float


async def post(url: str, body: bytes, signature: str) -> tuple[int | None, str | None]:
    """Post a signed document, once, following nothing.

    Returns:
        The receiver's status, or None and what went wrong.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    head = (
        f"POST {parts.path or '/'}{'?' if parts.query else ''}{parts.query} HTTP/1.1\r\n"
        f"Host: {parts.netloc.rpartition('@')[2]}\r\nUser-Agent: KopoKopo-Simulator\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nX-KopoKopo-Signature: {signature}\r\n\r\n"
    )
    status = None
    try:
        async with asyncio.timeout(DELIVERY_TIMEOUT):
            port = parts.port or (443 if secure else 80)
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=True if secure else None)
            try:
                writer.write(head.encode() + body)
                answer = re.match(rb"HTTP/1\.[01] (\d{3})", await reader.readline())
                if not answer:
                    return None, "no HTTP answer"
                status = int(answer[1])
                while await reader.read(65536):  # to its end, so that the receiver's last write does not fail
                    pass
            finally:
                writer.transport.abort()
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, ValueError) as failure:  # a timeout is one of the first, an endless line one of the second
        if status is None:
            return None, f"{type(failure).__name__}: {failure}".removesuffix(": ")
    return status, None


class Simulator:
    """Kopo Kopo on 127.0.0.1. A context manager; what it has seen survives stop() and another start().

    Args:
        port: 0 takes a free one, and keeps it.
        delay: Seconds from the acceptance of a reversal to its result.
        token_lifetime: Seconds; with 0 every token is expired from the beginning.
        client_id: The only client that gets tokens.
        client_secret: Its secret.
        api_key: What results and webhooks are signed with.
        clock: Of the shape of the module `time`, for whoever moves the time by hand.
        behaviour_of: What happens to the reversal of a transaction reference.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        delay: float = 0.3,
        token_lifetime: int = 3600,
        client_id: str = "local-client-id",
        client_secret: str = "local-client-secret",
        api_key: str = "local-api-key",
        clock: Any = time,
        behaviour_of: Callable[[str], Behaviour] = behaviour_of,
    ) -> None:
        self._port, self._delay, self._token_lifetime, self._api_key = port, delay, token_lifetime, api_key
        self._client = {"client_id": client_id, "client_secret": client_secret}
        self._clock, self._behaviour_of = clock, behaviour_of
        self._lock = threading.Lock()  # over all that follows: requests are judged one at a time
        self._journal: list[Document] = []
        self._deliveries: list[Document] = []
        self._tokens: dict[str, Token] = {}
        self._reversals: dict[str, Reversal] = {}
        self._latest: dict[str, Reversal] = {}
        self._refused_once: set[str] = set()
        self._subscriptions: dict[str, Document] = {}
        self._courier: _Courier | None = None
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Serve, in daemon threads. Raises OSError when the port is taken."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        self._courier = _Courier()
        self._server.start()
        return self

    def stop(self) -> None:
        """End every thread and every connection, held ones too. Results that are still to be sent are forgotten."""
        with self._lock:
            server, courier, self._server, self._courier = self._server, self._courier, None, None
        if server and courier:
            server.stop_accepting()
            courier.stop()
            server.end_connections()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def journal(self) -> list[Document]:
        """Every request so far, in order."""
        with self._lock:
            return list(self._journal)

    def reversal(self, reversal_id: str) -> Reversal:
        """A reversal that was accepted."""
        with self._lock:
            return self._reversals[reversal_id]

    def revoke(self, access_token: str) -> None:
        """Take a token back, as somebody may who has the credentials, too."""
        with self._lock:
            self._tokens.pop(access_token, None)

    def answer(self, request: Request) -> Reply:
        """Judge one request. What comes of it is in the journal before anything is answered."""
        with self._lock:
            if request.method == "GET" and request.path in ("/_journal", "/_deliveries"):
                return Reply(body=compact(self._journal if request.path == "/_journal" else self._deliveries))
            self._journal.append(request.line)
            request.line |= {"sequence": len(self._journal), "at": timestamp(self._clock.time(), UTC)}
            try:
                reply = self._route(request)
            except ApiError as error:
                reply = error.reply
        if request.told:
            with suppress(TimeoutError, CancelledError):
                request.told.result(DELIVERY_TIMEOUT)
        return reply

    def _route(self, request: Request) -> Reply:
        routes: Mapping[str, Callable[[Request], Reply]] = {
            "POST /oauth/token": self._issue_token,
            "POST /oauth/revoke": self._revoke_token,
            "POST /oauth/introspect": self._introspect_token,
            "GET /oauth/token/info": self._show_token,
            "POST /api/v2/reversals": self._initiate_reversal,
            "GET /api/v2/reversals/{id}": self._show_reversal,
            "POST /api/v2/webhook_subscriptions": self._subscribe,
            "GET /api/v2/webhook_subscriptions": self._show_subscriptions,
            "GET /api/v2/webhook_subscriptions/{id}": self._show_subscriptions,
        }
        call = f"{request.method} {request.path}"
        route = routes.get(call) or routes.get(re.sub(r"/[^/]+$", "/{id}", call))
        if request.path.startswith("/_trap/"):
            return Reply(body=b"{}")  # whoever follows a bad location is to believe that all is well
        if route is None:
            raise refusal(404, "Not found")
        if request.problem:
            raise request.problem
        return route(request)

    # OAuth

    def _authenticate_client(self, request: Request) -> None:
        if {name: request.fields.get(name) for name in self._client} != self._client:
            raise ApiError(401, error="invalid_client", error_description="Client authentication failed")

    def _issue_token(self, request: Request) -> Reply:
        self._authenticate_client(request)
        if request.fields.get("grant_type") != "client_credentials":
            raise ApiError(400, error="unsupported_grant_type", error_description="It has to be client_credentials")
        value, lifetime = secrets.token_urlsafe(32), self._token_lifetime
        token = self._tokens[value] = Token(self._clock.time(), self._clock.monotonic() + lifetime)
        about = {"token_type": "Bearer", "expires_in": lifetime, "created_at": int(token.issued_at)}
        return Reply(body=compact({"access_token": value, **about}))

    def _revoke_token(self, request: Request) -> Reply:
        self._authenticate_client(request)
        self._tokens.pop(str(request.fields.get("token")), None)
        return Reply(body=b"{}")

    def _introspect_token(self, request: Request) -> Reply:
        self._authenticate_client(request)
        token = self._tokens.get(str(request.fields.get("token")))
        left = token.dead_at - self._clock.monotonic() if token else 0
        if token is None or left <= 0:
            return Reply(body=compact({"active": False}))
        times = {"exp": timestamp(self._clock.time() + left, UTC), "iat": timestamp(token.issued_at, UTC)}
        about = {"active": True, "scope": "", "client_id": self._client["client_id"], "token_type": "Bearer"}
        return Reply(body=compact({**about, **times}))

    def _show_token(self, request: Request) -> Reply:
        token = self._authenticate(request)
        owner = {"resource_owner_id": None, "application": {"uid": self._client["client_id"]}, "scope": list[str]()}
        times = {"expires_in": int(token.dead_at - self._clock.monotonic()), "created_at": int(token.issued_at)}
        return Reply(body=compact({**owner, **times}))

    def _authenticate(self, request: Request) -> Token:
        scheme, _, value = request.authorization.partition(" ")
        token = self._tokens.get(value.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise refusal(401, "The access token is invalid", error="InvalidAccessToken")
        if self._clock.monotonic() >= token.dead_at:
            raise refusal(401, "The access token expired", error="ExpiredAccessToken")
        return token

    # Reversals

    def _initiate_reversal(self, request: Request) -> Reply:
        fields, line = request.fields, request.line
        reference, metadata, links = (fields.get(name) for name in ("transaction_reference", "metadata", "_links"))
        callback_url = links.get("callback_url") if isinstance(links, dict) else None
        line["transaction_reference"] = reference if isinstance(reference, str) else None
        token = self._authenticate(request)
        require(is_text(reference), "Transaction reference invalid")
        require(is_text(fields.get("reason")), "Reason invalid")
        require(is_url(callback_url), "Callback url invalid")
        require(metadata is None or isinstance(metadata, dict), "Metadata invalid")
        require(len(metadata or ()) <= 5, "Metadata can have at most 5 pairs")

        reference, callback_url = str(reference), str(callback_url)
        before, behaviour = self._latest.get(reference), self._behaviour_of(reference)
        failed = before and self._is_decided(before) and before.behaviour.bulk == "Cancelled"
        require(before is None or failed, ["You cannot reverse a transaction in Pending Reversal"])
        if behaviour.expires_token and reference not in self._refused_once:
            self._refused_once.add(reference)
            token.dead_at = self._clock.monotonic()
            self._authenticate(request)
        decided_at = self._clock.monotonic() + (0 if behaviour.early else self._delay)
        reversal = Reversal(
            reference,
            callback_url,
            fields["reason"],
            metadata,
            base_url=request.base_url,
            created_at=self._clock.time(),
            decided_at=decided_at,
            plays=behaviour,
        )
        if behaviour.accepted:
            self._reversals[reversal.id] = self._latest[reference] = reversal
            line["accepted"], line["id"] = True, reversal.id
            if self._courier:
                told = asyncio.run_coroutine_threadsafe(self._tell(reversal), self._courier.loop)
                request.told = told if behaviour.early else None

        status = behaviour.status
        if behaviour.message:
            raise refusal(400, behaviour.message)
        if status and status >= 500:
            page = f"<html><body><h1>{status} {HTTPStatus(status).phrase}</h1></body></html>"
            return Reply(status, page.encode(), "text/html")
        other = "127.0.0.1" if "//localhost" in request.base_url else "localhost"
        bases = {"base": request.base_url, "elsewhere": f"http://{other}:{self._port}"}
        return Reply(status, location=behaviour.location.format(**bases, id=reversal.id), reset=behaviour.reset)

    def _show_reversal(self, request: Request) -> Reply:
        self._authenticate(request)
        reversal = self._reversals.get(request.path.rpartition("/")[2])
        if reversal is None:
            raise refusal(404, "Not found")
        request.line |= {"id": reversal.id, "transaction_reference": reversal.transaction_reference}
        return Reply(body=compact(result_document(reversal, decided=self._is_decided(reversal))))

    def _is_decided(self, reversal: Reversal) -> bool:
        return bool(self._clock.monotonic() >= reversal.decided_at)

    async def _tell(self, reversal: Reversal) -> None:
        """Once it is decided, deliver the result, as often as it comes, and then the webhook to its subscribers."""
        await asyncio.sleep(reversal.decided_at - self._clock.monotonic())
        behaviour, result = reversal.behaviour, compact(result_document(reversal))
        results = (self._deliver("result", reversal, reversal.callback_url, result) for _ in range(behaviour.results))
        await asyncio.gather(*results)
        if behaviour.topic:
            event = compact(webhook_document(reversal, behaviour.topic))
            with self._lock:
                known = [subscription["attributes"] for subscription in self._subscriptions.values()]
            urls = [attributes["url"] for attributes in known if attributes["event_type"] == behaviour.topic]
            await asyncio.gather(*(self._deliver("webhook", reversal, url, event) for url in urls))

    async def _deliver(self, kind: str, reversal: Reversal, url: str, body: bytes) -> None:
        sent: Document = {"at": timestamp(self._clock.time(), UTC), "kind": kind}
        sent |= {"transaction_reference": reversal.transaction_reference, "url": url}
        sent["status"], sent["error"] = await post(url, body, sign(body, self._api_key))
        with self._lock:
            self._deliveries.append(sent)

    # Webhook subscriptions

    def _subscribe(self, request: Request) -> Reply:
        self._authenticate(request)
        wanted = {name: request.fields.get(name) for name in ("event_type", "url", "scope", "scope_reference")}
        require(EVENT_TYPE.fullmatch(str(wanted["event_type"])), "Event type invalid")
        require(is_url(wanted["url"]), "Url invalid")
        require(wanted["scope"] in ("till", "company"), "Scope invalid")
        require(wanted["scope"] == "company" or is_text(wanted["scope_reference"]), "Scope reference invalid")
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{wanted['event_type']} {wanted['url']}"))
        subscription = {"id": identity, "type": "webhook_subscription", "attributes": wanted}
        self._subscriptions.setdefault(identity, subscription)
        return Reply(201, location=f"{request.base_url}/api/v2/webhook_subscriptions/{identity}")

    def _show_subscriptions(self, request: Request) -> Reply:
        self._authenticate(request)
        known = {**self._subscriptions, "": list(self._subscriptions.values())}
        data = known.get(request.path.removeprefix("/api/v2/webhook_subscriptions").removeprefix("/"))
        if data is None:
            raise refusal(404, "Not found")
        return Reply(body=compact({"data": data}))


class _Courier:
    """The thread that deliveries run in, any number of them at a time."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="simulator-courier", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._stopping.wait())

    def stop(self) -> None:
        """Cancel what is under way, and end the thread."""
        self.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    """A daemon thread per connection, as many as there are connections, all joined at the end."""

    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], simulator: Simulator) -> None:
        super().__init__(address, _Handler)
        self.simulator = simulator
        self._connections: list[tuple[threading.Thread, socket.socket]] = []
        self._acceptor = threading.Thread(target=self.serve_forever, args=(0.01,), name="simulator", daemon=True)

    def start(self) -> None:
        self._acceptor.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections = [known for known in self._connections if known[0].is_alive()]
        of = (request, client_address)
        thread = threading.Thread(target=self.process_request_thread, args=of, name="simulator-client", daemon=True)
        self._connections.append((thread, request))
        thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that went away is no error of ours
            super().handle_error(request, client_address)

    def stop_accepting(self) -> None:
        self.shutdown()
        self._acceptor.join()
        self.server_close()

    def end_connections(self) -> None:
        for _, connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread, _ in self._connections:
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def serve(self) -> None:
        body, problem = b"", None
        try:
            body = self._read_body()
        except ApiError as error:
            self.close_connection, problem = True, error
        request = Request(self.command, self.path, self.headers, body, problem)
        reply = self.server.simulator.answer(request)
        if reply.reset:
            self._reset()
        elif reply.status is None:
            self._hold()
        else:
            request.line["status"] = reply.status  # first: whoever has the answer may look at the journal at once
            try:
                self._send(reply, reply.status)
            except OSError:
                request.line["status"] = None
                raise

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = serve  # noqa: N815

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            raise refusal(411, "Content-Length is required")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise refusal(400, "Content-Length invalid")
        if int(length) > MAX_BODY:
            raise refusal(413, "The request body is too large")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionAbortedError
        return body

    def _send(self, reply: Reply, status: int) -> None:
        head = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"Date: {self.date_time_string()}",
            f"Content-Length: {len(reply.body)}",
            f"Connection: {'close' if self.close_connection else 'keep-alive'}",
        ]
        if reply.body:
            head.append(f"Content-Type: {reply.content_type}")
        if reply.location:
            head.append(f"location: {reply.location}")
        # One send for all of it: two would wait for each other (Nagle's algorithm, delayed acknowledgements).
        self.connection.sendall("\r\n".join([*head, "", ""]).encode() + reply.body)

    def _hold(self) -> None:
        self.close_connection = True
        while self.connection.recv(65536):  # until the client goes, or the simulator stops
            pass

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()  # before the server shuts it down politely

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.simulator", description="Kopo Kopo on this machine.")
    parser.add_argument("--port", type=int, default=3001, help="on 127.0.0.1; 0 takes a free one (default: 3001)")
    parser.add_argument("--delay", type=float, default=0.3, help="seconds to a reversal's result (default: 0.3)")
    parser.add_argument("--token-lifetime", type=int, default=3600, help="seconds (default: 3600)")
    options = parser.parse_args(arguments)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    simulator = Simulator(
        port=options.port,
        delay=options.delay,
        token_lifetime=options.token_lifetime,
        client_id=os.environ.get("KOPOKOPO_CLIENT_ID") or "local-client-id",
        client_secret=os.environ.get("KOPOKOPO_CLIENT_SECRET") or "local-client-secret",
        api_key=os.environ.get("KOPOKOPO_API_KEY") or "local-api-key",
    )
    try:
        simulator.start()
    except (OSError, OverflowError) as error:
        print(f"simulator: port {options.port} cannot be used ({error}): choose another with --port", file=sys.stderr)
        return 1
    print(f"ready {simulator.url}", flush=True)
    ended.wait()
    simulator.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
