"""Does cost grow linearly: 1 to 32 GiB, 1 to 64 files, 1,000 to 200,000 small files, 1 to 100 volumes?"""

import shutil
import time

from .. import contest, data, machine, peers
from ..node import Node
from ..suite import Bench, Result, Row, at_most, figures

NAME = "scale"
CPU, FILE_CPU = "cpu s/GB", "cpu ms/file"


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    sizes = [64 * data.MIB, 256 * data.MIB] if bench.quick else [it * machine.GIB for it in (1, 4, 16, 32)]
    counts = [16] if bench.quick else [4, 16, 64]
    many = [500, 2_000] if bench.quick else [1_000, 10_000, 50_000, 200_000]
    reps = 1 if bench.quick else min(bench.reps, 3)
    total = sizes[1]
    fitting = [it for it in sizes if fits(bench, result, it)]
    by_size = [of_size(bench, result, it, 1, reps) for it in fitting]
    by_count = [by_size[1], *(of_size(bench, result, total, it, reps) for it in counts)]
    by_files = [staged(bench, result, bench.small(it, 16 << 10), f"{it:,} files of 16 KiB", reps, files=it) for it in many]
    contest.clear(bench.target)
    publishes(bench, result)
    for what, rows, figure in (("size", by_size, CPU), ("files of one total", by_count, CPU), ("small files", by_files, FILE_CPU)):
        growth = rows[-1].median(figure) / rows[0].median(figure)
        result.verdicts.append(at_most(f"{figure}, most ÷ least by {what}", growth, 1.25, of=[rows[0], rows[-1]], figure=figure))
    return result


def fits(bench: Bench, result: Result, size: int) -> bool:
    """Whether the disk has room for the source and what is staged, and a tenth; what is left out is said."""
    enough = shutil.disk_usage(bench.root).free > size * 2.2
    if not enough:
        result.notes.append(f"{size // data.MIB} MiB left out: the disk has no room for it twice")
    if size > machine.available_bytes():
        result.notes.append(f"{size // data.MIB} MiB are more than memory: the server reads them from the disk that is written to")
    return enough


def of_size(bench: Bench, result: Result, total: int, count: int, reps: int) -> Row:
    """A row of `count` files with `total` bytes; the source is removed again, because all of them would fill the disk."""
    bucket = sized(bench, total, count)
    try:
        return staged(bench, result, bucket, f"{total // data.MIB} MiB in {count} files", reps)
    finally:
        shutil.rmtree(bench.data / bucket)


def sized(bench: Bench, total: int, count: int) -> str:
    """A bucket of `count` files with `total` bytes."""
    bucket = f"scale-{total // data.MIB}m-{count}"
    (bench.data / bucket).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        data.safetensors(bench.data / bucket / f"model-{index:02}.safetensors", total // count, seed=200 + index)
    return bucket


def staged(bench: Bench, result: Result, bucket: str, name: str, reps: int, files: int = 0) -> Row:
    """`tonnage pull` of a bucket."""
    with bench.server() as server:
        job = contest.job_for(bucket, server, bench.target)
        held = contest.Contest(server, job, [peers.OURS], "plain", reps).run(lambda _text: None)
    if not held.samples:
        raise RuntimeError(f"{name}: {held.failures}")
    samples = held.samples["tonnage"]
    usual = figures(samples, job.size)
    if files:
        usual[FILE_CPU] = [it.cpu / files * 1000 for it in samples]
    row = Row("tonnage", name, usual, True)
    result.rows.append(row)
    bench.say(f"  {name:<28} {row.median('durable s'):6.2f} s  {row.median(CPU):6.2f} cpu s/GB  {row.median('anon MiB'):5.0f} MiB")
    return row


def publishes(bench: Bench, result: Result) -> None:
    """Latency of a publish, and the node's memory, by how many volumes there are already."""
    bucket = bench.small(20, 4096)
    with bench.server() as server, Node(bench.root / "node", server) as node:
        node.publish("first", bucket)
        there = 1
        for volumes in (1, 10, 100):
            for index in range(there, volumes):
                node.publish(f"pod-{index}", bucket)
            there = volumes
            start = time.monotonic()
            taken = node.burst(bucket, 20)
            bench.say(f"  {volumes} volumes: 20 more in {time.monotonic() - start:.2f} s")
            latencies = [it / 1000 for it in taken["publish_us"]]
            memory = [node.anonymous_bytes() / data.MIB]
            result.rows.append(Row("tonnage node", f"{volumes} volumes", {"publish ms": latencies, "anon MiB": memory}))
