"""Runs programs to their end."""

import subprocess
from dataclasses import dataclass

from .outcome import Failure

SHOWN = 1500
"""How many characters of a failed command's words are shown."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def attempt(command: list, text: str = "", seconds: float = 120) -> Ended:
    """Runs a command with `text` on standard input, however it ends."""
    words = [str(it) for it in command]
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, errors="replace", timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failure(f"`{' '.join(words)}` did not end within {seconds:g} s") from None
    return Ended(done.returncode, done.stdout, done.stderr)


def output(command: list, text: str = "", seconds: float = 120) -> str:
    """What a command prints; it has to end well."""
    ended = attempt(command, text, seconds)
    if ended.code != 0:
        words = " ".join(str(it) for it in command)
        raise Failure(f"`{words}` ended with {ended.code}: {(ended.err or ended.out).strip()[-SHOWN:]}")
    return ended.out


def shown(command: list) -> None:
    """Runs a long command whose words go to the terminal."""
    words = [str(it) for it in command]
    if code := subprocess.run(words, stdin=subprocess.DEVNULL).returncode:
        raise Failure(f"`{' '.join(words)}` ended with {code}")
