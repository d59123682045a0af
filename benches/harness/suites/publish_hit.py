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

from .. import contest
from ..node import Node
from ..suite import Bench, Result, Row, at_most

NAME = "publish-hit"
SCRIPTS = {"cp": ["cp", "-r"], "cp reflink": ["cp", "-r", "--reflink=always"], "hard links": ["cp", "-r", "--link"]}


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    bucket = bench.hf()
    count = 200 if bench.quick else 1000
    with bench.server() as server, Node(bench.root / "node", server) as node:
        kept = node.publish("kept", bucket)
        before = occupied(node.cache)
        server.reset()
        taken: dict[str, list[float]] = {"publish_us": [], "unpublish_us": []}
        for _ in range(1 if bench.quick else bench.reps):
            for name, values in node.burst(bucket, count).items():
                taken[name] += values
        copied = server.counts()["object_bytes"] + max(0, occupied(node.cache) - before)
        scripted(bench, result, kept.view)
    row = Row("tonnage", "cached", {f"{name[:-3]} ms": [it / 1000 for it in values] for name, values in taken.items()})
    result.rows.insert(0, row)
    for figure in ("publish ms", "unpublish ms"):
        percentiles = statistics.quantiles(row.figures[figure], n=100, method="inclusive")
        bench.say(f"  {figure}: p50 {percentiles[49]:.2f} p99 {percentiles[98]:.2f}")
        result.verdicts.append(at_most(f"{figure[:-3]} p50", percentiles[49], 2, "ms"))
        result.verdicts.append(at_most(f"{figure[:-3]} p99", percentiles[98], 10, "ms"))
    result.verdicts.append(at_most("bytes fetched or copied", copied, 0, "bytes"))
    return result


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
