"""What a scenario ends with: a failure that says in one sentence what does not hold, or the wait until something does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK = 0.1
"""Seconds between two looks at what is waited for."""


class Failure(Exception):
    """Something does not hold."""


def until(what: str, seconds: float, look: Callable[[], T], otherwise: Callable[[], object] = lambda: "") -> T:
    """What `look` returns once that is true in Python's sense; fails after `seconds`, and says what `otherwise` sees."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            raise Failure(f"not within {seconds:g} s: {what}. {otherwise()}".strip())
        time.sleep(LOOK)
