"""One model in several guises, each a directory to read from: published, native, FUSE, EROFS."""

import random
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import contest, machine, peers
from .measure import Failed
from .namespace import Namespace
from .node import Node
from .peers import Job
from .suite import Bench, Result, Row, at_least

IMAGE = "model.erofs"
LANES = ("mmap", "copy")


def compare(bench: Bench, result: Result, state: str, prepare: Callable[[Path], None]) -> Result:
    """Reads all guises in turn, in both lanes; `prepare` makes a directory warm or cold."""
    bucket = bench.one()
    reps = bench.reps * (1 if bench.quick else 2)
    with ExitStack() as stack:
        server = stack.enter_context(bench.server())
        space = stack.enter_context(Namespace())
        node = stack.enter_context(Node(bench.root / "node", server, space=space))
        job = contest.job_for(bucket, server, bench.target)
        places = {"tonnage": node.publish("reader", bucket).view}
        for name, guise in (("native", native), ("rclone mount", fuse), ("EROFS", erofs)):
            try:
                places[name] = stack.enter_context(guise(bench, space, job))
            except (Failed, RuntimeError, OSError, subprocess.CalledProcessError) as why:
                result.notes.append(f"{name} failed: {why}")
        machine.sync(bench.root)
        rates = turns(bench, result, places, reps, prepare)
    for (name, lane), values in rates.items():
        result.rows.append(Row(name, f"{state}, {lane}", {"GB/s": values}, name == "tonnage"))
    for lane in LANES:
        ours, other = result.row("tonnage", f"{state}, {lane}"), result.row("native", f"{state}, {lane}")
        ratio = ours.median("GB/s") / other.median("GB/s")
        result.verdicts.append(at_least(f"{state}, {lane}: GB/s ÷ native", ratio, 0.98, of=[ours, other], figure="GB/s"))
    return result


def turns(bench: Bench, result: Result, places: dict[str, Path], reps: int, prepare) -> dict[tuple[str, str], list[float]]:
    """Gigabytes per second of every read, by guise and lane. A quick run reads the FUSE mount once: it is the slowest by far."""
    order = random.Random(4)
    rates: dict[tuple[str, str], list[float]] = {}
    for rep in range(reps):
        turn = [(name, lane) for name in places for lane in LANES]
        if bench.quick:
            turn = [it for it in turn if it[0] != "rclone mount" or (rep == 0 and it[1] == "copy")]
        order.shuffle(turn)
        for name, lane in turn:
            try:
                prepare(places[name])
                if name == "EROFS":
                    prepare(bench.root / IMAGE)
                rate = read(places[name], lane)
            except (Failed, RuntimeError, OSError) as why:
                result.notes.append(f"{name}, {lane} failed: {why}")
                continue
            rates.setdefault((name, lane), []).append(rate)
            bench.say(f"  {name:<14} {lane:<5} {rate:6.2f} GB/s")
    return rates


def read(place: Path, lane: str) -> float:
    """Reads and sums every byte; bytes per second in GB."""
    done = subprocess.run([machine.BENCH, "read", "--lane", lane, str(place)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(done.stderr.strip()[-300:])
    seconds, _, size = done.stdout.split()
    return int(size) / float(seconds) / 1e9


@contextmanager
def native(bench: Bench, _space: Namespace, job: Job):
    """Written past the page cache, as the store does it, so that both lie on the disk in the same way."""
    place = bench.root / "native"
    contest.clear(place)
    place.mkdir()
    for key, _ in job.files:
        source = contest.source_of(job) / key
        subprocess.run(["dd", f"if={source}", f"of={place / key}", "bs=8M", "oflag=direct", "status=none"], check=True)
    yield place
    contest.clear(place)


@contextmanager
def fuse(bench: Bench, space: Namespace, job: Job):
    """rclone's FUSE mount of the bucket, without a cache on disk."""
    place = bench.root / "fuse"
    place.mkdir(exist_ok=True)
    copy = [str(it) for it in peers.RCLONE.command(job)]
    command = [*copy[:3], "mount", copy[4], str(place), "--read-only", "--vfs-cache-mode", "off", "--s3-no-check-bucket"]
    log = bench.root / "fuse.log"
    with log.open("w") as output:
        process = subprocess.Popen(space.inside(command), stdout=output, stderr=output)
    try:
        until = time.monotonic() + 10
        while not any(space.seen(place).iterdir()):
            if process.poll() is not None or time.monotonic() > until:
                raise Failed(f"rclone does not mount: {log.read_text()[-300:]}")
            time.sleep(0.05)
        yield space.seen(place)
    finally:
        process.terminate()
        process.wait()
        log.unlink()
        place.rmdir()


@contextmanager
def erofs(bench: Bench, space: Namespace, job: Job):
    """An uncompressed EROFS image of the same files on a loop device."""
    image, place = bench.root / IMAGE, bench.root / "erofs"
    place.mkdir(exist_ok=True)
    try:
        subprocess.run(["mkfs.erofs", str(image), str(contest.source_of(job))], check=True, capture_output=True)
        space.run("mount", "-t", "erofs", "-o", "loop,ro", image, place)
        yield space.seen(place)
        space.run("umount", place)
    finally:
        image.unlink(missing_ok=True)
        place.rmdir()
