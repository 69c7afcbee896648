"""API Gateway's HTTP API on a laptop: the routes of the translated template, payload format 2.0."""

import base64
import binascii
import json
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import uuid4

from local.lambdas import Function, FunctionError, ImpatientError
from local.settings import ACCOUNT_ID
from local.template import Document, TemplateError, as_text

MAX_BODY = 10 * 1024 * 1024
INTEGRATION_TIMEOUT = 30.0  # seconds
API_ID = "local"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TEXT_TYPE = re.compile(r"text/.*|application/(json|javascript|xml|.+\+json)")
HOP_BY_HOP = ("connection", "content-length", "transfer-encoding", "date", "server")
# IAM is not checked: whoever calls is this one.
CALLER = {
    "accessKey": "local",
    "accountId": ACCOUNT_ID,
    "callerId": "local",
    "cognitoIdentity": None,
    "principalOrgId": None,
    "userArn": f"arn:aws:iam::{ACCOUNT_ID}:user/local",
    "userId": "local",
}


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the API: `key` as API Gateway writes it (`GET /reversals/{transaction_reference}`, `$default`)."""

    key: str
    method: str  # ANY for every one
    path: re.Pattern[str]
    parameters: tuple[str, ...]  # the path's, in the order of the pattern's groups
    rank: tuple[int, ...]  # the lower, the more specific
    needs_iam: bool
    function: Function


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @classmethod
    def message(cls, status: HTTPStatus) -> "Response":
        """What API Gateway says of its own accord."""
        # Python calls it Content Too Large from 3.13 on; API Gateway does not.
        words = "Request Entity Too Large" if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else status.phrase
        body = json.dumps({"message": words}, separators=(",", ":")).encode()
        return cls(status, [("content-type", "application/json")], body)


def routes_of(definition: Document, function_by_arn: Callable[[str], Function]) -> list[Route]:
    """The routes of an OpenAPI definition as SAM writes it, the most specific first."""
    schemes = definition.get("components", {}).get("securitySchemes", {})
    iam = {name for name, scheme in schemes.items() if scheme.get("x-amazon-apigateway-authtype") == "awsSigv4"}
    routes = []
    for path, operations in definition.get("paths", {}).items():
        for name, operation in operations.items():
            integration = operation.get("x-amazon-apigateway-integration", {})
            target = re.search(r"/functions/(.+)/invocations", str(integration.get("uri", "")))
            if target is None or integration.get("payloadFormatVersion") != "2.0":
                raise TemplateError(f"{name} {path}: a laptop serves functions with payload format 2.0, nothing else.")
            method = "ANY" if name == "x-amazon-apigateway-any-method" else name.upper()
            segments = [] if path == "$default" else path.split("/")[1:]
            routes.append(
                Route(
                    key=path if path == "$default" else f"{method} {path}",
                    method=method,
                    path=re.compile("".join(map(_segment_pattern, segments)) if segments else ".*", re.DOTALL),
                    parameters=tuple(segment.strip("{+}") for segment in segments if segment.startswith("{")),
                    rank=(*_rank(segments), method == "ANY"),
                    needs_iam=any(iam & set(requirement) for requirement in operation.get("security", [])),
                    function=function_by_arn(target[1]),
                )
            )
    return sorted(routes, key=lambda route: route.rank)


def find_route(routes: list[Route], method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The most specific route for a request, and what its path's parameters are."""
    for route in routes:
        if route.method in (method, "ANY") and (match := route.path.fullmatch(path)):
            return route, dict(zip(route.parameters, match.groups(), strict=True))
    return None


def read_response(result: Any) -> Response:
    """What a function's result means as a response, by the inference of format 2.0.

    Raises:
        ValueError: the result is malformed.
    """
    if not isinstance(result, dict) or "statusCode" not in result:
        body = result if isinstance(result, str) else json.dumps(result)
        return Response(HTTPStatus.OK, [("content-type", "application/json")], body.encode())
    status, body = int(result["statusCode"]), result.get("body") or ""
    given, cookies = result.get("headers") or {}, result.get("cookies") or []
    if not 100 <= status <= 599 or not isinstance(body, str) or not isinstance(given, dict):
        raise ValueError("statusCode, headers or body is of the wrong kind")
    headers = [(name.lower(), _header_value(value)) for name, value in given.items()]
    headers = [pair for pair in headers if pair[0] not in HOP_BY_HOP]
    if "content-type" not in dict(headers):
        headers.append(("content-type", "text/plain;charset=UTF-8"))
    headers += [("set-cookie", _header_value(cookie)) for cookie in cookies]
    content = base64.b64decode(body, validate=True) if result.get("isBase64Encoded") else body.encode()
    return Response(status, headers, content)


class Gateway:
    """Serves the routes on a listening socket until it is stopped."""

    def __init__(self, listener: socket.socket, routes: list[Route]) -> None:
        self._server = _Server(listener, routes)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="gateway", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, and hang up on everyone."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.hang_up()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, routes: list[Route]) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.routes = routes
        self.domain = "{}:{}".format(*listener.getsockname())
        self._connections: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # that one is a client that has gone
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # so that an answer leaves in one piece

    def _answer(self) -> None:
        request_id = _request_id()
        try:
            body = self._read_body()
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if body is None:
            self._send(Response.message(HTTPStatus.REQUEST_ENTITY_TOO_LARGE), request_id)
        else:
            self._send(self._respond(body, request_id), request_id)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer  # noqa: N815

    def _respond(self, body: bytes, request_id: str) -> Response:
        url = urlsplit("//host" + self.path if self.path.startswith("/") else self.path)
        path = unquote(url.path)
        if (found := find_route(self.server.routes, self.command, path)) is None:
            return Response.message(HTTPStatus.NOT_FOUND)
        route, parameters = found
        event = self._event(route, path, url.query, parameters, body, request_id)
        trace_id = event["headers"]["x-amzn-trace-id"]
        try:
            return read_response(route.function.invoke(event, patience=INTEGRATION_TIMEOUT, trace_id=trace_id))
        except ImpatientError:
            return Response.message(HTTPStatus.SERVICE_UNAVAILABLE)
        except FunctionError:
            return Response.message(HTTPStatus.INTERNAL_SERVER_ERROR)
        except (ValueError, TypeError, binascii.Error) as error:
            route.function.log(f"API request {request_id}: the response is malformed: {error}")
            return Response.message(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _event(
        self, route: Route, path: str, query: str, parameters: Mapping[str, str], body: bytes, request_id: str
    ) -> Document:
        """The request in payload format 2.0. What is absent there is absent here."""
        now = time.time()
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            _fold(headers, name.lower(), value)
        headers.pop("cookie", None)
        cookies = [pair for line in self.headers.get_all("Cookie", []) for pair in re.split(r"; *", line)]
        headers.setdefault("x-amzn-trace-id", f"Root=1-{int(now):08x}-{uuid4().hex[:24]}")
        port = str(self.server.server_address[1])
        headers |= {"x-forwarded-for": self.client_address[0], "x-forwarded-port": port, "x-forwarded-proto": "http"}
        queries: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            _fold(queries, name, value)
        text = _text(body, headers.get("content-type", ""))
        event: Document = {
            "version": "2.0",
            "routeKey": route.key,
            "rawPath": path,
            "rawQueryString": query,
            "cookies": cookies or None,
            "headers": headers,
            "queryStringParameters": queries or None,
            "requestContext": {
                "accountId": ACCOUNT_ID,
                "apiId": API_ID,
                "domainName": self.server.domain,
                "domainPrefix": API_ID,
                "http": {
                    "method": self.command,
                    "path": path,
                    "protocol": self.request_version,
                    "sourceIp": self.client_address[0],
                    "userAgent": headers.get("user-agent", ""),
                },
                "requestId": request_id,
                "routeKey": route.key,
                "stage": "$default",
                "time": time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now)),
                "timeEpoch": int(now * 1000),
            },
            "pathParameters": parameters or None,
            "body": (base64.b64encode(body).decode() if text is None else text) if body else None,
            "isBase64Encoded": bool(body) and text is None,
        }
        if route.needs_iam:
            event["requestContext"]["authorizer"] = {"iam": CALLER}
        return {name: value for name, value in event.items() if value is not None}

    def _read_body(self) -> bytes | None:
        """The body; None if it is above the limit, and then it has been read all the same: who sends it reads later.

        Raises:
            ValueError: its length or its chunks are no HTTP.
        """
        pieces, size = [], 0
        for length in self._lengths():
            if length < 0:
                raise ValueError("a length below zero")
            size += length
            while length > 0:
                if not (piece := self.rfile.read(min(length, 1024 * 1024))):
                    raise ConnectionError("the client has gone")
                length -= len(piece)
                if size <= MAX_BODY:
                    pieces.append(piece)
        return b"".join(pieces) if size <= MAX_BODY else None

    def _lengths(self) -> Iterator[int]:
        """How long the parts of the body are, each of which is read before the next one is asked for."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            yield int(self.headers.get("Content-Length") or 0)
            return
        while length := int(self.rfile.readline(100).partition(b";")[0], 16):
            yield length
            self.rfile.readline(3)
        while self.rfile.readline(65_536).strip():
            pass  # trailers

    def _send(self, response: Response, request_id: str) -> None:
        self.send_response_only(response.status)
        self.send_header("date", self.date_time_string())
        for name, value in response.headers:
            self.send_header(name, value)
        self.send_header("apigw-requestid", request_id)
        if response.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.send_header("content-length", str(len(response.body)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD" and response.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.wfile.write(response.body)

    def handle_expect_100(self) -> bool:
        length = self.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > MAX_BODY:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return False
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses (no HTTP, an unknown method), in API Gateway's words."""
        self.close_connection = True
        self._send(Response.message(HTTPStatus(code)), _request_id())

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def _segment_pattern(segment: str) -> str:
    if segment.startswith("{"):
        return "/(.+)" if segment.endswith("+}") else "/([^/]+)"
    return "/" + re.escape(segment)


def _rank(segments: list[str]) -> tuple[int, ...]:
    """First whole matches, then greedy ones, then the default; of each, words before parameters, from the left."""
    kinds = tuple(2 if segment.endswith("+}") else int(segment.startswith("{")) for segment in segments)
    return (0 if kinds and 2 not in kinds else 1 if kinds else 2, *kinds)


def _text(body: bytes, content_type: str) -> str | None:
    """A body that travels as text; None if it has to be Base64."""
    if not TEXT_TYPE.fullmatch(content_type.partition(";")[0].strip().lower()):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _header_value(value: Any) -> str:
    if not isinstance(value, str | int | float) or not re.fullmatch(r"[^\r\n\0]*", text := as_text(value)):
        raise ValueError("a header is of the wrong kind")
    text.encode("latin-1")
    return text


def _fold(pairs: dict[str, str], name: str, value: str) -> None:
    pairs[name] = f"{pairs[name]},{value}" if name in pairs else value


def _request_id() -> str:
    return uuid4().hex[:15] + "="
