"""Lambda on a laptop: handlers in child processes under awslambdaric, one invocation at a time in each.

A child asks for its next invocation on a port that is its own, and waits. So whoever invokes talks with it directly, on
that connection: reads the request for work, answers it with the event, and reads the result. There is no queue and no
thread in between, the child that holds an invocation is known, and its death is the end of the connection.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from multiprocessing.connection import wait
from pathlib import Path
from threading import TIMEOUT_MAX, Condition, Thread
from typing import Any, BinaryIO, NoReturn
from uuid import uuid4

from local.processes import Child, port_of
from local.template import Document, TemplateError, as_text

MAX_CHILDREN = 10
INIT_TIMEOUT = 30.0  # seconds; Lambda has 10, on machines that start no ten children at once
NEXT_TIMEOUT = 5.0  # seconds that a child may take from its answer to its next request


class FunctionError(Exception):
    """A function raised, died or ran out of time.

    Attributes:
        error_type: As Lambda calls it: the exception's class, `Sandbox.Timedout`, `Runtime.ExitError`, ...
        error_message: What it said.
    """

    def __init__(self, error_type: str, error_message: str) -> None:
        super().__init__(f"{error_type}: {error_message}")
        self.error_type = error_type
        self.error_message = error_message


class ImpatientError(Exception):
    """The caller's patience ended before the function did, which goes on if it had begun."""


class Function:
    """One Lambda function and its children.

    Args:
        properties: Of the translated AWS::Lambda::Function, resolved.
        environment: What every child gets beside the function's own variables and Lambda's.
        log_file: Takes what the children print, and what Lambda would say of them.
    """

    def __init__(
        self, logical_id: str, name: str, arn: str, properties: Document, environment: Mapping[str, str], log_file: Path
    ) -> None:
        if not str(properties.get("Runtime", "")).startswith("python") or "S3Key" not in properties["Code"]:
            raise TemplateError(f"{logical_id}: a laptop runs Python from a folder, nothing else.")
        self.logical_id = logical_id
        self.name = name
        self.arn = arn
        self.timeout = float(properties.get("Timeout", 3))
        self.concurrency = min(MAX_CHILDREN, int(properties.get("ReservedConcurrentExecutions", MAX_CHILDREN)))
        self._handler: str = properties["Handler"]
        self._folder = Path(properties["Code"]["S3Key"])
        self._environment = {**environment, **_variables(name, properties, log_file)}
        if not self._folder.is_dir():
            raise TemplateError(f"{logical_id}: its code is not there: {self._folder}")
        self._log_file = log_file
        log_file.touch()
        self._changed = Condition()
        self._children: list[_Worker] = []
        self._idle: list[_Worker] = []  # the most recently used one last
        self._stopped = False

    @property
    def pids(self) -> list[int]:
        """The process ids of its children that are alive, idle or not."""
        with self._changed:
            return [worker.child.pid for worker in self._children if worker.child.alive]

    def invoke(self, event: Any, *, trace_id: str = "", patience: float = TIMEOUT_MAX) -> Any:
        """Run the handler and return its result, in the calling thread.

        Args:
            event: Anything that JSON can say.
            trace_id: X-Ray's, as the handler finds it in its environment.
            patience: Seconds after which the caller no longer wants to wait.

        Raises:
            FunctionError: it failed.
            ImpatientError: it took longer than the caller's patience. If it had not begun, it never will.
        """
        give_up = time.monotonic() + patience
        body = json.dumps(event).encode()
        request_id = str(uuid4())
        while True:
            worker = self._begin(request_id, body, trace_id, give_up)
            deadline = time.monotonic() + self.timeout
            if give_up < deadline and not worker.has_answered(give_up):
                Thread(target=self._end_unheard, args=(worker, request_id, deadline), daemon=True).start()
                raise ImpatientError(f"{self.logical_id} took longer than {patience} s")
            # A connection that is reset, and not closed, had our event still unread when the child died: it never
            # began, and another child may have it.
            with suppress(ConnectionResetError):
                return self._end(worker, request_id, deadline)

    def log(self, line: str) -> None:
        """Write a line to the function's log, as Lambda itself does beside the handler."""
        with self._log_file.open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")

    def stop(self) -> None:
        """Kill all children; what they were doing fails, and so does every later invocation."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            for worker in self._children:
                worker.child.kill()  # whoever waits for it hears that at once, and closes it
            for worker in self._idle:
                worker.close()

    def _begin(self, request_id: str, event: bytes, trace_id: str, give_up: float) -> "_Worker":
        """Hand the event to a child that is ready for it."""
        while True:
            worker, is_new = self._take(give_up)
            try:
                worker.await_request_for_work(INIT_TIMEOUT if is_new else NEXT_TIMEOUT)
                worker.send_event(request_id, event, self.arn, time.time() + self.timeout, trace_id)
            except FunctionError as error:
                self._drop(worker)
                self._fail(request_id, error)
            except (OSError, EOFError):
                status = self._drop(worker)
                if is_new:
                    self._fail(request_id, _exit_error(request_id, status, "during init"))
                # Else it went while idle, the event never reached it, and another child takes it.
            else:
                return worker

    def _end(self, worker: "_Worker", request_id: str, deadline: float) -> Any:
        try:
            path, body = worker.receive(deadline)
        except ConnectionResetError:
            self._drop(worker)
            raise
        except TimeoutError:
            self._drop(worker)
            message = f"RequestId: {request_id} Error: Task timed out after {self.timeout:.2f} seconds"
            self._fail(request_id, FunctionError("Sandbox.Timedout", message))
        except (OSError, EOFError):
            self._fail(request_id, _exit_error(request_id, self._drop(worker)))
        with suppress(OSError):  # the result is here; if the child is not, its next use finds out
            worker.answer(HTTPStatus.ACCEPTED)
        with self._changed:
            if self._stopped:
                worker.close()
            self._idle.append(worker)
            self._changed.notify()
        if path.endswith("/error"):
            self._fail(request_id, _reported_error(body))
        return json.loads(body)

    def _end_unheard(self, worker: "_Worker", request_id: str, deadline: float) -> None:
        try:
            self._end(worker, request_id, deadline)
        except (FunctionError, ConnectionResetError) as error:
            self.log(f"RequestId: {request_id} nobody waited for: {error}")

    def _take(self, give_up: float) -> tuple["_Worker", bool]:
        """A child for one invocation, and whether it was started for it."""
        with self._changed:
            while True:
                if self._stopped:
                    raise FunctionError("Sandbox.Stopped", f"{self.logical_id} has been stopped")
                while self._idle:
                    if (worker := self._idle.pop()).child.alive:
                        return worker, False
                    self._discard(worker)
                if len(self._children) < self.concurrency:
                    with self._log_file.open("ab") as log:
                        worker = _Worker(self._handler, self._folder, self._environment, log)
                    self._children.append(worker)
                    return worker, True
                if not self._changed.wait(min(give_up - time.monotonic(), TIMEOUT_MAX)):
                    raise ImpatientError(f"{self.logical_id} had no child free in time")

    def _drop(self, worker: "_Worker") -> int:
        with self._changed:
            status = self._discard(worker)
            self._changed.notify()
        return status

    def _discard(self, worker: "_Worker") -> int:
        self._children.remove(worker)
        return worker.close()

    def _fail(self, request_id: str, error: FunctionError) -> NoReturn:
        self.log(f"RequestId: {request_id} {error}")
        raise error


class _Worker:
    """A child process and the connection on which it asks for work."""

    def __init__(self, handler: str, folder: Path, environment: Mapping[str, str], log: BinaryIO) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        api = {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port_of(self._listener)}"}
        self.child = Child("awslambdaric", handler, cwd=folder, environment={**environment, **api}, log=log)
        self._open: socket.socket | None = None

    @property
    def _connection(self) -> socket.socket:
        if self._open is None:
            raise EOFError("the child is not connected")
        return self._open

    def await_request_for_work(self, timeout: float) -> None:
        """Wait until the child asks for an invocation.

        Raises:
            FunctionError: it reported that its handler cannot be loaded.
            EOFError, OSError: it died or said nothing.
        """
        path, body = self.receive(time.monotonic() + timeout)
        if not path.endswith("/invocation/next"):
            self.answer(HTTPStatus.ACCEPTED)
            raise _reported_error(body)

    def send_event(self, request_id: str, event: bytes, arn: str, deadline: float, trace_id: str) -> None:
        headers = {
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Deadline-Ms": str(int(deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": arn,
            "Lambda-Runtime-Trace-Id": trace_id,
        }
        self.answer(HTTPStatus.OK, headers, event)

    def answer(self, status: HTTPStatus, headers: Mapping[str, str] | None = None, body: bytes = b"{}") -> None:
        """Answer the request that was last received."""
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        self._connection.sendall("\r\n".join(lines).encode() + body)

    def has_answered(self, until: float) -> bool:
        """Whether its next request is there, or its end, at that time."""
        return bool(wait([self._connection], max(until - time.monotonic(), 0)))

    def receive(self, until: float) -> tuple[str, bytes]:
        """The path and body of the child's next request.

        Raises:
            TimeoutError: it did not come.
            EOFError, OSError: the child died, perhaps with half of it sent: head and body leave it one by one.
        """
        while True:
            if self._open is None:
                self._accept(until)
            self._connection.settimeout(max(until - time.monotonic(), 0.001))
            if line := self._reader.readline():
                break
            self._hang_up()  # it may connect anew; if it died, waiting for that finds out
        length = 0
        while header := self._header():
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        if len(body := self._reader.read(length)) < length:
            raise EOFError("the child has ended in the middle of a request")
        return line.split()[1].decode(), body

    def close(self) -> int:
        """End the child; returns its exit status, negative if a signal ended it."""
        self._hang_up()
        self._listener.close()
        return self.child.close()

    def _accept(self, until: float) -> None:
        ready = wait([self._listener, self.child.lifeline], max(until - time.monotonic(), 0))
        if self._listener in ready:
            self._open, _ = self._listener.accept()
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._reader = self._connection.makefile("rb")
        elif ready:
            raise EOFError("the child has ended")
        else:
            raise TimeoutError("the child did not connect")

    def _header(self) -> bytes:
        """The next header; an empty one ends them."""
        if not (line := self._reader.readline()).endswith(b"\n"):
            raise EOFError("the child has ended in the middle of a request")
        return line.strip()

    def _hang_up(self) -> None:
        if self._open is not None:
            self._reader.close()
            self._open.close()
            self._open = None


def _variables(name: str, properties: Document, log_file: Path) -> dict[str, str]:
    """The function's own variables, and those that Lambda sets."""
    logging = properties.get("LoggingConfig", {})
    layers = [Path(layer) for layer in properties.get("Layers", [])]
    variables = {
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{properties['Runtime']}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": properties.get("MemorySize", 128),
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_FORMAT": logging.get("LogFormat", "Text"),
        "AWS_LAMBDA_LOG_GROUP_NAME": logging.get("LogGroup", f"/aws/lambda/{name}"),
        "AWS_LAMBDA_LOG_STREAM_NAME": log_file.name,
        "LAMBDA_TASK_ROOT": properties["Code"]["S3Key"],
        "TZ": ":UTC",
        "_HANDLER": properties["Handler"],
        # A layer has its packages in python/ once it is built, and at its root before.
        "PYTHONPATH": os.pathsep.join(str(place) for layer in layers for place in (layer / "python", layer)),
    }
    if "ApplicationLogLevel" in logging:
        variables["AWS_LAMBDA_LOG_LEVEL"] = logging["ApplicationLogLevel"]
    own = properties.get("Environment", {}).get("Variables", {})
    return {key: as_text(value) for key, value in {**own, **variables}.items()}


def _reported_error(body: bytes) -> FunctionError:
    report = json.loads(body)
    return FunctionError(report.get("errorType", "Unhandled"), report.get("errorMessage", ""))


def _exit_error(request_id: str, status: int, when: str = "") -> FunctionError:
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    words = ["RequestId:", request_id, "Error: Runtime exited with error:", how, when]
    return FunctionError("Runtime.ExitError", " ".join(filter(None, words)))
