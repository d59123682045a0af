"""Which way of writing makes a consumer's wait shortest, by file system, disk, memory and loader, and does `auto` choose it?

A stager that only receives and writes (no hash), in five ways, then a loader that adds up every byte: mapped, copied, or read past
the page cache. Every loader has a stage of its own, since the one before it leaves other pages behind. In the lane `limited` both are in
one control group with half of the content's size. Where the disk is to be faster than the network, the server sends at a cap. What
`auto` does is seen in the pages that `tonnage pull` leaves. A third of the repetitions are run.

PAGE_CACHE_CELLS="xfs hot mmap" runs the cells that have one of the words of every dimension of which there is a word.
"""

import mmap
import os
import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .. import contest, data, machine, measure, peers
from ..loop_disk import xfs
from ..measure import Failed, spread
from ..memory_limit import MemoryLimit
from ..namespace import Namespace
from ..peers import Job
from ..server import Server
from ..suite import NOISY, Bench, Result, Row

NAME = "page-cache"
POLICIES = {"direct": "direct", "direct-uring": "uring", "direct-readahead": "direct-readahead", "buffered": "buffered", "dontcache": "dontcache"}
LOADERS = {"mmap": "mmap", "copy": "copy", "direct-read": "direct"}
MEMORY = ["hot", "idle", "limited"]
LINKS = ["slower", "faster"]
CAP = 500_000_000
"""Bytes per second of the network where the disk is to be faster, or half of the disk's rate if that is less."""
ROOM = 3 * machine.GIB // 2
"""More than `tonnage` keeps free."""
QUICK = "xfs slower hot limited"
"""The cells of a quick run."""
SECONDS = 600
POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, for which Python has no name."""


class Cells:
    """What is to be run of every dimension."""

    def __init__(self, words: list[str], native: str):
        dimensions = {"disks": list(dict.fromkeys([native, "xfs"])), "links": LINKS, "memory": MEMORY, "policies": list(POLICIES), "loaders": list(LOADERS)}
        unknown = set(words).difference(*dimensions.values())
        if unknown:
            raise ValueError(f"PAGE_CACHE_CELLS: no dimension has {', '.join(sorted(unknown))}")
        named = {name: [it for it in values if it in words] for name, values in dimensions.items()}
        self.disks, self.links = named["disks"] or dimensions["disks"], named["links"] or LINKS
        self.memory, self.policies = named["memory"] or MEMORY, named["policies"] or dimensions["policies"]
        self.loaders = named["loaders"] or dimensions["loaders"]

    def minutes(self, size: int) -> float:
        """About how long a turn takes, where disk and network are not much slower than 1 GB/s: what was measured here."""
        a_cell = {"hot": 2.0 + size / 0.4e9, "limited": 2.0 + size / 0.4e9, "idle": contest.IDLE_SECONDS / len(self.loaders) + 1.5 + size / 0.16e9}
        places = len(self.disks) * len(self.links)
        return sum(a_cell[it] for it in self.memory) * places * len(self.policies) * len(self.loaders) / 60


@dataclass
class Place:
    """One disk with one network."""

    lane: str
    job: Job
    server: Server
    total: str
    """What the loaders have to add up to."""
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    auto: dict[str, list[float]] = field(default_factory=dict)
    """Shares of the content that `auto` left in the page cache, by memory."""


@dataclass
class Choice:
    """The best policy of a cell beside the one that `auto` takes; `loss` is what that one costs on top, as a share."""

    cell: str
    best: str
    seconds: float
    auto: str
    loss: float
    noisy: bool

    def __str__(self) -> str:
        noise = " (noisy)" if self.noisy else ""
        return f"{self.cell}: best {self.best}, in memory after {self.seconds:.3g} s; auto takes {self.auto}: +{self.loss:.0%}{noise}"


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    native = subprocess.run(["stat", "--file-system", "--format=%T", bench.root], capture_output=True, text=True, check=True).stdout.strip()
    native = "ext4" if native == "ext2/ext3" else native
    cells = Cells(os.environ.get("PAGE_CACHE_CELLS", QUICK if bench.quick else "").split(), native)
    bucket, size = content(bench)
    turns = max(1, bench.reps // 3)
    bench.say(f" about {cells.minutes(size):.0f} min for one turn, {turns} turns; PAGE_CACHE_CELLS selects")
    with Namespace() as space:
        for name in cells.disks:
            with cleared(bench.target) if name == native else xfs(space, bench.root, 3 * size + ROOM) as directory:
                disk = disk_rate(directory, size)
                result.limits[f"{name} disk GB/s"] = disk / 1e9
                for link in cells.links:
                    cap = min(CAP, int(disk / 2)) if link == "faster" else None
                    with place(bench, f"{name}, disk {link} than the network", bucket, directory / "staged", cap) as here:
                        look_at_network(result, here, disk, link)
                        measured(bench, result, cells, here, turns)
    result.notes.append("every loader has its own stage; idle: three stages after one wait, each takes pages that the host has taken back")
    return result


def content(bench: Bench) -> tuple[str, int]:
    """One file: 1 GiB, or 256 MiB in a quick run."""
    bucket, size = ("one-256m", machine.GIB // 4) if bench.quick else ("one-1g", machine.GIB)
    (bench.data / bucket).mkdir(parents=True, exist_ok=True)
    data.safetensors(bench.data / bucket / "model.safetensors", size, seed=1)
    return bucket, size


@contextmanager
def cleared(directory: Path) -> Iterator[Path]:
    """Removes a directory afterwards; after Ctrl-C it may have gone with its mount."""
    try:
        yield directory
    finally:
        with suppress(FileNotFoundError):
            contest.clear(directory)


@contextmanager
def place(bench: Bench, lane: str, bucket: str, target: Path, cap: int | None) -> Iterator[Place]:
    with bench.server(*(["--total-rate", str(cap)] if cap else [])) as server, cleared(target):
        job = contest.job_for(bucket, server, target)
        total = timed([machine.BENCH, "read", contest.source_of(job) / job.files[0][0]], None)[2].split()[1]
        yield Place(lane, job, server, total)


def disk_rate(directory: Path, size: int) -> float:
    """Bytes per second that the disk takes past the page cache, the best of three."""
    directory.mkdir(exist_ok=True)
    return size / min(float(timed([machine.BENCH, "disk", directory / "limit", size], None)[2]) for _ in range(3))


def look_at_network(result: Result, here: Place, disk: float, link: str) -> None:
    """Notes where the disk is not what the lane calls it."""
    machine.warm(contest.source_of(here.job))
    size = here.job.size
    network = size / min(float(timed([machine.BENCH, "network", here.server.address, object_of(here.job), size], here.server)[2]) for _ in range(2))
    result.limits[f"{here.lane.split(',')[0]} network GB/s, disk {link}"] = network / 1e9
    if (disk > network) != (link == "faster"):
        result.notes.append(f"{here.lane}: not so in this run: disk {disk / 1e9:.2f} GB/s, network {network / 1e9:.2f} GB/s")


def measured(bench: Bench, result: Result, cells: Cells, here: Place, turns: int) -> None:
    """All cells of a place, the policies shuffled over all states of memory and the loaders within each."""
    bench.say(f" {here.lane}")
    figures = ["staged s", *(f"{it} s" for it in cells.loaders), *(f"{it} cpu s/GB" for it in cells.loaders)]
    for memory in cells.memory:
        for policy in cells.policies:
            here.rows[memory, policy] = Row(f"{memory} {policy}", here.lane, {figure: [] for figure in figures})
    order = random.Random(3)
    for _ in range(turns):
        groups, loaders = list(here.rows), list(cells.loaders)
        order.shuffle(groups)
        for memory in cells.memory:
            ask_auto(result, here, memory)
        for memory, policy in groups:
            order.shuffle(loaders)
            try:
                group(bench, here, (memory, policy), loaders)
            except Failed as why:
                result.notes.append(f"{here.lane}, {memory} {policy} failed: {why}")
    result.rows += [row for row in here.rows.values() if row.figures["staged s"]]
    shares = ", ".join(f"{memory} {statistics.median(left):.0%}" for memory, left in here.auto.items() if left)
    result.notes.append(f"{here.lane}: auto left in the page cache: {shares}")
    result.verdicts += [choice for memory in cells.memory for loader in cells.loaders if (choice := chosen(here, memory, loader))]


def group(bench: Bench, here: Place, cell: tuple[str, str], loaders: list[str]) -> None:
    """The loaders of one policy. Where memory is idle what was staged stays, so that the next stage takes pages that nobody has
    used since the wait; elsewhere all is made new for each."""
    memory, policy = cell
    row = here.rows[cell].figures
    with ExitStack() as held:
        for number, loader in enumerate(loaders):
            if memory != "idle" or number == 0:
                prepare(here, memory)
            if memory == "idle" and number == 0:
                held.enter_context(soaked(here.job.size // 2))
            staged, loaded, cpu = once(here, memory, policy, loader)
            row["staged s"].append(staged)
            row[f"{loader} s"].append(staged + loaded)
            row[f"{loader} cpu s/GB"].append(cpu / here.job.size * 1e9)
            bench.say(f"  {memory:<8} {policy:<17} {loader:<12} staged {staged:6.2f} s  in memory {staged + loaded:6.2f} s")


@contextmanager
def soaked(size: int) -> Iterator[None]:
    """Holds the small free pieces that somebody used lately, for the host takes back large ones only: the rest is cold."""
    with mmap.mmap(-1, size) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory.madvise(POPULATE_WRITE)
        yield


def prepare(here: Place, memory: str) -> None:
    contest.prepare(here.job, "idle" if memory == "idle" else "hot", here.server)


def once(here: Place, memory: str, policy: str, loader: str) -> tuple[float, float, float]:
    """Seconds of stage and load, and processor time of both."""
    size, to = here.job.size, here.job.target / f"for-{loader}"
    stage = [machine.BENCH, "stage", here.server.address, object_of(here.job), size, to, "--mode", POLICIES[policy]]
    load = [machine.BENCH, "read", "--lane", LOADERS[loader], to]
    with MemoryLimit(size // 2) if memory == "limited" else nullcontext() as limit:
        inside = limit.inside if limit else list
        staged, stage_cpu, _ = timed(inside(stage), here.server)
        loaded, load_cpu, said = timed(inside(load), here.server)
    if said.split()[1] != here.total:
        raise Failed(f"{loader} read other bytes")
    machine.sync(here.job.target)
    return staged, loaded, stage_cpu + load_cpu


def timed(command: list, server: Server | None) -> tuple[float, float, str]:
    """Seconds, processor time and words of a command."""
    meter = measure.Meter(server)
    start = time.monotonic()
    done = subprocess.run([str(it) for it in command], capture_output=True, text=True, timeout=SECONDS)
    wall, cpu = time.monotonic() - start, meter.cpu()
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))[:300]}: exit {done.returncode}: {done.stderr.strip()[-400:]}")
    return wall, cpu, done.stdout


def object_of(job: Job) -> str:
    return f"/{job.bucket}/{job.files[0][0]}"


def ask_auto(result: Result, here: Place, memory: str) -> None:
    """How much of the content one pull by `auto` leaves in the page cache; under a limit below the content it is none, by the rule
    for version 2 of control groups."""
    left = here.auto.setdefault(memory, [])
    if memory == "limited":
        left.append(0.0)
        return
    prepare(here, memory)
    try:
        with soaked(here.job.size // 2) if memory == "idle" else nullcontext():
            timed(peers.OURS.command(here.job), here.server)
    except Failed as why:
        result.notes.append(f"{here.lane}, {memory}: auto failed: {why}")
        return
    left.append(machine.cached_bytes(peers.OURS.output(here.job, here.job.files[0][0])) / here.job.size)


def chosen(here: Place, memory: str, loader: str) -> Choice | None:
    """The best policy of a cell and that of `auto`; None where that one was not run."""
    times = {policy: row.figures[f"{loader} s"] for (lane, policy), row in here.rows.items() if lane == memory and row.figures[f"{loader} s"]}
    took = "buffered" if statistics.median(here.auto[memory] or [0.0]) > 0.5 else "direct"
    if took not in times:
        return None
    best = min(times, key=lambda policy: statistics.median(times[policy]))
    seconds = statistics.median(times[best])
    noisy = any(spread(times[it]) > NOISY for it in (best, took))
    return Choice(f"{here.lane}, {memory}, {loader}", best, seconds, took, statistics.median(times[took]) / seconds - 1, noisy)
