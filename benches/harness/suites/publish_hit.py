"""How long do publish and unpublish of a cached model take, 1,000 times over gRPC?

The calls are made by `tonnage-bench publish --socket S --kubelet-dir D --source X --path P --count N [--parallel K]`, which prints one
line of JSON, {"publish_us": [...], "unpublish_us": [...]}, so that no process start is in a figure. Beside it, what a script would
do for each pod: `cp`, reflinks, hard links, each timed with its process.
"""

import shutil
import statistics
import subprocess
import time
from pathlib import Path

from .. import contest, machine
from ..loop_disk import xfs
from ..namespace import Namespace
from ..node import Node, Volume
from ..server import Server
from ..suite import Bench, Result, Row, at_most

NAME = "publish-hit"
SCRIPTS = {"cp": ["cp", "-r"], "cp reflink": ["cp", "-r", "--reflink=always"], "hard links": ["cp", "-r", "--link"]}


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    bucket = bench.hf()
    with bench.server() as server:
        with Node(bench.root / "node", server) as node:
            kept = called(bench, result, "cached", server, node, bucket)
            scripted(bench, result, kept.view)
        with Namespace() as space, xfs(space, bench.root, contest.job_for(bucket, server, bench.target).size + machine.GIB) as disk:
            with Node(bench.root / "node", server, space=space, cache=space.within(disk) / "cache") as node:
                called(bench, result, "cached, XFS", server, node, bucket)
    return result


def called(bench: Bench, result: Result, lane: str, server: Server, node: Node, bucket: str) -> Volume:
    """Publishes and unpublishes what the node has in its cache, which stays published once."""
    kept = node.publish("kept", bucket)
    before = occupied(node.space.seen(node.cache))
    server.reset()
    taken: dict[str, list[float]] = {"publish_us": [], "unpublish_us": []}
    for _ in range(1 if bench.quick else bench.reps):
        for name, values in node.burst(bucket, 200 if bench.quick else 1000).items():
            taken[name] += values
    copied = server.counts()["object_bytes"] + max(0, occupied(node.space.seen(node.cache)) - before)
    row = Row("tonnage", lane, {f"{name[:-3]} ms": [it / 1000 for it in values] for name, values in taken.items()})
    result.rows.append(row)
    for figure in ("publish ms", "unpublish ms"):
        percentiles = statistics.quantiles(row.figures[figure], n=100, method="inclusive")
        bench.say(f"  {lane}: {figure}: p50 {percentiles[49]:.2f} p99 {percentiles[98]:.2f}")
        result.verdicts.append(at_most(f"{lane}: {figure[:-3]} p50", percentiles[49], 2, "ms"))
        result.verdicts.append(at_most(f"{lane}: {figure[:-3]} p99", percentiles[98], 10, "ms"))
    result.verdicts.append(at_most(f"{lane}: bytes fetched or copied", copied, 0, "bytes"))
    return kept


def occupied(cache: Path) -> int:
    """Bytes of content in a store, each inode once."""
    files = {it.stat().st_ino: it.stat().st_size for it in (cache / "objects").rglob("*") if it.is_file()}
    return sum(files.values())


def scripted(bench: Bench, result: Result, view: Path) -> None:
    """Copies of the model on the same filesystem."""
    source, target = bench.root / "native", bench.target
    contest.clear(source)
    shutil.copytree(view, source)
    for name, command in SCRIPTS.items():
        times = []
        for _ in range(3 if bench.quick else 20):
            contest.clear(target)
            start = time.monotonic()
            done = subprocess.run([*command, str(source), str(target)], capture_output=True, text=True)
            times.append((time.monotonic() - start) * 1000)
        if done.returncode == 0:
            result.rows.append(Row(name, "cached", {"publish ms": times}))
        else:
            result.notes.append(f"{name} failed: {done.stderr.splitlines()[0]}")
    contest.clear(source)
    contest.clear(target)
