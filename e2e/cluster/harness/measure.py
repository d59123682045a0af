"""How much scenarios that measure are to measure; others are not concerned."""

from argparse import ArgumentTypeError
from dataclasses import dataclass

from .model import MIB


@dataclass(frozen=True)
class Measure:
    """Small enough, unless told otherwise, for a scenario to run with all others."""

    size: int = 256 * MIB
    """Bytes of a model."""
    reps: int = 2
    """Turns of everybody."""
    write: bool = False
    """Whether the chart also goes into the documentation."""


def size(text: str) -> int:
    """Bytes of `256MiB` or `2GiB`."""
    for unit, factor in (("MiB", MIB), ("GiB", MIB << 10)):
        if text.endswith(unit) and (number := text.removesuffix(unit)).isdigit() and int(number) > 0:
            return int(number) * factor
    raise ArgumentTypeError(f"{text!r} is no size: write 256MiB or 2GiB")
