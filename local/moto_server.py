"""moto as a server on one port, which answers one request at a time: its conditional writes are not atomic otherwise.

    python -m local.moto_server FD

FD is a listening socket, inherited. Connections are kept alive and idle ones hold nobody up.
"""

import io
import json
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from http.server import ThreadingHTTPServer
from typing import Any

from moto.dynamodbstreams.models import ShardIterator, dynamodbstreams_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.test import run_wsgi_app

from local.settings import ACCOUNT_ID, REGION

RECEIVE_MESSAGE = "AmazonSQS.ReceiveMessage"
LONG_POLL_PAUSE = 0.02  # seconds
MAX_SHARD_ITERATORS = 1000

application = DomainDispatcherApplication(create_backend_app)
one_at_a_time = threading.Lock()
Answer = tuple[str, Iterable[tuple[str, str]], bytes]


class Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # so that an answer leaves in one piece

    def run_wsgi(self) -> None:
        # werkzeug's own run_wsgi closes every connection; the SDKs' pools would open one per call.
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        environ = self.make_environ()
        if not environ.get("wsgi.input_terminated"):
            environ["wsgi.input"] = io.BytesIO(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        status, headers, body = answer(environ)
        self.send_response(*_status(status))
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def answer(environ: dict[str, Any]) -> Answer:
    if environ.get("HTTP_X_AMZ_TARGET") == RECEIVE_MESSAGE:
        return receive_message(environ)
    return call(environ)


def receive_message(environ: dict[str, Any]) -> Answer:
    """Long polling from outside: moto waits inside the request, and everybody else would with it."""
    request = json.loads(environ["wsgi.input"].read())
    until = time.monotonic() + request.get("WaitTimeSeconds", 0)
    body = json.dumps({**request, "WaitTimeSeconds": 0}).encode()
    while True:
        status, headers, reply = call({**environ, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)})
        if time.monotonic() >= until or not status.startswith("200") or json.loads(reply).get("Messages"):
            return status, headers, reply
        time.sleep(LONG_POLL_PAUSE)


def call(environ: dict[str, Any]) -> Answer:
    with one_at_a_time:
        pieces, status, headers = run_wsgi_app(application, environ, buffered=True)
        return status, headers, b"".join(pieces)


class _ShardIterators(OrderedDict[str, ShardIterator]):
    """moto keeps every shard iterator for ever, though a poller makes many: these are the newest.

    And moto's go on reading a table that is no longer there: a transaction that fails puts a copy, made before it, in
    the table's place. These read the one that is there.
    """

    def __setitem__(self, arn: str, iterator: ShardIterator) -> None:
        super().__setitem__(arn, iterator)
        if len(self) > MAX_SHARD_ITERATORS:
            self.popitem(last=False)

    def __getitem__(self, arn: str) -> ShardIterator:
        iterator = super().__getitem__(arn)
        table = iterator.streams_backend.dynamodb.get_table(iterator.stream_shard.table.name)
        if table.stream_shard is not None:
            iterator.stream_shard = table.stream_shard
        return iterator


def _status(line: str) -> tuple[int, str]:
    code, _, reason = line.partition(" ")
    return int(code), reason


def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    dynamodbstreams_backends[ACCOUNT_ID][REGION].shard_iterators = _ShardIterators()
    server = ThreadingHTTPServer(listener.getsockname(), Handler, bind_and_activate=False)
    server.daemon_threads = True
    server.socket.close()
    server.socket = listener
    # Read by werkzeug's handler, which expects a server of its own kind.
    vars(server).update(ssl_context=None, multithread=True, multiprocess=False, _server_version="moto")
    server.serve_forever()


if __name__ == "__main__":
    main()
