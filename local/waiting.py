"""Waiting for what comes by itself."""

import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], patience: float, pause: float = 0.03) -> T:
    """Look again and again, until there is something to be seen or never will be.

    Args:
        look: Shows something that is true, once it is there.
        patience: Seconds.
        pause: Seconds between two looks.

    Returns:
        What the last look showed.
    """
    deadline, never = time.monotonic() + patience, Event()
    while not (seen := look()) and time.monotonic() < deadline:
        never.wait(pause)
    return seen
