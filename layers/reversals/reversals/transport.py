"""One HTTP call to Kopo Kopo, bounded as a whole, that knows whether it was sent.

requests bounds each wait for a byte, not the call: an answer that drips never ends. Here a watchdog cuts the
connection at the deadline, whatever it is waiting for. And where requests tells errors apart by what broke, here the
connection itself notes the first byte of the request that leaves: before it nothing can have been processed, after
it anything can.
"""

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from types import TracebackType
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError

from . import __version__
from .errors import NotSentError, OutcomeUnknownError

USER_AGENT = f"kopokopo-reversals/{__version__} (python-requests/{requests.__version__})"

MAX_ANSWER = 64 * 1024  # bytes; Kopo Kopo's documents are about one kilobyte

# A connection idle for longer may be gone without a word, and a request written into it is one of unknown outcome.
_KEEP_ALIVE = 30.0  # seconds, by the wall clock: a frozen container's monotonic clock may stand still
_CONNECT_TIMEOUT = 3.0  # seconds


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: The HTTP status.
        headers: With names in lower case.
        body: At most `MAX_ANSWER` bytes; None if it broke off or was longer.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | None


class Transport:
    """Calls over kept-alive connections, one at a time. No redirect is followed, and nothing is sent twice.

    It goes by requests' adapter and not by a session, which would add what nobody asked for: cookies, proxies, a .netrc
    whose password takes the place of our bearer token, and a look at where a redirect leads.

    Args:
        certificates: The file of the authorities to trust, instead of certifi's.
    """

    def __init__(self, certificates: str | None = None) -> None:
        self._watch = _Watch()
        self._adapter = _WatchedAdapter(self._watch)
        self._verify = certificates or True

    def call(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None, timeout: float
    ) -> Answer:
        """Send one request and read its answer.

        Args:
            method: The HTTP method.
            url: Where to; it comes from the configuration, never from a message.
            headers: `User-Agent` and the encodings are added.
            body: As it goes out.
            timeout: Seconds for all of it: name, connection, TLS, request and the whole answer.

        Raises:
            NotSentError: no byte of the request has left.
            OutcomeUnknownError: it was sent, at least in part, and no status came back.
        """
        sent_headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
        with self._watch.until(time.monotonic() + timeout) as watch:
            try:
                request = requests.Request(method, url, headers=sent_headers, data=body).prepare()
                response = self._adapter.send(
                    request, stream=True, timeout=(min(_CONNECT_TIMEOUT, timeout), timeout), verify=self._verify
                )
            except (requests.RequestException, HTTPError, OSError) as error:
                if not watch.sent:
                    raise NotSentError(f"Kopo Kopo could not be reached ({type(error).__name__}).") from None
                what = "did not answer in time" if watch.expired else f"broke off ({type(error).__name__})"
                raise OutcomeUnknownError(f"Kopo Kopo {what}: it may have been processed.") from None
            with closing(response):
                names = {name.lower(): value for name, value in response.headers.items()}
                body_read = _read(response)
                return Answer(response.status_code, names, None if watch.expired else body_read)


def _read(response: requests.Response) -> bytes | None:
    try:
        body: bytes = response.raw.read(MAX_ANSWER + 1, decode_content=True)
        # A short read is the end of the answer, or the watchdog's cut: only reading on tells.
        while len(body) <= MAX_ANSWER and (more := response.raw.read(MAX_ANSWER + 1 - len(body), decode_content=True)):
            body += more
    except (HTTPError, OSError, ValueError):
        return None
    return body if len(body) <= MAX_ANSWER else None


class _Watch:
    """Cuts the connection in use at the deadline, and knows whether a request has begun to leave."""

    def __init__(self) -> None:
        self.sent = False
        self._deadline = 0.0
        self._socket: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def until(self, deadline: float) -> Self:
        self._deadline = deadline
        return self

    def __enter__(self) -> Self:
        self.sent = False
        self._timer = threading.Timer(self._deadline - time.monotonic(), self._cut)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer:
            self._timer.cancel()
        self._socket = None

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self._deadline

    def connected(self, connection: Any) -> None:
        if self.expired:
            connection.close()
            raise ConnectTimeoutError(connection, "The deadline passed while connecting.")

    def sending(self, connection: Any) -> None:
        self._socket = connection.sock  # first, so that a watchdog which fires from here on finds what to cut
        if self.expired and not self.sent:
            connection.close()
            raise ConnectTimeoutError(connection, "The deadline passed before the request could leave.")
        self.sent = True

    def _cut(self) -> None:
        if self._socket is not None:
            # Not SSLSocket.shutdown, which would take the TLS state from under the thread that reads.
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _WatchedAdapter(HTTPAdapter):
    """requests' own adapter, with connections that report to the watch."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch
        super().__init__(pool_connections=2, pool_maxsize=1, max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> ConnectionPool:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if not hasattr(pool.ConnectionCls, "watch"):
            pool.ConnectionCls = _watched(pool.ConnectionCls, self._watch)
        return pool  # type: ignore[no-any-return]


class _WholeResponse(HTTPResponse):
    """An answer whose head came whole; http.client takes one that broke off in its middle for a short one."""

    def begin(self) -> None:
        file = self.fp
        lines: Any = _WholeLines(file)
        self.fp = lines
        super().begin()
        if self.fp is lines:  # it is None where there is no body to come
            self.fp = file


class _WholeLines:
    def __init__(self, file: Any) -> None:
        self._file = file

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._file.readline(limit)
        if not line.endswith(b"\n") and len(line) != limit:
            raise ConnectionResetError("The answer broke off in its head.")
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _watched(base: Any, watch: _Watch) -> Any:
    class WatchedConnection(base):  # type: ignore[misc]
        last_used = 0.0
        response_class = _WholeResponse

        def connect(self) -> None:
            super().connect()
            self.watch.connected(self)

        def send(self, data: Any) -> None:
            if self.sock is None:
                self.connect()
            self.watch.sending(self)
            self.last_used = time.time()
            super().send(data)

        @property
        def is_connected(self) -> bool:
            return bool(super().is_connected) and abs(time.time() - self.last_used) < _KEEP_ALIVE

    WatchedConnection.watch = watch
    return WatchedConnection
