"""Which way of writing makes a consumer's wait shortest, on this machine's memory and disk?

A stager that only receives and writes (no hash) in five ways, then a consumer that adds up every byte, mapped or copied. The
policy `auto` of the page cache follows from this table; `docs/performance.md` keeps one.
"""

import random
import subprocess

from .. import contest, machine, measure
from ..data import MIB
from ..suite import Bench, Result, Row

NAME = "page-cache"
MODES = ["direct", "uring", "direct-readahead", "buffered", "dontcache"]
READERS = ["mmap", "copy"]


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    bucket = bench.one()
    with bench.server() as server:
        job = contest.job_for(bucket, server, bench.target)
        for lane in ["hot"] if bench.quick else ["hot", "idle"]:
            bench.say(f" lane {lane}: {contest.LANES[lane]}")
            for row in _lane(bench, server, job, lane):
                result.rows.append(row)
    return result


def _lane(bench, server, job, lane) -> list[Row]:
    rows = {(mode, reader): Row(f"{mode}, then {reader}", lane, {}) for mode in MODES for reader in READERS}
    order = random.Random(3)
    for _ in range(max(1, bench.reps // 3)):
        turn = list(rows)
        order.shuffle(turn)
        for mode, reader in turn:
            row = rows[mode, reader]
            for figure, value in _once(server, job, lane, mode, reader).items():
                row.figures.setdefault(figure, []).append(value)
            bench.say(f"  {row.name:<28} staged {row.figures['staged s'][-1]:6.2f} s  read by {row.figures['read by s'][-1]:6.2f} s")
    return list(rows.values())


def _once(server, job, lane, mode, reader) -> dict[str, float]:
    key, size = job.files[0]
    contest.prepare(job, lane, server)
    to = job.target / "staged"
    stage = [machine.BENCH, "stage", server.address, f"/{job.bucket}/{key}", size, to, "--mode", mode]
    staged = measure.run(stage, server, None)
    read = measure.run([machine.BENCH, "read", "--lane", reader, to], server, None)
    cached = machine.cached_bytes(to) / MIB
    machine.sync(job.target)
    return {"staged s": staged.wall, "read by s": staged.wall + read.wall, "cpu s/GB": (staged.cpu + read.cpu) / size * 1e9, "cached MiB": cached}
