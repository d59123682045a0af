"""Signals that end a run, as an exception: whoever has started something removes it on the way out."""

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


def raise_at_signals() -> None:
    """Each of them is a KeyboardInterrupt from now on. A shell starts what runs in the background with SIGINT ignored; it is taken all the
    same, because that is how one of several clusters is told to end. Who ignores SIGHUP outlives his terminal."""
    for it in _ENDING:
        if it is not signal.SIGHUP or signal.getsignal(it) is not signal.SIG_IGN:
            signal.signal(it, signal.default_int_handler)


def ignore_signals() -> None:
    """What is removed from now on is removed to its end, by this process and by those that it starts."""
    for it in _ENDING:
        signal.signal(it, signal.SIG_IGN)


def end_with_parent() -> None:
    """One who started this process and is killed cannot tell it to end: then the kernel does, with SIGINT."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT))


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that come meanwhile come when this is over: what is begun here is noted somewhere before anybody can leave."""
    came: list[int] = []
    before = {it: signal.getsignal(it) for it in _ENDING}
    for it, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(it, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for it, handler in before.items():
            signal.signal(it, handler)
    if came:
        raise KeyboardInterrupt
