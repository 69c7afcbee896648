"""A tap on the wire of every function: it reads each call whole, names it, and does to it what a test wants done.

The clients of each function are pointed at ports of the tap's own, so its port tells whose a call is and where it goes.
Nothing here knows what a function should call: a call is whatever is put on the wire.
"""

import json
import re
import socket
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from http.client import HTTPException, HTTPResponse
from multiprocessing.connection import wait
from threading import Lock, Thread
from typing import Any, BinaryIO, Self
from urllib.parse import parse_qs, urlsplit

LATE = 60.0  # seconds that a late reply is held for, should the caller be as patient
UPSTREAM = 60.0  # seconds that anyone behind the tap may take


class Action(Enum):
    """What is done to a call."""

    PASS = auto()
    KILL_BEFORE = auto()  # the function is killed; the request goes nowhere
    KILL_AFTER = auto()  # the request goes through, and the function is killed before a byte of the reply is sent
    LOSE_REQUEST = auto()  # it goes nowhere, and the connection is reset
    LOSE_REPLY = auto()  # it goes through, and the connection is reset
    DELAY_REPLY = auto()  # it goes through, and its reply is held until the caller has hung up
    CUT_HEAD = auto()  # it goes through; the connection is closed after half of the reply's head
    CUT_END = auto()  # it goes through; the connection is closed before the reply's last byte
    THROTTLE = auto()  # it goes nowhere, and the service says, in its own way, that it is too busy


@dataclass(frozen=True)
class Request:
    """A request as it was received whole; its headers' names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    raw: bytes = field(repr=False)


@dataclass(frozen=True)
class Reply:
    head: bytes
    body: bytes

    @classmethod
    def of(cls, status: int, body: str, content_type: str) -> Self:
        lines = [f"HTTP/1.1 {status} -", f"Content-Type: {content_type}", f"Content-Length: {len(body.encode())}"]
        return cls("\r\n".join([*lines, "", ""]).encode(), body.encode())

    @property
    def raw(self) -> bytes:
        return self.head + self.body


@dataclass(frozen=True)
class Call:
    """One call of a function.

    Attributes:
        function: Its logical id.
        name: `dynamodb.UpdateItem`, `POST /oauth/token`, ...
        number: Which one by this name of this function, from 1; a try again has the number of the first.
        attempt: Which try, from 1.
        origin: Whom it was sent to, as the tap's owner calls them.
    """

    function: str
    name: str
    number: int
    attempt: int
    origin: str
    request: Request

    def __str__(self) -> str:
        return f"{self.function} {self.name} #{self.number}"


Rule = Callable[[Call], Action | Reply | None]


class Listener:
    """A port of 127.0.0.1, each connection of which is served in a thread, until it is stopped."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._lock = Lock()
        self._served: dict[Thread, socket.socket] = {}
        self._acceptor = Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._socket.close()
        with self._lock:
            served = dict(self._served)
        for connection in served.values():
            with suppress(OSError):  # it has ended meanwhile
                connection.shutdown(socket.SHUT_RDWR)
        for thread in served:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = Thread(target=self._run, args=(connection,), daemon=True)
            with self._lock:
                self._served[thread] = connection
            thread.start()

    def _run(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self._serve(connection)
        with self._lock:
            self._served = {thread: it for thread, it in self._served.items() if it is not connection}


class Tap:
    """Stands between functions and whom they call.

    Args:
        origins: Where each origin that a port was asked for really is; asked at each call.
        kill: Ends a function's processes, and returns when they are dead.

    Attributes:
        rules: The first that does not answer None to a call says what is done to it. A rule is asked in the middle of
            the call, before the request goes on: it may do something of its own.
    """

    def __init__(self, origins: Callable[[str], str], kill: Callable[[str], None]) -> None:
        self.rules: Sequence[Rule] = ()
        self._origins, self._kill = origins, kill
        self._listeners: list[Listener] = []
        self._lock = Lock()
        self.begin()

    def url(self, function: str, origin: str) -> str:
        """A new port for a function's calls to an origin."""
        listener = Listener(lambda connection: self._serve(function, origin, connection))
        self._listeners.append(listener)
        return listener.url

    def stop(self) -> None:
        for listener in self._listeners:
            listener.stop()

    def begin(self, *rules: Rule) -> None:
        """Count from 1 again, by these rules."""
        with self._lock:
            self.rules = rules
            self._calls: list[Call] = []
            self._numbers: Counter[tuple[str, str]] = Counter()
            self._known: dict[str, tuple[int, int]] = {}

    @property
    def calls(self) -> list[Call]:
        """All calls since the beginning, every try of them, in order."""
        with self._lock:
            return list(self._calls)

    def _serve(self, function: str, origin: str, connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            while request := read_request(file, connection):
                call, rules = self._noted(function, origin, request)
                done = next((done for rule in rules if (done := rule(call)) is not None), Action.PASS)
                goes_on = self._do(done, call, connection)
                if not goes_on or request.headers.get("connection", "").lower() == "close":
                    return

    def _noted(self, function: str, origin: str, request: Request) -> tuple[Call, Sequence[Rule]]:
        name = name_of(request)
        # botocore gives every try of a call the same id; nobody else tries anything twice.
        identity = request.headers.get("amz-sdk-invocation-id", "")
        with self._lock:
            if known := self._known.get(identity):
                number, attempt = known[0], known[1] + 1
            else:
                self._numbers[function, name] += 1
                number, attempt = self._numbers[function, name], 1
            if identity:
                self._known[identity] = number, attempt
            self._calls.append(Call(function, name, number, attempt, origin, request))
            return self._calls[-1], self.rules

    def _do(self, done: Action | Reply, call: Call, connection: socket.socket) -> bool:
        """Returns whether the connection goes on."""
        if isinstance(done, Reply):
            connection.sendall(done.raw)
            return True
        if done is Action.THROTTLE:
            connection.sendall(throttled(call).raw)
            return True
        if done is Action.KILL_BEFORE:
            self._kill(call.function)
            return False
        if done is Action.LOSE_REQUEST:
            reset(connection)
            return False
        reply = self._forward(call, connection)
        if done is Action.KILL_AFTER:
            self._kill(call.function)
            return False
        if reply is None or done is Action.LOSE_REPLY:
            reset(connection)
            return False
        if done is Action.DELAY_REPLY:
            wait([connection], LATE)
        sent = {Action.CUT_HEAD: reply.head[: len(reply.head) // 2], Action.CUT_END: reply.raw[:-1]}
        connection.sendall(sent.get(done, reply.raw))
        return done not in sent

    def _forward(self, call: Call, connection: socket.socket) -> Reply | None:
        """The reply; None if there is none, or nobody waits for it any more."""
        there = urlsplit(self._origins(call.origin))
        try:
            with socket.create_connection((there.hostname, there.port), UPSTREAM) as upstream:
                upstream.sendall(call.request.raw)
                if connection in wait([connection, upstream], UPSTREAM):
                    return None
                with HTTPResponse(upstream, method=call.request.method) as response:
                    response.begin()
                    body = response.read()
                    lines = [f"HTTP/1.1 {response.status} {response.reason}", f"Content-Length: {len(body)}"]
                    lines += [f"{name}: {value}" for name, value in response.getheaders() if name.lower() not in HOP]
        except (OSError, HTTPException):
            return None
        return Reply("\r\n".join([*lines, "", ""]).encode("latin-1"), body)


HOP = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding"})


def read_request(file: BinaryIO, connection: socket.socket) -> Request | None:
    """The next request of a connection; None at its end, and where it ends in the middle of one."""
    lines = []
    while (line := file.readline()).strip():
        lines.append(line)
    if not lines or not line:
        return None
    method, path, _ = lines[0].decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise ValueError("the tap reads bodies of a known length alone")
    if headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = int(headers.get("content-length", 0))
    body = file.read(length)
    if len(body) < length:  # whoever sent it was killed
        return None
    return Request(method, path, headers, body, b"".join([*lines, b"\r\n", body]))


def reset(connection: socket.socket) -> None:
    """Have it end with a reset and not politely, once it is closed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# ------------------------------------------------------------------------------------------------------ names

OBJECT_CALLS = {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}


def name_of(request: Request) -> str:
    """What a request is called, in the words of who takes it, and what it is about where that tells two apart."""
    if target := request.headers.get("x-amz-target"):
        service, _, operation = target.partition(".")
        service = re.sub(r"_.*", "", service).lower().removeprefix("amazon")
        return " ".join(filter(None, [f"{service}.{operation}", _about(json.loads(request.body))]))
    if operations := parse_qs(request.body.decode("latin-1")).get("Action"):
        return f"sns.{operations[0]}"
    if "x-amz-date" in request.headers:
        return f"s3.{OBJECT_CALLS.get(request.method, request.method)}"
    return f"{request.method} {re.sub(r'(?<=/)[0-9a-f-]{36}', '{id}', request.path)}"


def _about(document: Mapping[str, Any]) -> str:
    match document:
        case {"Key": {"transaction_reference": {"S": "#token-lease" as lease}}}:
            return str(lease)
        case {"IndexName": str(index)}:
            return index
        case {"SecretId": str(secret)}:
            name = re.search(r"[A-Za-z]+Secret", secret)
            stage = str(document.get("VersionStage", "")).removeprefix("AWSCURRENT")
            return f"{name[0] if name else secret} {stage}".strip()
    return ""


def throttled(call: Call) -> Reply:
    """What the service that is called says when it is asked too often."""
    service = call.name.partition(".")[0]
    message = "Rate exceeded"
    if service in ("dynamodb", "secretsmanager", "sqs"):
        kind = {"dynamodb": "ProvisionedThroughputExceededException", "sqs": "RequestThrottled"}
        code = kind.get(service, "ThrottlingException")
        return Reply.of(400, json.dumps({"__type": code, "message": message}), "application/x-amz-json-1.0")
    if service == "sns":
        error = f"<Error><Type>Sender</Type><Code>Throttling</Code><Message>{message}</Message></Error>"
        return Reply.of(400, f"<ErrorResponse>{error}<RequestId>0</RequestId></ErrorResponse>", "text/xml")
    if service == "s3":
        return Reply.of(503, f"<Error><Code>SlowDown</Code><Message>{message}</Message></Error>", "application/xml")
    return Reply.of(429, json.dumps({"error_code": 429, "error_message": message}), "application/json")


# ------------------------------------------------------------------------------------------------------ what comes in


@dataclass
class Letter:
    """What was posted to somebody.

    Attributes:
        answered: What it was answered with when it was delivered; None while it was not.
    """

    request: Request
    answered: int | None = None


class Postbox:
    """Where those who post to the functions post to: each letter lies there until somebody delivers it.

    Attributes:
        courier: Delivers a letter at once, and says what to answer; None: they are left lying.
        letters: In order of arrival.
    """

    def __init__(self) -> None:
        self.courier: Callable[[Letter], int] | None = None
        self.letters: list[Letter] = []
        self._listener = Listener(self._serve)
        self.url = self._listener.url

    def stop(self) -> None:
        self._listener.stop()

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            if request := read_request(file, connection):
                letter = Letter(request)
                self.letters.append(letter)
                status = self.courier(letter) if self.courier else 200
                connection.sendall(Reply.of(status, "{}", "application/json").raw)
