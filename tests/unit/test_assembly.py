"""What the assembly gives to the clients that it makes."""

import socket
from collections.abc import Callable

import boto3
import pytest
from botocore.exceptions import ConnectionClosedError
from reversals import assembly
from reversals.errors import ReversalNotFoundError, StorageError
from reversals.store import Store

from tests.conftest import FakeClock, Line, Peer, response
from tests.unit.test_store import SCHEDULE


@pytest.fixture
def get(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> Callable[[Peer], None]:
    """Gets a reversal from a table that a peer plays."""

    def get_from(table: Peer) -> None:
        session = boto3.Session("test", "test", region_name="eu-west-1")
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
        monkeypatch.setenv("AWS_ENDPOINT_URL", table.url)
        Store(assembly._client.__wrapped__("dynamodb"), "reversals", SCHEDULE, clock).get("TQ2L262026")

    return get_from


def cut(answer: bytes) -> Callable[[Line], None]:
    def script(line: Line) -> None:
        line.read_request()
        line.socket.sendall(answer)
        line.socket.shutdown(socket.SHUT_RDWR)

    return script


def test_a_table_without_the_item_has_none(get: Callable[[Peer], None], peer: Callable[..., Peer]) -> None:
    with pytest.raises(ReversalNotFoundError):
        get(peer(cut(response("200 OK", "Content-Type: application/x-amz-json-1.0", body=b"{}"))))


def test_an_answer_that_breaks_off_is_none_wherever_that_is(
    get: Callable[[Peer], None], peer: Callable[..., Peer]
) -> None:
    """An empty one would say that there is no such reversal."""
    whole = response("200 OK", "Content-Type: application/x-amz-json-1.0", body=b"{}")
    for length in range(len("HTTP/1.1 200 OK\r\n"), len(whole), 12):
        with pytest.raises(StorageError):
            get(peer(cut(whole[:length])))


def test_what_is_refused_is_an_error_of_botocores() -> None:
    """Which is what every caller looks for."""
    with pytest.raises(ConnectionClosedError):
        assembly._require_whole({"headers": {}, "body": b""})


def test_an_answer_in_chunks_says_its_length_bit_by_bit() -> None:
    assembly._require_whole({"headers": {"transfer-encoding": "chunked"}, "body": b"{}"})
