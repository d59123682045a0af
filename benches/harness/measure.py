"""Runs one command and measures it: time to exit, time to durable, processor time, memory, bytes sent."""

import os
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import machine
from .server import Server


class Failed(Exception):
    """A command did not do its work; the text says what it said."""


@dataclass
class Sample:
    """One run. Times are seconds; `synced` is the time to exit plus `syncfs`, the same rule for everyone."""

    wall: float
    synced: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    sent: int = 0
    stolen: float = 0.0
    extra: dict = field(default_factory=dict)

    def to_json(self) -> dict:
        return asdict(self)


def run(command: list, server: Server | None, directory: Path | None, env: dict | None = None, limit: float = 600) -> Sample:
    """Runs a command to its end, then syncs the filesystem of `directory`."""
    if server:
        server.reset()
    before = Meter(server)
    log = Path(os.environ.get("TMPDIR", "/tmp")) / f"bench-{os.getpid()}.log"
    with log.open("w+") as output:
        start = time.monotonic()
        process = subprocess.Popen([str(it) for it in command], stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
        memory = machine.PeakMemory(process.pid)
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = f"nothing in {limit:.0f} s"
        wall = time.monotonic() - start
        peak = memory.stop()
        if code != 0:
            output.seek(0)
            raise Failed(f"{' '.join(map(str, command))[:300]}: exit {code}: {output.read()[-600:]}")
    log.unlink()
    if directory:
        machine.sync(directory)
    synced = time.monotonic() - start
    sent = server.counts()["object_bytes"] if server else 0
    return Sample(wall, synced, before.cpu(), peak, sent, before.stolen())


class Meter:
    """Counters as they were before a run."""

    def __init__(self, server: Server | None):
        self.server = server
        self.all = machine.cpu_seconds()
        self.away = machine.stolen_seconds()
        self.served = server.cpu_seconds() if server else 0.0

    def cpu(self) -> float:
        served = self.server.cpu_seconds() - self.served if self.server else 0.0
        return machine.cpu_seconds() - self.all - served

    def stolen(self) -> float:
        return machine.stolen_seconds() - self.away


def median(samples: list[Sample], of: str) -> float:
    return statistics.median(getattr(sample, of) for sample in samples)


def spread(values: list[float]) -> float:
    """Interquartile range over the median: how noisy the runs were."""
    if not values or statistics.median(values) == 0:
        return 0.0
    if len(values) < 4:
        return (max(values) - min(values)) / statistics.median(values)
    quarters = statistics.quantiles(values, n=4)
    return (quarters[2] - quarters[0]) / statistics.median(values)
