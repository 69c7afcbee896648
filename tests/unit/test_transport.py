"""One call to Kopo Kopo on the wire: whether it was sent, how long it may take, and what it never does."""

import gzip
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from reversals.errors import NotSentError, OutcomeUnknownError
from reversals.transport import MAX_ANSWER, USER_AGENT, Answer, Transport

from tests.conftest import Line, Peer, answers, response

TOKEN = "token-of-the-test"
TIMEOUT = 0.3  # seconds, where it is to pass
TOLERANCE = 1.0  # for a machine that is busy
DRIPS = 150  # bytes: three seconds, so that a test fails rather than hangs

StartPeer = Callable[..., Peer]


@pytest.fixture
def wire() -> Transport:
    return Transport()


def post(wire: Transport, url: str, timeout: float = 5.0) -> Answer:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    return wire.call("POST", f"{url}/api/v2/reversals", headers=headers, body=b'{"a":1}', timeout=timeout)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds + TOLERANCE


# ------------------------------------------------------------------------------------------------ an ordinary call


def test_a_call_and_its_answer(wire: Transport, peer: StartPeer) -> None:
    kopokopo = peer(answers(response("201 Created", "LOCATION: /x", "X-Odd: a", body=b"{}")))
    answer = post(wire, kopokopo.url)
    assert (answer.status, answer.body) == (201, b"{}")
    assert (answer.headers["location"], answer.headers["x-odd"]) == ("/x", "a")


def test_what_leaves_is_what_was_given_and_no_more(wire: Transport, peer: StartPeer) -> None:
    kopokopo = peer(answers(response("201 Created")))
    post(wire, kopokopo.url)
    head, _, body = kopokopo.requests[0].decode().partition("\r\n\r\n")
    line, *headers = head.split("\r\n")
    assert (line, body) == ("POST /api/v2/reversals HTTP/1.1", '{"a":1}')
    assert sorted(headers) == [
        "Accept-Encoding: identity",
        f"Authorization: Bearer {TOKEN}",
        "Content-Length: 7",
        "Content-Type: application/json",
        f"Host: 127.0.0.1:{kopokopo.port}",
        f"User-Agent: {USER_AGENT}",
    ]


@pytest.mark.parametrize("status", [200, 202, 204, 400, 401, 404, 405, 408, 409, 422, 429, 500, 503])
def test_every_status_is_an_answer(wire: Transport, peer: StartPeer, status: int) -> None:
    kopokopo = peer(answers(response(f"{status} Whatever", body=b"" if status == 204 else b"<html>")))
    assert post(wire, kopokopo.url).status == status
    assert len(kopokopo.requests) == 1


def test_a_continue_before_the_answer_is_noise(wire: Transport, peer: StartPeer) -> None:
    kopokopo = peer(answers(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + response("201 Created", "Location: /x")))
    assert post(wire, kopokopo.url).status == 201


def test_chunks_are_put_together(wire: Transport, peer: StartPeer) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n1\r\n \r\n0\r\n\r\n"
    assert post(wire, peer(answers(chunked)).url).body == b"{} "


def test_a_compressed_answer_that_nobody_asked_for_is_read(wire: Transport, peer: StartPeer) -> None:
    body = gzip.compress(b'{"data":null}')
    kopokopo = peer(answers(response("200 OK", "Content-Encoding: gzip", body=body)))
    assert post(wire, kopokopo.url).body == b'{"data":null}'


# ------------------------------------------------------------------------------------------------ was it sent?


def test_a_refused_connection_was_not_sent(wire: Transport, closed_port: int) -> None:
    with pytest.raises(NotSentError):
        post(wire, f"http://127.0.0.1:{closed_port}")


def test_a_name_that_does_not_resolve_was_not_sent(wire: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(NotSentError):
        post(wire, "http://kopokopo.test")


def test_a_connection_that_is_never_accepted_was_not_sent(wire: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        try:
            with within(TIMEOUT), pytest.raises(NotSentError):
                post(wire, "http://{}:{}".format(*address), TIMEOUT)
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize("url", ["http://", "http://[", "http://:x", "ftp://127.0.0.1", "http://" + "a" * 70 + ".test"])
def test_an_address_that_is_none_was_not_sent(wire: Transport, url: str) -> None:
    with pytest.raises(NotSentError):
        post(wire, url)


def reset(line: Line) -> None:
    line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.socket.close()


def reset_when_read(line: Line) -> None:
    line.read_request()
    reset(line)


def close_when_read(line: Line) -> None:
    line.read_request()


def say(data: bytes) -> Callable[[Line], None]:
    """A script that reads a request, says this, and hangs up."""

    def script(line: Line) -> None:
        line.read_request()
        line.socket.sendall(data)

    return script


BROKEN = {
    "reset": reset_when_read,
    "closed": close_when_read,
    "half a status line": say(b"HTTP/1.1 2"),
    "half the headers": say(b"HTTP/1.1 201 Created\r\nLocation: /api"),
    "no HTTP": say(b"220 smtp.example ESMTP\r\n"),
    "a status that is none": say(b"HTTP/1.1 abc Created\r\n\r\n"),
    "too many headers": say(b"HTTP/1.1 201 Created\r\n" + b"X: y\r\n" * 1000 + b"\r\n"),
    "an endless header": say(b"HTTP/1.1 201 Created\r\nX: " + b"y" * 100_000),
}


@pytest.mark.parametrize("script", [pytest.param(script, id=name) for name, script in BROKEN.items()])
def test_a_call_that_broke_off_after_it_was_sent_is_unknown(
    wire: Transport, peer: StartPeer, script: Callable[[Line], None]
) -> None:
    kopokopo = peer(script)
    with pytest.raises(OutcomeUnknownError):
        post(wire, kopokopo.url)
    assert (kopokopo.connections, len(kopokopo.requests)) == (1, 1)


def test_only_part_of_the_request_left(wire: Transport, peer: StartPeer) -> None:
    """A body that fills every buffer, and a peer that hangs up on it."""

    def hang_up(line: Line) -> None:
        line.socket.recv(1024)
        reset(line)

    kopokopo = peer(hang_up)
    with pytest.raises(OutcomeUnknownError):
        wire.call("POST", kopokopo.url, headers={}, body=b"x" * 50_000_000, timeout=5)


# ------------------------------------------------------------------------------------------------ how long it takes


def hold(line: Line) -> None:
    line.read_request()
    line.hold()


def drip(data: bytes, first: bytes = b"") -> Callable[[Line], None]:
    """A script that reads a request, answers at once with the first part, and drips the rest."""

    def script(line: Line) -> None:
        line.read_request()
        line.socket.sendall(first)
        line.drip(data)

    return script


NEVER_ENDING = {
    "silence": hold,
    "a dripping status line": drip(b"HTTP/1.1 201 Created" + b"!" * DRIPS),
    "dripping headers": drip(b"X-Drip: " + b"x" * DRIPS, first=b"HTTP/1.1 201 Created\r\n"),
    "continues without end": drip(b"HTTP/1.1 100 Continue\r\n\r\n" * DRIPS),
}


@pytest.mark.parametrize("script", [pytest.param(script, id=name) for name, script in NEVER_ENDING.items()])
def test_no_answer_in_time_is_unknown(wire: Transport, peer: StartPeer, script: Callable[[Line], None]) -> None:
    kopokopo = peer(script)
    with within(TIMEOUT), pytest.raises(OutcomeUnknownError, match="in time"):
        post(wire, kopokopo.url, TIMEOUT)
    assert len(kopokopo.requests) == 1


@pytest.mark.parametrize("length", ["Content-Length: 10000", "Connection: close"])
def test_a_body_that_drips_leaves_the_status(wire: Transport, peer: StartPeer, length: str) -> None:
    head = f"HTTP/1.1 201 Created\r\nLocation: /x\r\n{length}\r\n\r\n".encode()
    kopokopo = peer(drip(b"x" * DRIPS, first=head))
    with within(TIMEOUT):
        answer = post(wire, kopokopo.url, TIMEOUT)
    assert (answer.status, answer.headers["location"], answer.body) == (201, "/x", None)


def test_chunks_that_drip_leave_the_status(wire: Transport, peer: StartPeer) -> None:
    head = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
    kopokopo = peer(drip(b"1\r\nx\r\n" * DRIPS, first=head))
    with within(TIMEOUT):
        answer = post(wire, kopokopo.url, TIMEOUT)
    assert (answer.status, answer.body) == (201, None)


def test_a_redirect_whose_body_drips_is_over_in_time(wire: Transport, peer: StartPeer) -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 10000\r\n\r\n"
    kopokopo = peer(drip(b"x" * DRIPS, first=head))
    with within(TIMEOUT):
        answer = post(wire, kopokopo.url, TIMEOUT)
    assert (answer.status, answer.body) == (302, None)


def test_a_request_that_is_not_taken_is_over_in_time(wire: Transport, peer: StartPeer) -> None:
    kopokopo = peer(lambda line: line.peer.stopped.wait())
    with within(TIMEOUT), pytest.raises(OutcomeUnknownError):
        wire.call("POST", kopokopo.url, headers={}, body=b"x" * 50_000_000, timeout=TIMEOUT)


def test_a_handshake_that_drips_is_over_in_time_and_was_not_sent(wire: Transport, peer: StartPeer) -> None:
    """The server's first TLS record never comes to its end."""

    def handshake(line: Line) -> None:
        line.socket.recv(65536)
        line.drip(b"\x16\x03\x03\x40\x00" + b"\x02\x00\x40\x00" + bytes(100), pause=TIMEOUT / 10)

    kopokopo = peer(handshake)
    with within(TIMEOUT), pytest.raises(NotSentError):
        post(wire, kopokopo.url.replace("http:", "https:"), TIMEOUT)


def test_a_handshake_that_is_not_answered_was_not_sent(wire: Transport, peer: StartPeer) -> None:
    kopokopo = peer(lambda line: line.hold())
    with within(TIMEOUT), pytest.raises(NotSentError):
        post(wire, kopokopo.url.replace("http:", "https:"), TIMEOUT)


def test_a_name_that_took_all_the_time_to_resolve_was_not_sent(
    wire: Transport, peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's resolver knows no timeout: the connection may come about when it is too late to use it."""
    kopokopo, resolve = peer(answers(response("201 Created"))), socket.getaddrinfo

    def slowly(*args: Any, **options: Any) -> Any:
        time.sleep(TIMEOUT)
        return resolve(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with pytest.raises(NotSentError):
        post(wire, kopokopo.url, TIMEOUT)
    assert kopokopo.requests == []


def test_a_machine_that_stood_still_until_the_time_was_over_sends_nothing_any_more(
    wire: Transport, peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container can be frozen anywhere; here just before a connection from an earlier call is used."""
    kopokopo, prepare = peer(answers(response("201 Created"), response("201 Created"))), requests.Request.prepare
    post(wire, kopokopo.url)

    def slowly(request: requests.Request) -> requests.PreparedRequest:
        time.sleep(TIMEOUT)
        return prepare(request)

    monkeypatch.setattr(requests.Request, "prepare", slowly)
    with pytest.raises(NotSentError):
        post(wire, kopokopo.url, TIMEOUT)
    assert len(kopokopo.requests) == 1


def test_the_time_of_one_call_is_not_taken_from_the_next(wire: Transport, peer: StartPeer) -> None:
    kopokopo = peer(hold, answers(response("201 Created")))
    with pytest.raises(OutcomeUnknownError):
        post(wire, kopokopo.url, TIMEOUT)
    assert post(wire, kopokopo.url).status == 201


def test_the_end_of_one_calls_time_does_not_cut_the_next(wire: Transport, peer: StartPeer) -> None:
    """On the same connection, while its answer is still to come."""

    def script(line: Line) -> None:
        line.read_request()
        line.socket.sendall(response("201 Created"))
        line.read_request()
        line.peer.stopped.wait(2 * TIMEOUT)
        line.socket.sendall(response("202 Accepted"))

    kopokopo = peer(script)
    assert post(wire, kopokopo.url, TIMEOUT).status == 201
    assert post(wire, kopokopo.url).status == 202
    assert kopokopo.connections == 1


# ------------------------------------------------------------------------------------------------ what it never does


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Moved"])
def test_no_redirect_is_followed(wire: Transport, peer: StartPeer, status: str) -> None:
    elsewhere = peer(answers(response("200 OK")))
    kopokopo = peer(answers(response(status, f"Location: {elsewhere.url}/api/v2/reversals"), response("200 OK")))
    assert post(wire, kopokopo.url).status == int(status[:3])
    assert (len(kopokopo.requests), elsewhere.connections) == (1, 0)


@pytest.mark.parametrize(
    "location",
    ["http://[", "http://[::1/x", "//", "http://\xff\xfe/", "\xc3\x28", "http://h:x/", "javascript:x", "?" * 9000],
)
def test_a_redirect_to_nowhere_is_an_answer_like_any_other(wire: Transport, peer: StartPeer, location: str) -> None:
    kopokopo = peer(answers(response("302 Found", f"Location: {location}")))
    assert post(wire, kopokopo.url).status == 302


@pytest.mark.parametrize(
    ("body", "kept"), [(b"x" * MAX_ANSWER, True), (b"x" * (MAX_ANSWER + 1), False), (b"x" * 3_000_000, False)]
)
@pytest.mark.parametrize("status", ["201 Created", "302 Found"])
def test_no_more_is_read_than_an_answer_can_be_long(
    wire: Transport, peer: StartPeer, status: str, body: bytes, kept: bool
) -> None:
    answer = post(wire, peer(answers(response(status, body=body))).url)
    assert answer.status == int(status[:3])
    assert answer.body == (body if kept else None)


def test_a_bomb_is_not_unpacked(wire: Transport, peer: StartPeer) -> None:
    bomb = gzip.compress(bytes(20_000_000))
    kopokopo = peer(answers(response("201 Created", "Content-Encoding: gzip", body=bomb)))
    assert post(wire, kopokopo.url).body is None


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab",
        b"HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nnogzi",
    ],
)
def test_a_body_that_breaks_off_leaves_the_status(wire: Transport, peer: StartPeer, answer: bytes) -> None:
    read = post(wire, peer(say(answer)).url)
    assert (read.status, read.body) == (201, None)


def test_no_cookie_is_kept(wire: Transport, peer: StartPeer) -> None:
    kopokopo = peer(answers(response("201 Created", "Set-Cookie: session=1; Path=/"), response("201 Created")))
    post(wire, kopokopo.url)
    post(wire, kopokopo.url)
    assert b"ookie" not in kopokopo.requests[1]


def test_no_netrc_takes_the_place_of_the_token(
    wire: Transport, peer: StartPeer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    kopokopo = peer(answers(response("201 Created")))
    post(wire, kopokopo.url)
    assert f"Authorization: Bearer {TOKEN}".encode() in kopokopo.requests[0]
    assert b"Basic" not in kopokopo.requests[0]


def test_no_proxy_of_the_environment_is_used(wire: Transport, peer: StartPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, kopokopo = peer(answers(response("200 OK"))), peer(answers(response("201 Created")))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert post(wire, kopokopo.url).status == 201
    assert proxy.connections == 0


# ------------------------------------------------------------------------------------------------ the connection


def test_one_connection_is_kept_and_used_again(wire: Transport, peer: StartPeer) -> None:
    bodies = [b"", b"{}", b"x" * 5000]
    kopokopo = peer(answers(*[response("201 Created", body=body) for body in bodies]))
    assert [post(wire, kopokopo.url).body for _ in bodies] == bodies
    assert (kopokopo.connections, len(kopokopo.requests)) == (1, 3)


@pytest.mark.parametrize("status", ["302 Found", "401 Unauthorized", "503 Service Unavailable"])
def test_the_connection_outlives_an_answer_that_says_no(wire: Transport, peer: StartPeer, status: str) -> None:
    kopokopo = peer(answers(response(status, "Location: /x", body=b"no"), response("201 Created")))
    post(wire, kopokopo.url)
    post(wire, kopokopo.url)
    assert kopokopo.connections == 1


def test_an_idle_connection_that_was_closed_is_made_anew(wire: Transport, peer: StartPeer) -> None:
    closed = Event()

    def answer_and_close(line: Line) -> None:
        line.read_request()
        line.socket.sendall(response("201 Created"))
        line.socket.shutdown(socket.SHUT_RDWR)
        closed.set()

    kopokopo = peer(answer_and_close, answers(response("202 Accepted")))
    post(wire, kopokopo.url)
    assert closed.wait(5)
    assert post(wire, kopokopo.url).status == 202
    assert [len(kopokopo.requests), kopokopo.connections] == [2, 2]


def test_a_connection_that_was_idle_for_long_is_not_trusted(
    wire: Transport, peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other side of a frozen container may have gone without a word: a request into that has an unknown outcome."""
    kopokopo = peer(answers(response("201 Created"), response("201 Created")))
    post(wire, kopokopo.url)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31)
    post(wire, kopokopo.url)
    assert kopokopo.connections == 2


def test_a_connection_that_was_cut_is_not_used_again(wire: Transport, peer: StartPeer) -> None:
    head = b"HTTP/1.1 201 Created\r\nContent-Length: 10000\r\n\r\n"
    kopokopo = peer(drip(b"x" * DRIPS, first=head), answers(response("202 Accepted")))
    assert post(wire, kopokopo.url, TIMEOUT).body is None
    assert post(wire, kopokopo.url).status == 202
    assert kopokopo.connections == 2


def test_a_stray_answer_is_not_taken_for_the_next_ones(wire: Transport, peer: StartPeer) -> None:
    """It comes before the next request has left, so it is an answer to nothing."""
    answered, strayed = Event(), Event()

    def stray(line: Line) -> None:
        line.read_request()
        line.socket.sendall(response("201 Created"))
        answered.wait(5)
        line.socket.sendall(response("409 Conflict"))
        strayed.set()
        line.hold()

    kopokopo = peer(stray, answers(response("202 Accepted")))
    assert post(wire, kopokopo.url).status == 201
    answered.set()
    assert strayed.wait(5)
    assert post(wire, kopokopo.url).status == 202


# ------------------------------------------------------------------------------------------------------ TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of our own for 127.0.0.1, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


def over_tls(certificate: Path, script: Callable[[Line], None]) -> Callable[[Line], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def secured(line: Line) -> None:
        with context.wrap_socket(line.socket.dup(), server_side=True) as wrapped:
            script(Line(wrapped, line.peer))

    return secured


def test_a_certificate_that_nobody_vouches_for_gets_no_token(
    wire: Transport, peer: StartPeer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(certificate))
    kopokopo = peer(over_tls(certificate, answers(response("201 Created"))))
    with pytest.raises(NotSentError):
        post(wire, f"https://localhost:{kopokopo.port}")
    assert kopokopo.requests == []


@pytest.mark.parametrize(
    "script", [hold, drip(b"X-Drip: " + b"x" * DRIPS, first=b"HTTP/1.1 201 Created\r\n")], ids=["silence", "dripping"]
)
def test_the_time_of_a_call_is_bounded_over_tls_as_well(
    peer: StartPeer, certificate: Path, script: Callable[[Line], None]
) -> None:
    wire = Transport(certificates=os.fspath(certificate))
    kopokopo = peer(over_tls(certificate, answers(response("201 Created"))), over_tls(certificate, script))
    url = f"https://localhost:{kopokopo.port}"
    assert post(wire, url).status == 201
    with within(TIMEOUT), pytest.raises(OutcomeUnknownError):
        post(wire, url, TIMEOUT)
