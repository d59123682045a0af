"""Does staging one model after another past the watermark of a small disk ever fail or starve?

A loop-mounted XFS holds about three models; eight are staged in turn, every one by a node service whose volumes are taken down before
the next, and once more with two loads at the same time.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .. import data
from ..loop_disk import xfs
from ..measure import Failed
from ..namespace import Namespace
from ..node import Node
from ..suite import Bench, Result, Row, at_most

NAME = "full-disk"
MODELS = 8


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    size = (64 if bench.quick else 512) * data.MIB
    buckets = [f"full-{size // data.MIB}m-{index}" for index in range(MODELS)]
    for index, bucket in enumerate(buckets):
        (bench.data / bucket).mkdir(parents=True, exist_ok=True)
        data.safetensors(bench.data / bucket / "model.safetensors", size, seed=70 + index)
    failures, times, left = [], [], []
    with bench.server() as server, Namespace() as space, xfs(space, bench.root, 3 * size + size // 4) as disk:
        with Node(bench.root / "node", server, "--cache-floor", str(16 * data.MIB), space=space, cache=space.within(disk) / "cache") as node:
            for name, bucket in enumerate(buckets):
                attempt(failures, times, lambda name=name, bucket=bucket: stage(node, f"pod-{name}", bucket))
                left.append(free_share(disk))
            with ThreadPoolExecutor(2) as both:
                list(both.map(lambda bucket: attempt(failures, times, lambda: stage(node, f"two-{bucket}", bucket)), buckets[:4]))
    result.notes += failures
    result.rows.append(Row("tonnage", "small XFS", {"stage s": times, "share free": left}, True))
    result.verdicts += [
        at_most("stages that failed", len(failures), 0, "stages"),
        at_most("slowest stage ÷ first", max(times, default=0) / times[0] if times else 0, 10),
    ]
    return result


def stage(node: Node, name: str, bucket: str) -> None:
    node.unpublish(node.publish(name, bucket))


def attempt(failures: list[str], times: list[float], work) -> None:
    start = time.monotonic()
    try:
        work()
    except Failed as why:
        failures.append(str(why))
        return
    times.append(time.monotonic() - start)


def free_share(disk: Path) -> float:
    found = os.statvfs(disk)
    return found.f_bavail / found.f_blocks
