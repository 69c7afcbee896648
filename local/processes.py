"""Child processes and ports: started, watched and ended without leaving anything behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from local.settings import ROOT, LaptopCloudError

LIFELINE = Path(__file__).with_name("lifeline.py")


class Child:
    """A Python module run in a process of its own, which ends when this process does.

    It has a session of its own: Ctrl-C in a terminal reaches the parent alone.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str],
        log: IO[bytes],
        cwd: Path = ROOT,
        stdout: int | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        # A socket pair rather than a pipe, as it tells of both deaths: each side reads the end of the other.
        self.lifeline, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, str(LIFELINE), module, *arguments],
                stdin=theirs.fileno(),
                stdout=log if stdout is None else stdout,
                stderr=log,
                cwd=cwd,
                env=environment,
                start_new_session=True,
                pass_fds=pass_fds,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> int:
        """End it and whatever it started, at once; returns its exit status, negative if a signal ended it."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return self.process.wait()

    def close(self) -> int:
        """Kill it, and let go of what is held for it; returns its exit status."""
        status = self.kill()
        self.lifeline.close()
        return status


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The few variables that every child inherits; the rest of its environment is built from nothing."""
    return {name: environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR") if name in environ}


def listen(port: int, setting: str) -> socket.socket:
    """A listening socket on 127.0.0.1; port 0 takes a free one.

    Raises:
        LaptopCloudError: the port cannot be had; the message names the setting that changes it.
    """
    try:
        return socket.create_server(("127.0.0.1", port), backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LaptopCloudError(f"Port {port} cannot be used ({reason}). Set {setting} to another one.") from None


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port
