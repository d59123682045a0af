"""What a suite is given and what it gives back.

A suite is a module in `suites/` whose docstring's first line is its question, with `run(bench) -> Result`. A row is one
peer in one lane; its figures are lists of raw values, so that medians and spreads are computed in one place. A verdict
compares a figure with its target; where the runs were too noisy to tell, it says so instead.
"""

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Callable

from . import contest, data, machine
from .measure import Sample, spread
from .server import Server

NOISY = 0.35
"""Interquartile range over the median above which a ratio of medians says nothing."""


@dataclass
class Row:
    """One peer in one lane. `figures` maps a name with its unit, such as `durable s` or `cpu s/GB`, to raw values."""

    name: str
    lane: str
    figures: dict[str, list[float]]
    verifies: bool = False
    command: str = ""

    def median(self, figure: str) -> float:
        return statistics.median(self.figures[figure])

    def least(self, figure: str) -> float:
        return min(self.figures[figure])


@dataclass
class Verdict:
    """`held` is None where the runs were too noisy to tell."""

    what: str
    value: float
    target: float
    held: bool | None
    unit: str = "×"

    def __str__(self) -> str:
        word = {True: "held", False: "MISSED", None: "too noisy to tell"}[self.held]
        return f"{word}: {self.what}: {self.value:.3g} {self.unit} (target {self.target:g} {self.unit})"


def at_most(what: str, value: float, target: float, unit: str = "×", of: list[Row] = (), figure: str = "") -> Verdict:
    """`value` is to be at most `target`; the rows that it comes from decide whether it can be told."""
    what, is_noisy = _seen(what, of, figure)
    return Verdict(what, value, target, None if is_noisy else value <= target, unit)


def at_least(what: str, value: float, target: float, unit: str = "×", of: list[Row] = (), figure: str = "") -> Verdict:
    what, is_noisy = _seen(what, of, figure)
    return Verdict(what, value, target, None if is_noisy else value >= target, unit)


def _seen(what: str, of: list[Row], figure: str) -> tuple[str, bool]:
    """What is judged, with a word on it where a row has one value only; and whether its rows are too noisy for that."""
    values = [row.figures[figure] for row in of]
    once = ", seen once" if any(len(it) == 1 for it in values) else ""
    return what + once, any(spread(it) > NOISY for it in values)


@dataclass
class Result:
    """What one suite found."""

    suite: str
    question: str
    rows: list[Row] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, name: str, lane: str) -> Row:
        return next(row for row in self.rows if row.name == name and row.lane == lane)

    def to_json(self) -> dict:
        return asdict(self)


@dataclass
class Bench:
    """The run that a suite is part of."""

    root: Path
    """Scratch: data in `data/`, targets beside it; on the disk that is measured."""
    reps: int
    quick: bool
    say: Callable[[str], None]
    strongest: bool = False
    """Only the strongest peers; a quick run has no others."""
    lane: str | None = None
    """The one lane that is asked for, where a suite has several."""

    @property
    def few(self) -> bool:
        """Whether only the strongest peers take part."""
        return self.quick or self.strongest

    @property
    def lanes(self) -> list[str]:
        """Memory as it is to be made: both ways, and hot only in a quick run."""
        return [self.lane] if self.lane else ["hot"] if self.quick else ["hot", "idle"]

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def target(self) -> Path:
        return self.root / "target"

    def server(self, *options: str, tls: bool = False) -> Server:
        """Serves the data; options are those of `tonnage-bench serve`."""
        return Server(self.data, *options, ca=self.root / "ca.pem" if tls else None)

    def one(self, gib: int = 4) -> str:
        """The bucket with one large safetensors file: 4 GiB unless told otherwise, and 512 MiB in a quick run."""
        size = machine.GIB // 2 if self.quick else gib * machine.GIB
        bucket = "one-512m" if self.quick else f"one-{gib}g"
        (self.data / bucket).mkdir(parents=True, exist_ok=True)
        data.safetensors(self.data / bucket / "model.safetensors", size, seed=1)
        return bucket

    def hf(self) -> str:
        """The bucket of a sharded model: eight shards and twelve small files."""
        size = (64 if self.quick else 512) * data.MIB
        bucket = f"hf-{size // data.MIB}m"
        top = self.data / bucket
        top.mkdir(parents=True, exist_ok=True)
        for index in range(8):
            data.safetensors(top / f"model-{index + 1:05}-of-00008.safetensors", size, seed=10 + index)
        if not (top / "config-11.json").exists():
            for index in range(12):
                (top / f"config-{index:02}.json").write_bytes(b"".join(data._random(3000 + 17 * index, 100 + index)))
        return bucket

    def small(self, count: int = 10_000, size: int = 256 << 10) -> str:
        """A bucket of many small files."""
        bucket = f"small-{count}x{size}"
        data.small(self.data / bucket, count, size, seed=5)
        return bucket


def rows_of(held: contest.Contest, verifies: set[str] = frozenset(), size: int | None = None) -> list[Row]:
    """A contest's samples as rows, with the usual figures."""
    size = size or held.job.size
    return [Row(name, held.lane, figures(samples, size), name in verifies, held.commands[name]) for name, samples in held.samples.items()]


def figures(samples: list[Sample], size: int) -> dict[str, list[float]]:
    """The usual figures of some runs over `size` bytes."""
    per_gb = 1e9 / size
    found = {
        "exit s": [it.wall for it in samples],
        "durable s": [it.synced for it in samples],
        "cpu s/GB": [it.cpu * per_gb for it in samples],
        "anon MiB": [it.memory / data.MIB for it in samples],
        "sent ×": [it.sent / size for it in samples],
        "stolen s": [it.stolen for it in samples],
    }
    touched = [it.extra[contest.MEMORY] for it in samples if contest.MEMORY in it.extra]
    return found | ({contest.MEMORY: touched} if touched else {})


def best(rows: list[Row], lane: str, figure: str, ours: str = "tonnage") -> Row:
    """The peer with the least median of a figure in a lane."""
    return min((row for row in rows if row.lane == lane and not row.name.startswith(ours)), key=lambda row: row.median(figure))
