"""The simulator against what is known of Kopo Kopo's API: it judges everything else, so it is judged first."""

import hashlib
import hmac
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import requests

from local import simulator as module
from local.simulator import BEHAVIOURS, Behaviour, Reversal, Simulator, compact, result_document, sign, webhook_document
from local.waiting import until

ROOT = Path(__file__).parents[2]
DEADLINE = 5.0
FOREVER = 60.0
CLIENT = {"client_id": "local-client-id", "client_secret": "local-client-secret"}
GRANT = {**CLIENT, "grant_type": "client_credentials"}
API_KEY = "local-api-key"
PENDING = ["You cannot reverse a transaction in Pending Reversal"]
BUYGOODS, B2B = "buygoods_transaction_reversed", "b2b_transaction_reversed"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NAIROBI = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+03:00")

Json = dict[str, Any]


# What the tests are made with


def eventually(check: Callable[[], Any]) -> Any:
    found = until(check, DEADLINE)
    assert found, "it did not happen in time"
    return found


@dataclass
class Delivery:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Json:
        document: Json = json.loads(self.body)
        return document

    @property
    def truly_signed(self) -> bool:
        expected = hmac.new(API_KEY.encode(), self.body, hashlib.sha256).hexdigest()
        return self.headers["x-kopokopo-signature"] == expected


@dataclass
class Receiver:
    """A merchant's server: keeps what it gets, and answers once it may."""

    status: int = 200
    deliveries: list[Delivery] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with receiver.changed:
                    receiver.deliveries.append(Delivery(self.path, headers, body))
                    receiver.changed.notify_all()
                receiver.may_answer.wait(DEADLINE)
                self.send_response(receiver.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with suppress(OSError):
                    super().handle()

        self.may_answer.set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False  # joined when it is closed
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.005,))
        self.thread.start()

    def close(self) -> None:
        self.may_answer.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def wait_for(self, count: int, path: str = "") -> list[Delivery]:
        """The deliveries to a path (every path), once there are so many."""

        def found() -> list[Delivery]:
            return [delivery for delivery in self.deliveries if path in ("", delivery.path)]

        with self.changed:
            assert self.changed.wait_for(lambda: len(found()) >= count, DEADLINE), f"{len(found())} of {count} arrived"
            return found()


class Client:
    """Calls a simulator as a merchant does, with a token of its own."""

    def __init__(self, simulator: Simulator, callback_url: str = "http://127.0.0.1:9/closed") -> None:
        self.url, self.callback_url = simulator.url, callback_url
        self.token = self.new_token()

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, self.url + path, timeout=DEADLINE, allow_redirects=False, **options)

    def new_token(self) -> str:
        answer = self.call("POST", "/oauth/token", data=GRANT)
        assert answer.status_code == 200
        return str(answer.json()["access_token"])

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def body(self, reference: str, **changes: Any) -> Json:
        links = {"callback_url": self.callback_url}
        return {"transaction_reference": reference, "reason": "Paid twice", "_links": links, **changes}

    def reverse(self, reference: str, **changes: Any) -> requests.Response:
        return self.call("POST", "/api/v2/reversals", json=self.body(reference, **changes), headers=self.bearer)

    def subscribe(self, topic: str, url: str, **changes: Any) -> requests.Response:
        body = {"event_type": topic, "url": url, "scope": "till", "scope_reference": "000000", **changes}
        return self.call("POST", "/api/v2/webhook_subscriptions", json=body, headers=self.bearer)

    def get(self, path: str) -> Any:
        answer = self.call("GET", path, headers=self.bearer)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def journal(self, reference: str = "") -> list[Json]:
        lines: list[Json] = self.get("/_journal")
        return [line for line in lines if reference in ("", line["transaction_reference"])]

    def deliveries(self) -> list[Json]:
        listed: list[Json] = self.get("/_deliveries")
        return listed

    def accepted(self, reference: str) -> list[Json]:
        return [line for line in self.journal(reference) if line["accepted"]]

    def decided(self, reference: str) -> Json:
        """The reversal's document, once its bulk payment is there."""
        path = f"/api/v2/reversals/{self.accepted(reference)[-1]['id']}"
        document: Json = eventually(
            lambda: (found := self.get(path)) and found["data"]["attributes"]["reversal_bulk_payment"] and found
        )
        return document

    def posting(self, reference: str) -> socket.socket:
        """A connection on which the POST was sent, and nothing read."""
        return raw(self.url, raw_request("/api/v2/reversals", self.body(reference), self.bearer))


def raw_request(path: str, body: Json | bytes, headers: dict[str, str]) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def raw(url: str, sent: bytes) -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), DEADLINE)
    connection.sendall(sent)
    return connection


def is_silent(connection: socket.socket) -> bool:
    return not select.select([connection], [], [], 0)[0]


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(delay=0.01) as running:
        yield running


@pytest.fixture
def slow() -> Iterator[Simulator]:
    """A simulator that decides nothing while a test lasts."""
    with Simulator(delay=FOREVER) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with closing(Receiver()) as running:
        yield running


@pytest.fixture
def client(simulator: Simulator, receiver: Receiver) -> Client:
    return Client(simulator, receiver.url + "/result")


# Tokens


@pytest.mark.parametrize("form", ["data", "json"])
def test_a_token_is_issued_to_a_form_and_to_json(simulator: Simulator, form: str) -> None:
    answer = requests.post(simulator.url + "/oauth/token", timeout=DEADLINE, **{form: GRANT})  # type: ignore[arg-type]
    token = answer.json()
    assert answer.status_code == 200
    assert token["token_type"] == "Bearer"
    assert token["expires_in"] == 3600
    assert abs(token["created_at"] - time.time()) < 60
    assert len(token["access_token"]) >= 32


@pytest.mark.parametrize(
    "credentials",
    [{**GRANT, "client_secret": "wrong"}, {**GRANT, "client_id": "wrong"}, {"grant_type": "client_credentials"}, {}],
)
@pytest.mark.parametrize("path", ["/oauth/token", "/oauth/revoke", "/oauth/introspect"])
def test_another_client_is_refused(client: Client, path: str, credentials: Json) -> None:
    answer = client.call("POST", path, json={**credentials, "token": client.token})
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert client.call("GET", "/oauth/token/info", headers=client.bearer).status_code == 200


def test_only_client_credentials_are_granted(simulator: Simulator) -> None:
    answer = requests.post(simulator.url + "/oauth/token", {**GRANT, "grant_type": "password"}, timeout=DEADLINE)
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


@pytest.mark.parametrize("form", ["data", "json"])
def test_a_token_is_introspected_and_revoked(client: Client, form: str) -> None:
    asked = {form: {**CLIENT, "token": client.token}}
    about = client.call("POST", "/oauth/introspect", **asked).json()
    assert about["active"] is True
    assert about["client_id"] == CLIENT["client_id"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", about[name]) for name in ("exp", "iat"))
    assert about["iat"] < about["exp"]

    info = client.get("/oauth/token/info")
    assert set(info) == {"resource_owner_id", "scope", "expires_in", "application", "created_at"}
    assert info["application"] == {"uid": CLIENT["client_id"]}
    assert 3590 <= info["expires_in"] <= 3600

    assert client.call("POST", "/oauth/revoke", **asked).json() == {}
    assert client.call("POST", "/oauth/introspect", **asked).json() == {"active": False}
    refused = client.reverse("TQ2L262026")
    assert (refused.status_code, refused.json()["error"]) == (401, "InvalidAccessToken")


PROTECTED = [
    ("GET", "/oauth/token/info"),
    ("POST", "/api/v2/reversals"),
    ("GET", "/api/v2/reversals/1"),
    ("POST", "/api/v2/webhook_subscriptions"),
    ("GET", "/api/v2/webhook_subscriptions"),
    ("GET", "/api/v2/webhook_subscriptions/1"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize("header", [None, "Bearer null", "Bearer ", "{token}", "Basic {token}"])
def test_without_a_token_the_answer_is_401(client: Client, method: str, path: str, header: str | None) -> None:
    headers = {"Authorization": header.format(token=client.token)} if header else {}
    answer = client.call(method, path, headers=headers, json=client.body("TQ1") if method == "POST" else None)
    assert (answer.status_code, answer.json()["error"]) == (401, "InvalidAccessToken")
    assert client.accepted("TQ1") == []


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_with_an_expired_token_the_answer_says_so(method: str, path: str) -> None:
    with Simulator(token_lifetime=0) as simulator:
        client = Client(simulator)
        answer = client.call(method, path, headers=client.bearer, json=client.body("TQ1") if method == "POST" else None)
        assert (answer.status_code, answer.json()["error"]) == (401, "ExpiredAccessToken")
        asked = {**CLIENT, "token": client.token}
        assert client.call("POST", "/oauth/introspect", data=asked).json() == {"active": False}


def test_the_credentials_are_a_setting() -> None:
    with Simulator(client_id="i", client_secret="s", token_lifetime=7) as simulator:
        own = {"client_id": "i", "client_secret": "s", "grant_type": "client_credentials"}
        assert requests.post(simulator.url + "/oauth/token", own, timeout=DEADLINE).json()["expires_in"] == 7
        assert requests.post(simulator.url + "/oauth/token", GRANT, timeout=DEADLINE).status_code == 401


# Reversals: what is asked


@pytest.mark.parametrize(
    "changes",
    [
        {"transaction_reference": ""},
        {"transaction_reference": None},
        {"transaction_reference": 7},
        {"reason": " "},
        {"reason": None},
        {"reason": ["why"]},
        {"_links": None},
        {"_links": {}},
        {"_links": "https://m.example"},
        {"_links": {"callback_url": ""}},
        {"_links": {"callback_url": "/relative"}},
        {"_links": {"callback_url": "ftp://m.example/"}},
        {"_links": {"callback_url": "https://"}},
        {"_links": {"callback_url": "https://:443/"}},
        {"_links": {"callback_url": "https://m.example:99999/"}},
        {"_links": {"callback_url": "https://m.example/\r\nX-Header: y"}},
        {"_links": {"callback_url": "http://[::1/"}},
        {"metadata": "none"},
        {"metadata": ["none"]},
        {"metadata": {str(number): "x" for number in range(6)}},
    ],
    ids=str,
)
def test_an_invalid_field_is_refused(client: Client, changes: Json) -> None:
    answer = client.reverse("TQ1", **changes)
    assert answer.status_code == 400
    assert answer.json()["error_code"] == 400
    assert answer.json()["error_message"]
    assert not any(line["accepted"] for line in client.journal())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"null", b"transaction_reference=TQ1", b"[" * 100_000])
def test_what_is_not_a_json_object_is_refused(client: Client, body: bytes) -> None:
    answer = client.call("POST", "/api/v2/reversals", data=body, headers=client.bearer)
    assert (answer.status_code, answer.json()["error_code"]) == (400, 400)


@pytest.mark.parametrize("value", [b"NaN", b"1e999", b'"\\ud800"', b'"\xff"', b"9" * 5000, b"'x'"])
def test_what_is_not_json_anywhere_is_refused(client: Client, value: bytes) -> None:
    body = json.dumps(client.body("TQ1", metadata={"a": "<value>"})).encode()
    answer = client.call("POST", "/api/v2/reversals", data=body.replace(b'"<value>"', value), headers=client.bearer)
    assert (answer.status_code, answer.json()["error_code"]) == (400, 400)
    assert client.reverse("TQ1", metadata={"a": "<value>"}).status_code == 201


@pytest.mark.parametrize("depth", [100, 450, 900, 990])
def test_a_deep_body_leaves_the_journal_readable(client: Client, depth: int) -> None:
    body = json.dumps(client.body("TQ1", metadata={"a": "<value>"})).encode()
    deep = body.replace(b'"<value>"', b"[" * depth + b"]" * depth)
    answer = client.call("POST", "/api/v2/reversals", data=deep, headers=client.bearer)
    assert answer.status_code in (201, 400)
    assert client.journal()[-1]["accepted"] is (answer.status_code == 201)


@pytest.mark.parametrize("metadata", [{}, None, {str(number): f"Ngũgĩ {number}" for number in range(5)}])
def test_metadata_is_echoed(client: Client, receiver: Receiver, metadata: Json | None) -> None:
    assert client.reverse("TQ1", metadata=metadata).status_code == 201
    assert receiver.wait_for(1)[0].document["data"]["attributes"]["metadata"] == metadata


def test_metadata_may_be_absent(client: Client, receiver: Receiver) -> None:
    assert "metadata" not in client.body("TQ1")
    assert client.reverse("TQ1").status_code == 201
    assert receiver.wait_for(1)[0].document["data"]["attributes"]["metadata"] is None


@pytest.mark.parametrize("host", ["sandbox.kopokopo.com", "127.0.0.1:3001", "[::1]:9"])
def test_the_location_is_absolute_and_of_the_host_that_was_called(client: Client, host: str) -> None:
    request = raw_request("/api/v2/reversals", client.body("TQ1"), client.bearer)
    with closing(raw(client.url, request.replace(b"Host: 127.0.0.1", b"Host: " + host.encode()))) as connection:
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 201 Created\r\n")
    location = re.search(r"\r\nlocation: (.+)\r\n", answer)
    assert location
    assert re.fullmatch(re.escape(f"http://{host}/api/v2/reversals/") + UUID.pattern, location[1])
    assert client.journal("TQ1")[0]["id"] == location[1].rpartition("/")[2]


def test_a_host_cannot_put_a_line_into_the_answer(client: Client) -> None:
    request = raw_request("/api/v2/reversals", client.body("TQ1"), client.bearer)
    folded = request.replace(b"Host: 127.0.0.1", b"Host: a\r\n x-injected: 1")
    with closing(raw(client.url, folded)) as connection:
        assert b"location: http://127.0.0.1/api/v2/" in connection.recv(65536)


@pytest.mark.parametrize("prefix", sorted(name for name in BEHAVIOURS if BEHAVIOURS[name].accepted))
def test_a_second_reversal_is_refused_whatever_its_prefix(slow: Simulator, prefix: str) -> None:
    client = Client(slow)
    if prefix == "EXPIRED":
        assert client.reverse("EXPIRED1").status_code == 401
        client.token = client.new_token()
    with closing(client.posting(f"{prefix}1")):
        eventually(lambda: client.accepted(f"{prefix}1"))
        answer = client.reverse(f"{prefix}1", reason="Another")
    assert (answer.status_code, answer.json()) == (400, {"error_code": 400, "error_message": PENDING})
    assert len(client.accepted(f"{prefix}1")) == 1


def test_of_200_posts_at_once_one_is_accepted(
    client: Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals, overtaken, behaviour_of = count(), threading.Event(), module.behaviour_of

    def unhurried(reference: str) -> Behaviour:
        """Between the look at what was accepted before and the acceptance, the first lets others by, if they can."""
        if next(arrivals):
            overtaken.set()
        else:
            overtaken.wait(0.2)
        return behaviour_of(reference)

    monkeypatch.setattr(module, "behaviour_of", unhurried)
    request = raw_request("/api/v2/reversals", client.body("TQ1"), {**client.bearer, "Connection": "close"})
    together = threading.Barrier(200)

    def send(_: int) -> bytes:
        with closing(raw(client.url, request[:-1])) as connection:
            together.wait(DEADLINE)
            connection.sendall(request[-1:])
            return connection.makefile("rb").read()

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(send, range(200)))
    assert sum(answer.startswith(b"HTTP/1.1 201 ") for answer in answers) == 1
    assert sum(answer.startswith(b"HTTP/1.1 400 ") and b"Pending" in answer for answer in answers) == 199
    lines = client.journal("TQ1")
    assert len(lines) == 200
    assert sum(line["accepted"] for line in lines) == 1
    assert len(receiver.wait_for(1)) == 1


# Reversals: what comes of them

CANCELLED = {
    "data": {
        "id": "c5486bd6-54c5-4d38-9e8a-e5a3597cd704",
        "type": "reversal",
        "attributes": {
            "status": "Processed",
            "created_at": "2025-11-24T13:11:13.255+03:00",
            "transaction_reference": "8b275328-3b33-4144-9163-b2badbfb5de3",
            "reason": "Testing Reversals",
            "reversal_bulk_payment": {
                "amount": "400.0",
                "status": "Cancelled",
                "origination_time": "2025-11-24T13:01:13.000+03:00",
                "transaction_reference": None,
            },
            "errors": None,
            "metadata": {"name": "Test"},
            "_links": {
                "callback_url": "https://m.example/",
                "self": "https://sandbox.kopokopo.com/api/v2/reversals/c5486bd6-54c5-4d38-9e8a-e5a3597cd704",
            },
        },
    }
}


def pinned(reference: str) -> Reversal:
    return Reversal(
        reference,
        "https://m.example/",
        "Testing Reversals",
        {"name": "Test"},
        base_url="https://sandbox.kopokopo.com",
        id="c5486bd6-54c5-4d38-9e8a-e5a3597cd704",
        transaction_uuid="8b275328-3b33-4144-9163-b2badbfb5de3",
        created_at=1763979073.255,
    )


def test_a_failed_result_has_the_shape_of_the_official_page() -> None:
    assert result_document(pinned("CANCEL1")) == CANCELLED
    assert list(result_document(pinned("CANCEL1"))["data"]["attributes"]) == list(CANCELLED["data"]["attributes"])


def test_a_successful_result_has_a_reference_of_its_own() -> None:
    attributes = result_document(pinned("TQ1"))["data"]["attributes"]
    assert attributes["reversal_bulk_payment"]["status"] == "Transferred"
    assert re.fullmatch(r"RV[0-9A-F]{8}", attributes["reversal_bulk_payment"]["transaction_reference"])


def test_an_undecided_reversal_was_received() -> None:
    attributes = result_document(pinned("TQ1"), decided=False)["data"]["attributes"]
    assert (attributes["status"], attributes["reversal_bulk_payment"]) == ("Received", None)


def test_the_status_is_undecided_until_the_delay_is_over(slow: Simulator) -> None:
    client = Client(slow)
    location = client.reverse("TQ1").headers["location"]
    attributes = client.get(urlsplit(location).path)["data"]["attributes"]
    assert (attributes["status"], attributes["reversal_bulk_payment"]) == ("Received", None)


def test_the_result_is_the_status_truly_signed(client: Client, receiver: Receiver) -> None:
    answer = client.reverse("TQ1", reason="Erreur – mara mbili", metadata={"ticket": "#1"})
    [result] = receiver.wait_for(1)
    assert result.path == "/result"
    assert result.headers["content-type"] == "application/json"
    assert result.truly_signed
    assert re.fullmatch(r"[0-9a-f]{64}", result.headers["x-kopokopo-signature"])
    document = result.document
    assert client.get(urlsplit(answer.headers["location"]).path) == document
    assert document["data"]["id"] == answer.headers["location"].rpartition("/")[2]
    attributes = document["data"]["attributes"]
    assert attributes["_links"] == {"callback_url": client.callback_url, "self": answer.headers["location"]}
    assert UUID.fullmatch(attributes["transaction_reference"])
    assert NAIROBI.fullmatch(attributes["created_at"])
    assert NAIROBI.fullmatch(attributes["reversal_bulk_payment"]["origination_time"])
    assert attributes["reason"] == "Erreur – mara mbili"


def test_a_delivery_can_be_serialised_again_without_a_change(client: Client, receiver: Receiver) -> None:
    client.subscribe(BUYGOODS, receiver.url + "/hooks")
    client.reverse("TQ1", reason="Erreur – mara mbili", metadata={"ticket": "#1"})
    for delivery in receiver.wait_for(2):
        again = json.dumps(delivery.document, separators=(",", ":"), ensure_ascii=False).encode()
        assert again == delivery.body
    assert "Erreur – mara mbili".encode() in receiver.wait_for(1, "/result")[0].body


def test_a_signature_is_pinned() -> None:
    expected = "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"
    assert sign(b"The quick brown fox jumps over the lazy dog", "key") == expected


@dataclass(frozen=True)
class Expected:
    """What one prefix is to do. `post`: the answer's status, or None for silence, or a reset."""

    post: int | str | None = 201
    accepted: bool = True
    status: str = "Transferred"
    results: int = 1
    webhooks: dict[str, int] = field(default_factory=lambda: {BUYGOODS: 1})


NOTHING: dict[str, int] = {}
EXPECTED = {
    "": Expected(),
    "BROKEN": Expected(500),
    "CANCEL": Expected(status="Cancelled", webhooks=NOTHING),
    "DOWN": Expected(503, accepted=False),
    "DROP": Expected("reset"),
    "EARLY": Expected(),
    "EVIL": Expected(),
    "EXPIRED": Expected(401, accepted=False),
    "LOST": Expected(results=0, webhooks=NOTHING),
    "MOVED": Expected(302, accepted=False),
    "MUTE": Expected(None, results=0, webhooks=NOTHING),
    "NOLOC": Expected(),
    "OLD": Expected(400, accepted=False),
    "REJECT": Expected(400, accepted=False),
    "SILENT": Expected(None),
    "THRICE": Expected(results=3),
    "WEBHOOK": Expected(status="", results=0),
    "WEBHOOKB2B": Expected(status="", results=0, webhooks={B2B: 1}),
}


def test_every_prefix_is_expected_to_do_something() -> None:
    assert set(EXPECTED) == set(BEHAVIOURS)


@pytest.mark.parametrize("prefix", EXPECTED)
def test_a_prefix_does_what_is_expected(client: Client, receiver: Receiver, prefix: str) -> None:
    expected, reference = EXPECTED[prefix], f"{prefix}7A"
    for topic in (BUYGOODS, B2B):
        client.subscribe(topic, f"{receiver.url}/{topic}")
    with closing(client.posting(reference)) as connection:
        if expected.post == "reset":
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        elif expected.post:
            assert connection.recv(65536).startswith(f"HTTP/1.1 {expected.post} ".encode())
        [line] = eventually(lambda: client.journal(reference))
        assert line["accepted"] is expected.accepted
        assert bool(line["id"]) is expected.accepted
        assert line["status"] == (expected.post if isinstance(expected.post, int) else None)
        if expected.accepted and expected.status:
            payment = client.decided(reference)["data"]["attributes"]["reversal_bulk_payment"]
            assert payment["status"] == expected.status
        elif expected.accepted:
            receiver.wait_for(1)
            attributes = client.get(f"/api/v2/reversals/{line['id']}")["data"]["attributes"]
            assert (attributes["status"], attributes["reversal_bulk_payment"]) == ("Received", None)

        # A later reversal is the fence: whatever was to be delivered before its webhook has been sent by then.
        client.token = client.new_token()
        assert client.reverse("FENCE").status_code == 201
        own = expected.results + sum(expected.webhooks.values()) if expected.accepted else 0
        delivered = receiver.wait_for(2 + own)
        told = [delivery.document for delivery in delivered if delivery.path == "/result"]
        assert all(delivery.truly_signed for delivery in delivered)
        assert sum(document["data"]["id"] == line["id"] for document in told) == own - sum(
            expected.webhooks.values() if expected.accepted else ()
        )
        for topic in (BUYGOODS, B2B):
            hooks = [delivery.document for delivery in delivered if delivery.path == f"/{topic}"]
            of_it = [hook for hook in hooks if hook["event"]["resource"]["reference"] == reference]
            assert len(of_it) == (expected.webhooks.get(topic, 0) if expected.accepted else 0)
        assert len(delivered) == 2 + own
        if expected.post is None:
            assert is_silent(connection)


def test_a_rejection_is_one_string_or_a_list(client: Client) -> None:
    assert client.reverse("REJECT1").json() == {"error_code": 400, "error_message": "Transaction reference invalid"}
    assert client.reverse("OLD1").json() == {
        "error_code": 400,
        "error_message": ["You cannot reverse a transaction older than 30 days"],
    }


@pytest.mark.parametrize("prefix", ["REJECT", "OLD", "DOWN", "MOVED"])
def test_what_was_not_accepted_is_answered_alike_each_time(client: Client, prefix: str) -> None:
    first, second = client.reverse(prefix), client.reverse(prefix)
    assert first.status_code == second.status_code
    assert b"Pending" not in second.content
    assert client.accepted(prefix) == []


@pytest.mark.parametrize("prefix", ["DOWN", "BROKEN"])
def test_a_server_error_is_html(client: Client, prefix: str) -> None:
    answer = client.reverse(prefix)
    assert answer.headers["content-type"] == "text/html"
    assert answer.text.startswith("<html>")


def test_noloc_has_no_location(client: Client) -> None:
    assert "location" not in client.reverse("NOLOC1").headers


def test_moved_leads_to_a_trap_on_the_same_host(client: Client) -> None:
    location = client.reverse("MOVED1").headers["location"]
    assert location.startswith(client.url + "/_trap/")
    assert requests.get(location, headers=client.bearer, timeout=DEADLINE).json() == {}
    last = client.journal()[-1]
    assert (last["path"], last["status"], last["credentials"]) == (urlsplit(location).path, 200, True)


@pytest.mark.parametrize(("called", "other"), [("127.0.0.1", "localhost"), ("localhost", "127.0.0.1")])
def test_evil_leads_to_a_trap_on_another_host(client: Client, called: str, other: str) -> None:
    client.url = client.url.replace("127.0.0.1", called)
    location = client.reverse("EVIL1").headers["location"]
    assert urlsplit(location).hostname == other
    requests.get(location, timeout=DEADLINE)
    last = client.journal()[-1]
    assert last["path"].startswith("/_trap/")
    assert (last["host"], last["credentials"]) == (urlsplit(location).netloc, False)


def test_early_is_answered_only_when_its_result_was(slow: Simulator, receiver: Receiver) -> None:
    client = Client(slow, receiver.url)
    receiver.may_answer.clear()
    with closing(client.posting("EARLY1")) as connection:
        receiver.wait_for(1)
        [line] = client.journal("EARLY1")
        assert (line["accepted"], line["status"]) == (True, None)
        assert is_silent(connection)
        receiver.may_answer.set()
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
    assert client.deliveries()[0]["status"] == 200


def test_early_is_answered_even_when_nobody_takes_its_result(simulator: Simulator) -> None:
    assert Client(simulator).reverse("EARLY1").status_code == 201


def test_thrice_brings_the_same_bytes(client: Client, receiver: Receiver) -> None:
    client.reverse("THRICE1")
    first, second, third = receiver.wait_for(3)
    assert first.body == second.body == third.body
    assert first.headers == second.headers == third.headers


def test_expired_is_accepted_with_another_token(client: Client, receiver: Receiver) -> None:
    refused = client.reverse("EXPIRED1")
    assert (refused.status_code, refused.json()["error"]) == (401, "ExpiredAccessToken")
    assert client.reverse("EXPIRED1").json()["error"] == "ExpiredAccessToken"
    assert client.reverse("TQ1").json()["error"] == "ExpiredAccessToken"
    assert client.accepted("EXPIRED1") == []
    client.token = client.new_token()
    assert client.reverse("EXPIRED1").status_code == 201
    assert client.reverse("EXPIRED2").status_code == 401
    assert receiver.wait_for(1)[0].document["data"]["id"] == client.accepted("EXPIRED1")[0]["id"]


def test_a_cancelled_reversal_can_be_asked_for_again(client: Client, receiver: Receiver) -> None:
    first = client.reverse("CANCEL1").headers["location"]
    receiver.wait_for(1)
    second = client.reverse("CANCEL1").headers["location"]
    assert first != second
    receiver.wait_for(2)
    assert len(client.accepted("CANCEL1")) == 2


def test_the_caller_may_go_while_nothing_is_answered(client: Client) -> None:
    connection = client.posting("MUTE1")
    eventually(lambda: client.accepted("MUTE1"))
    connection.close()
    assert client.decided("MUTE1")
    assert client.journal("MUTE1")[0]["status"] is None


def test_an_unknown_reversal_is_not_found(client: Client) -> None:
    answer = client.call("GET", "/api/v2/reversals/67b1bb87-b89b-4366-93c9-a2bb6944ec99", headers=client.bearer)
    assert (answer.status_code, answer.json()["error_code"]) == (404, 404)


# Webhook subscriptions


def test_a_subscription_is_kept_once(client: Client, receiver: Receiver) -> None:
    first = client.subscribe(BUYGOODS, receiver.url + "/hooks")
    again = client.subscribe(BUYGOODS, receiver.url + "/hooks")
    other = client.subscribe(B2B, receiver.url + "/hooks", scope="company", scope_reference=None)
    assert first.status_code == again.status_code == other.status_code == 201
    assert first.headers["location"] == again.headers["location"] != other.headers["location"]
    assert first.headers["location"].startswith(client.url + "/api/v2/webhook_subscriptions/")
    listed = client.get("/api/v2/webhook_subscriptions")["data"]
    assert [one["attributes"]["event_type"] for one in listed] == [BUYGOODS, B2B]
    assert client.get(urlsplit(first.headers["location"]).path)["data"] == listed[0]
    assert listed[0]["attributes"]["url"] == receiver.url + "/hooks"
    client.reverse("WEBHOOK1")
    receiver.wait_for(1)
    client.reverse("WEBHOOKB2B1")
    assert [hook.document["topic"] for hook in receiver.wait_for(2)] == [BUYGOODS, B2B]


@pytest.mark.parametrize(
    "changes",
    [
        {"event_type": None},
        {"event_type": ""},
        {"event_type": "Everything"},
        {"url": None},
        {"url": "m.example"},
        {"scope": None},
        {"scope": "country"},
        {"scope_reference": None},
        {"scope_reference": ""},
    ],
    ids=str,
)
def test_an_invalid_subscription_is_refused(client: Client, changes: Json) -> None:
    body = {"event_type": BUYGOODS, "url": "https://m.example/", "scope": "till", "scope_reference": "1", **changes}
    answer = client.call("POST", "/api/v2/webhook_subscriptions", json=body, headers=client.bearer)
    assert (answer.status_code, answer.json()["error_code"]) == (400, 400)
    assert client.get("/api/v2/webhook_subscriptions") == {"data": []}


def test_an_unknown_subscription_is_not_found(client: Client) -> None:
    assert client.call("GET", "/api/v2/webhook_subscriptions/1", headers=client.bearer).status_code == 404


def test_the_webhooks_have_their_shapes() -> None:
    buygoods, b2b = webhook_document(pinned("TQ1")), webhook_document(pinned("TQ1"), B2B)
    assert list(buygoods) == list(b2b) == ["topic", "id", "created_at", "event", "_links"]
    assert (buygoods["event"]["type"], b2b["event"]["type"]) == (
        "Buygoods Transaction",
        "External Till To Till Reversal Transaction",
    )
    sender = {f"sender_{name}" for name in ("phone_number", "first_name", "middle_name", "last_name")}
    common = {"id", "amount", "status", "system", "currency", "reference", "till_number"}
    common |= {"origination_time", "reversal_time"}
    resource = buygoods["event"]["resource"]
    assert set(resource) == common | sender | {"hashed_sender_phone"}
    assert set(b2b["event"]["resource"]) == common | {"sending_till"}
    assert (resource["reference"], resource["status"], resource["currency"]) == ("TQ1", "Reversed", "KES")
    assert (resource["sender_first_name"], resource["sender_phone_number"]) == ("A", "+254700000000")
    assert set(buygoods["_links"]) == {"self", "resource"}
    assert buygoods["id"] != b2b["id"]


# Deliveries


def test_deliveries_can_be_looked_at(client: Client, receiver: Receiver) -> None:
    client.subscribe(BUYGOODS, receiver.url + "/hooks")
    client.reverse("TQ1")
    result, hook = eventually(lambda: len(found := client.deliveries()) == 2 and found)
    assert set(result) == {"at", "kind", "transaction_reference", "url", "status", "error"}
    assert (result["kind"], result["url"], result["status"]) == ("result", receiver.url + "/result", 200)
    assert (hook["kind"], hook["url"], hook["error"]) == ("webhook", receiver.url + "/hooks", None)
    assert result["transaction_reference"] == hook["transaction_reference"] == "TQ1"


@pytest.mark.parametrize("status", [302, 307, 404, 500, 503])
def test_a_delivery_is_tried_once_and_follows_nothing(client: Client, receiver: Receiver, status: int) -> None:
    receiver.status = status
    client.reverse("TQ1")
    [told] = eventually(client.deliveries)
    assert (told["status"], told["error"]) == (status, None)
    client.reverse("TQ2")
    assert [delivery.path for delivery in receiver.wait_for(2)] == ["/result"] * 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "https://127.0.0.1:9/"])
def test_a_failed_delivery_says_why(client: Client, url: str) -> None:
    client.reverse("TQ1", _links={"callback_url": url})
    [told] = eventually(client.deliveries)
    assert told["status"] is None
    assert re.match(r"\w*Error: ", told["error"])


def test_a_receiver_without_http_is_an_error(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client.reverse("TQ1", _links={"callback_url": f"http://127.0.0.1:{server.getsockname()[1]}"})
        connection, _ = server.accept()
        with connection:
            assert connection.recv(65536).startswith(b"POST / HTTP/1.1\r\n")
            connection.sendall(b"hello\r\n")
        [told] = eventually(client.deliveries)
    assert (told["status"], told["error"]) == (None, "no HTTP answer")


def test_a_receiver_has_a_deadline(client: Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELIVERY_TIMEOUT", 0.05)
    receiver.may_answer.clear()
    client.reverse("TQ1")
    [told] = eventually(client.deliveries)
    assert (told["status"], told["error"]) == (None, "TimeoutError")


def test_a_slow_receiver_holds_nobody_up(client: Client, receiver: Receiver) -> None:
    with closing(Receiver()) as slow_one:
        slow_one.may_answer.clear()
        for number in range(20):
            assert client.reverse(f"A{number}", _links={"callback_url": slow_one.url}).status_code == 201
        slow_one.wait_for(20)
        client.reverse("B")
        receiver.wait_for(1)
        assert [told["transaction_reference"] for told in eventually(client.deliveries)] == ["B"]


def test_the_path_and_query_of_the_callback_url_are_kept(client: Client, receiver: Receiver) -> None:
    client.reverse("TQ1", _links={"callback_url": receiver.url + "/kopokopo/results/TQ1/1?a=b%20c&d"})
    [result] = receiver.wait_for(1)
    assert result.path == "/kopokopo/results/TQ1/1?a=b%20c&d"
    assert result.headers["host"] == urlsplit(receiver.url).netloc


# The journal


def test_the_journal_has_every_request_in_order(slow: Simulator) -> None:
    client = Client(slow, "https://m.example/")
    client.reverse("REJECT1")
    accepted = client.reverse("TQ1")
    client.get(urlsplit(accepted.headers["location"]).path)
    client.call("DELETE", "/nowhere?access_token=" + client.token)
    client.call("GET", "/api/v2/reversals")
    client.deliveries()
    lines = client.journal()
    assert [(line["method"], line["path"], line["status"], line["accepted"]) for line in lines] == [
        ("POST", "/oauth/token", 200, False),
        ("POST", "/api/v2/reversals", 400, False),
        ("POST", "/api/v2/reversals", 201, True),
        ("GET", urlsplit(accepted.headers["location"]).path, 200, False),
        ("DELETE", "/nowhere", 404, False),
        ("GET", "/api/v2/reversals", 404, False),
    ]
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["at"]) for line in lines)
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert [line["transaction_reference"] for line in lines] == [None, "REJECT1", "TQ1", "TQ1", None, None]
    identity = accepted.headers["location"].rpartition("/")[2]
    assert [line["id"] for line in lines] == [None, None, identity, identity, None, None]
    assert lines[2]["body"] == client.body("TQ1")
    assert lines[2]["user_agent"].startswith("python-requests/")
    assert [line["credentials"] for line in lines] == [False, True, True, True, False, False]


def test_no_secret_is_in_the_journal(client: Client) -> None:
    for options in ({"data": {**GRANT, "token": client.token}}, {"json": {**GRANT, "token": client.token}}):
        for path in ("/oauth/token", "/oauth/introspect", "/nowhere", "/oauth/revoke"):
            client.call("POST", path, headers=client.bearer, **options)
    secret = {"apiKey": API_KEY, "deep": [{"api_key": API_KEY, "Authorization": "Bearer " + client.token}]}
    client.call("POST", "/api/v2/reversals", json={"reason": "x", **secret}, headers=client.bearer)
    client.call("GET", "/oauth/token/info?access_token=" + client.token, headers=client.bearer)
    client.call("POST", "/oauth/token", data=b'{"client_secret": "local-client-secret"')
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for body in (b'{"client_secret": "local-client-secret"}', b'{"client_secret": "local-client-secret="}'):
        assert client.call("POST", "/oauth/token", data=body, headers=form).status_code == 400
    text = client.call("GET", "/_journal").text + client.call("GET", "/_deliveries").text
    for secret_text in (client.token, CLIENT["client_secret"], API_KEY, "Bearer"):
        assert secret_text not in text
    assert client.journal()[1]["body"] == {**GRANT, "client_secret": "***", "token": "***"}
    assert client.journal()[-5]["body"]["deep"] == [{"api_key": "***", "Authorization": "***"}]


def test_what_was_never_answered_has_no_status(client: Client) -> None:
    with closing(client.posting("SILENT1")), closing(client.posting("DROP1")):
        eventually(lambda: client.accepted("SILENT1") and client.accepted("DROP1"))
        assert client.journal("SILENT1")[0]["status"] is None
        assert client.journal("DROP1")[0]["status"] is None


# HTTP


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_an_unknown_path_is_not_found(client: Client, method: str) -> None:
    for path in ("/", "/api/api/v2/reversals", "/api/v2/reversals/", "/oauth/token/", "/_trap", "/api/v1/reversals"):
        assert client.call(method, path, headers=client.bearer).status_code == 404
        assert (client.journal()[-1]["method"], client.journal()[-1]["path"]) == (method, path)


def test_a_megabyte_is_taken(client: Client) -> None:
    assert client.reverse("TQ1", reason="x" * 1_000_000).status_code == 201


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Content-Length: {1024 * 1024 + 1}", 413),
        ("Content-Length: -1", 400),
        ("Content-Length: 1e3", 400),
        ("Content-Length: " + "9" * 5000, 400),
        ("Transfer-Encoding: chunked", 411),
    ],
)
def test_a_body_that_is_not_read_is_refused_and_ends_the_connection(client: Client, header: str, status: int) -> None:
    with closing(raw(client.url, f"POST /oauth/token HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())) as connection:
        answer = connection.makefile("rb").read()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nConnection: close\r\n" in answer
    assert client.journal()[-1]["status"] == status


def test_half_a_request_is_none(client: Client) -> None:
    with closing(raw(client.url, raw_request("/api/v2/reversals", client.body("TQ1"), client.bearer)[:-1])) as half:
        half.shutdown(socket.SHUT_WR)
        assert half.recv(1) == b""
    assert client.journal("TQ1") == []


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\r\n", b"GET\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n"])
def test_what_is_not_http_does_no_harm(client: Client, garbage: bytes) -> None:
    with closing(raw(client.url, garbage)) as connection:
        connection.shutdown(socket.SHUT_WR)
        connection.makefile("rb").read()
    assert client.reverse("TQ1").status_code == 201


def test_a_connection_is_kept_and_no_answer_waits_for_an_acknowledgement(client: Client) -> None:
    request = raw_request("/oauth/introspect", {**CLIENT, "token": client.token}, {"Content-Type": "application/json"})
    spent = []
    with closing(raw(client.url, request)) as connection:
        for _ in range(20):
            before = time.perf_counter()
            assert b'"active":true' in connection.recv(65536)
            spent.append(time.perf_counter() - before)
            connection.sendall(request)
    assert sorted(spent)[10] < 0.03  # a delayed acknowledgement takes 0.04


# Beginning and end


def simulator_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("simulator", "asyncio"))]


def test_stop_ends_everything_at_once(receiver: Receiver) -> None:
    receiver.may_answer.clear()
    simulator = Simulator(delay=0.01).start()
    client = Client(simulator, receiver.url)
    idle = raw(client.url, b"")
    held = [client.posting(reference) for reference in ("SILENT1", "MUTE1", "EARLY1")]
    client.reverse("TQ1", _links={"callback_url": "http://localhost:9/"})
    receiver.wait_for(2)
    before = time.monotonic()
    simulator.stop()
    assert time.monotonic() - before < 1
    assert simulator_threads() == []
    for connection in [idle, *held[:2]]:
        assert connection.recv(1) == b""
    for connection in [idle, *held]:
        connection.close()
    with pytest.raises(requests.ConnectionError):
        client.journal()


def test_stop_forgets_what_is_due(slow: Simulator) -> None:
    assert Client(slow).reverse("TQ1").status_code == 201
    before = time.monotonic()
    slow.stop()
    slow.stop()
    assert time.monotonic() - before < 1
    assert simulator_threads() == []


def test_a_second_start_keeps_the_port_and_what_was_seen(client: Client, simulator: Simulator) -> None:
    location = client.reverse("TQ1").headers["location"]
    simulator.stop()
    with simulator:
        assert client.get(urlsplit(location).path)["data"]["id"] == location.rpartition("/")[2]
        assert client.reverse("TQ1").json()["error_message"] == PENDING


def test_its_threads_do_not_keep_a_process(simulator: Simulator) -> None:
    with closing(Client(simulator).posting("SILENT1")):
        connected = eventually(lambda: len(threads := simulator_threads()) == 3 and threads)
        assert all(thread.daemon for thread in connected)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the whole of 127.0.0.0/8")
def test_it_listens_on_one_address_alone(simulator: Simulator) -> None:
    port = urlsplit(simulator.url).port
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.2", port), DEADLINE):
        pass


def test_a_taken_port_is_an_error(simulator: Simulator) -> None:
    with pytest.raises(OSError, match="in use"):
        Simulator(port=urlsplit(simulator.url).port or 0).start()


@contextmanager
def command(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    secrets = {"KOPOKOPO_CLIENT_ID": "i", "KOPOKOPO_CLIENT_SECRET": "quiet-secret", "KOPOKOPO_API_KEY": "quiet-key"}
    with subprocess.Popen(
        [sys.executable, "-m", "local.simulator", *arguments],
        cwd=ROOT,
        env={**os.environ, **secrets},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(receiver: Receiver, number: signal.Signals) -> None:
    with command("--port", "0", "--delay", "0", "--token-lifetime", "9") as process:
        assert process.stdout
        ready = re.fullmatch(r"ready (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
        assert ready
        url = ready[1]
        form = {"client_id": "i", "client_secret": "quiet-secret", "grant_type": "client_credentials"}
        token = requests.post(url + "/oauth/token", form, timeout=DEADLINE).json()
        assert token["expires_in"] == 9
        body = {"transaction_reference": "SILENT1", "reason": "x", "_links": {"callback_url": receiver.url}}
        bearer = {"Authorization": f"Bearer {token['access_token']}"}
        with closing(raw(url, raw_request("/api/v2/reversals", body, bearer))):
            [result] = receiver.wait_for(1)
            assert result.headers["x-kopokopo-signature"] == sign(result.body, "quiet-key")
            before = time.monotonic()
            process.send_signal(number)
            output = process.communicate(timeout=DEADLINE)
            assert time.monotonic() - before < 2
    assert output == ("", "")
    assert process.returncode == 0


def test_the_command_says_what_to_do_about_a_taken_port(simulator: Simulator) -> None:
    with command("--port", str(urlsplit(simulator.url).port)) as process:
        output, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, output) == (1, "")
    assert re.fullmatch(r"simulator: port \d+ .*another with --port\n", errors)


# The four official SDKs, byte for byte as they call


@dataclass(frozen=True)
class Sdk:
    """What one SDK sends; `{…}` is filled in. `verifies` is what it computes the signature of."""

    token: bytes
    introspect: bytes
    revoke: bytes
    reversal: bytes
    accept: bytes
    user_agent: bytes
    verifies: Callable[[bytes], bytes] = bytes


FORM = urlencode(CLIENT).encode()
JSON = compact(CLIENT)[:-1]
SDKS = {
    "python": Sdk(
        FORM + b"&grant_type=client_credentials",
        b'{"client_id": "local-client-id", "client_secret": "local-client-secret", "token": "<token>"}',
        FORM + b"&token=<token>",
        b'{"transaction_reference": "<reference>", "reason": "Erroneous payment", "metadata": {}, '
        b'"_links": {"callback_url": "<callback>"}}',
        b"application/vnd.kopokopo.v4.hal+json",
        b"Kopokopo-Python-SDK",
    ),
    "node": Sdk(
        FORM + b"&grant_type=client_credentials",
        JSON + b',"token":"<token>"}',
        JSON + b',"token":"<token>"}',
        b'{"transaction_reference":"<reference>","reason":"Erroneous payment","_links":{"callback_url":"<callback>"}}',
        b"application/json",
        b"axios/1.7.2",
        lambda body: compact(json.loads(body)),
    ),
    "ruby": Sdk(
        JSON + b',"grant_type":"client_credentials"}',
        JSON + b',"token":"<token>"}',
        JSON + b',"token":"<token>"}',
        b'{"transaction_reference":"<reference>","reason":"Erroneous payment","metadata":null,'
        b'"_links":{"callback_url":"<callback>"}}',
        b"application/json",
        b"rest-client/2.1.0",
        lambda body: compact(json.loads(body)),
    ),
    "php": Sdk(
        FORM + b"&grant_type=client_credentials",
        FORM + b"&token=<token>",
        FORM + b"&token=<token>",
        b'{"transaction_reference":"<reference>","reason":"Erroneous payment","metadata":null,'
        b'"_links":{"callback_url":"<escaped>"}}',
        b"application/json",
        b"GuzzleHttp/7",
    ),
}


@pytest.mark.parametrize("name", SDKS)
def test_an_official_sdk_is_served(client: Client, receiver: Receiver, name: str) -> None:
    sdk = SDKS[name]

    def send(path: str, body: bytes, bearer: bytes = b"") -> tuple[bytes, bytes]:
        kind = b"application/json" if body.startswith(b"{") else b"application/x-www-form-urlencoded"
        head = [b"POST " + path.encode() + b" HTTP/1.1", b"Host: sandbox.kopokopo.com", b"Accept: " + sdk.accept]
        head += [b"User-Agent: " + sdk.user_agent, b"Content-Type: " + kind, b"Content-Length: %d" % len(body)]
        head += [b"Authorization: Bearer " + bearer] if bearer else []
        with closing(raw(client.url, b"\r\n".join([*head, b"Connection: close", b"", body]))) as connection:
            answered, _, content = connection.makefile("rb").read().partition(b"\r\n\r\n")
        return answered, content

    answered, content = send("/oauth/token", sdk.token)
    assert b" 200 OK\r\n" in answered
    assert json.loads(content).keys() == {"access_token", "token_type", "expires_in", "created_at"}
    token = json.loads(content)["access_token"].encode()

    _, content = send("/oauth/introspect", sdk.introspect.replace(b"<token>", token), b"null")
    assert json.loads(content)["active"] is True

    callback = client.callback_url.encode()
    body = sdk.reversal.replace(b"<reference>", b"TQ2L262026").replace(b"<callback>", callback)
    answered, content = send("/api/v2/reversals", body.replace(b"<escaped>", callback.replace(b"/", b"\\/")), token)
    assert b" 201 Created\r\n" in answered
    assert b"\r\nlocation: http://sandbox.kopokopo.com/api/v2/reversals/" in answered
    assert content == b""

    [result] = receiver.wait_for(1)
    expected = hmac.new(API_KEY.encode(), sdk.verifies(result.body), hashlib.sha256).hexdigest()
    assert result.headers["x-kopokopo-signature"] == expected
    assert result.document["data"]["type"] == "reversal"

    answered, content = send("/oauth/revoke", sdk.revoke.replace(b"<token>", token), b"null")
    assert (b" 200 OK\r\n" in answered, content) == (True, b"{}")
    assert b" 401 Unauthorized\r\n" in send("/api/v2/reversals", body, token)[0]
    assert client.journal()[-1]["user_agent"] == sdk.user_agent.decode()
