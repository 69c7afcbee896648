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

from moto.core.serialize import BaseJSONSerializer
from moto.dynamodb.models.table import Table
from moto.dynamodb.models.utilities import dynamo_json_dump
from moto.dynamodbstreams.models import ShardIterator, dynamodbstreams_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.sqs.models import SQSBackend
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


def take_shorter_ways() -> None:
    """Where moto becomes slow once there are thousands of items and messages, do the same in less time."""
    for owner, name, way in (
        (Table, "all_items", _all_items),
        (Table, "sorted_items", _sorted_items),
        (BaseJSONSerializer, "_serialize_type_structure", _serialize_structure),
        (SQSBackend, "is_message_valid_based_on_retention_period", _is_kept),
    ):
        setattr(owner, name, way)


def _all_items(table: Any) -> list[Any]:
    held = table.items.values()
    items = [item for items in held for item in items.values()] if table.range_key_attr else list(held)
    return _sorted_items(table, [table.hash_key_attr], [table.range_key_attr], items)


def _sorted_items(table: Any, hash_keys: list[str], range_keys: list[str | None], items: list[Any]) -> list[Any]:
    """By the values of the keys: moto has code of its own compare the keys, at every query all that there are."""
    names = table._generate_attr_to_sort_by(hash_keys, range_keys)
    return sorted(items, key=lambda item: [item.attrs[name].cast_value for name in names])


_serialize_other_structure = BaseJSONSerializer._serialize_type_structure


def _serialize_structure(serializer: Any, serialized: Any, value: Any, shape: Any, key: str) -> None:
    """An attribute's value goes out as it is: moto looks it through for every type that it might be of."""
    if shape.name == "AttributeValue":
        serialized[key] = json.loads(dynamo_json_dump(value))
    else:
        _serialize_other_structure(serializer, serialized, value, shape, key)


def _is_kept(queues: Any, queue_name: str, message: Any) -> bool:
    """Whether a message is young enough: for each, moto reads all that there is about the queue, and counts it."""
    return bool(message.sent_timestamp / 1000 + queues.get_queue(queue_name).message_retention_period > time.time())


def _status(line: str) -> tuple[int, str]:
    code, _, reason = line.partition(" ")
    return int(code), reason


def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    take_shorter_ways()
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
