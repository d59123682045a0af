"""Does cost grow linearly: 1 to 32 GiB, 1 to 64 files, 1,000 to 200,000 small files, 1 to 100 volumes?

One run of each cell. What is served lies in a tmpfs: large files are holes with one random page in every MiB, so that 32 GiB take
128 MiB of memory, no read of the server meets the disk that is written to, and no two parts are equal. Sending a hole is cheaper than sending
data, for all sizes alike: compare cells with each other, not with other suites.
"""

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy

from .. import contest, data, machine, measure, peers
from ..namespace import memory
from ..node import Node
from ..server import Server
from ..suite import Bench, Result, Row, at_most

NAME = "scale"
PER_GB, PER_FILE, MEMORY, PUBLISH = "s/GB", "ms/file", "anon MiB", "one more publish ms"
SMALL = 16 << 10
SMALL_LANE = "files of 16 KiB"
PAGE = 4096
MOST_SECONDS = 3600


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    sizes = [64 * data.MIB, 256 * data.MIB] if bench.quick else [it * machine.GIB for it in (1, 4, 16, 32)]
    counts = [1, 16] if bench.quick else [1, 4, 16, 64]
    many = [500, 2_000] if bench.quick else [1_000, 10_000, 50_000, 200_000]
    total = sizes[1]
    with sources(bench) as top:
        for size in sizes:
            if fits(bench, result, size):
                staged(bench, result, top, "one file", _size(size), lambda place, size=size: holes(place, size, 1))
        for count in counts:
            staged(bench, result, top, f"{_size(total)} together", _number(count, "file"), lambda place, count=count: holes(place, total, count))
        for count in many:
            staged(bench, result, top, SMALL_LANE, _number(count, "file"), lambda place, count=count: data.small(place, count, SMALL, seed=5))
    publishes(bench, result)
    lanes = list(dict.fromkeys(row.lane for row in result.rows))
    for lane, figure in zip(lanes, (f"cpu {PER_GB}", f"cpu {PER_GB}", f"cpu {PER_FILE}", PUBLISH)):
        result.verdicts.append(growth(result, lane, figure))
    peak = max(row.median(MEMORY) for row in result.rows if row.lane in lanes[:2])
    result.verdicts.append(at_most("anonymous memory, whatever the size and the number of large files", peak, 80, "MiB"))
    return result


def growth(result: Result, lane: str, figure: str):
    """The largest cell of a lane divided by its smallest."""
    rows = [row for row in result.rows if row.lane == lane]
    least, most = rows[0], rows[-1]
    named = f"{lane}: {figure}, {_cell(most)} ÷ {_cell(least)}"
    return at_most(named, most.median(figure) / least.median(figure), 1.25, of=[least, most], figure=figure)


@contextmanager
def sources(bench: Bench) -> Iterator[Path]:
    """An empty directory of buckets in memory, which is where the contest looks meanwhile."""
    with memory(bench.root / "sources") as place:
        kept, contest.DATA = contest.DATA, place
        try:
            yield place
        finally:
            contest.DATA = kept


def fits(bench: Bench, result: Result, size: int) -> bool:
    """Whether the disk has room for what is staged and for what the cache leaves free; what is left out is said."""
    enough = shutil.disk_usage(bench.root).free > size * 1.02 + 2 * machine.GIB
    if not enough:
        result.notes.append(f"{_size(size)} left out: the disk has no room for it")
    return enough


def holes(bucket: Path, total: int, count: int) -> None:
    """`count` files with `total` bytes together; every MiB begins with a random page, the rest is a hole."""
    random = numpy.random.Generator(numpy.random.SFC64(200))
    size = total // count
    for index in range(count):
        with (bucket / f"model-{index:02}.safetensors").open("wb") as file:
            file.truncate(size)
            for at in range(0, size, data.MIB):
                os.pwrite(file.fileno(), random.bytes(min(PAGE, size - at)), at)


def staged(bench: Bench, result: Result, top: Path, lane: str, cell: str, fill) -> None:
    """`tonnage pull` of what `fill` writes into an empty bucket; nothing of it is left afterwards."""
    bucket = top / "scale"
    bucket.mkdir()
    try:
        fill(bucket)
        with Server(top) as server:
            figures = pulled(bench, server, PER_FILE if lane == SMALL_LANE else PER_GB)
    finally:
        contest.clear(bench.target)
        contest.clear(bucket)
    row = Row(f"tonnage, {cell}", lane, figures, True)
    result.rows.append(row)
    shown = ", ".join(f"{name} {row.median(name):.3g}" for name in figures)
    bench.say(f"  {lane:<16} {cell:<14} {shown}")


def pulled(bench: Bench, server: Server, per: str) -> dict[str, list[float]]:
    """One run, verified. "own" processor time is the process's, without the kernel's workers and the sampler of memory."""
    job = contest.job_for("scale", server, bench.target)
    contest.prepare(job, "plain", server)
    before = _reaped_seconds()
    sample = measure.run(peers.OURS.command(job), server, job.target, limit=MOST_SECONDS)
    own = _reaped_seconds() - before
    contest.check(peers.OURS, job, server)
    share = 1000 / len(job.files) if per == PER_FILE else 1e9 / job.size
    figures = {
        "exit s": sample.wall,
        f"cpu {per}": sample.cpu * share,
        f"own cpu {per}": own * share,
        MEMORY: sample.memory / data.MIB,
        "sent ×": sample.sent / job.size,
    }
    return {name: [value] for name, value in figures.items()}


def publishes(bench: Bench, result: Result) -> None:
    """Latency of 20 more publishes, and the node's peak of memory during them, by how many volumes there are already."""
    bucket = bench.small(20, 4096)
    with bench.server() as server, Node(bench.root / "node", server) as node:
        there = 0
        for volumes in (1, 10, 100):
            for index in range(there, volumes):
                node.publish(f"pod-{index}", bucket)
            there = volumes
            memory = machine.PeakMemory(node.process.pid)
            taken = node.burst(bucket, 20)
            figures = {PUBLISH: [it / 1000 for it in taken["publish_us"]], MEMORY: [memory.stop() / data.MIB]}
            row = Row(f"tonnage node, {_number(volumes, 'volume')}", "published volumes", figures)
            result.rows.append(row)
            bench.say(f"  {row.name}: {row.median(PUBLISH):.2f} ms, {row.median(MEMORY):.1f} MiB")


def _reaped_seconds() -> float:
    """Processor time of all ended children that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _size(size: int) -> str:
    return f"{size // machine.GIB} GiB" if size >= machine.GIB else f"{size // data.MIB} MiB"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count > 1)


def _cell(row: Row) -> str:
    return row.name.split(", ", 1)[1]
