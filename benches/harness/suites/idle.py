"""What does a node cost that does nothing, with no volume and with 100?"""

import time

from .. import contest
from ..data import MIB
from ..node import Node
from ..suite import Bench, Result, Row, at_most

NAME = "idle"
VOLUMES = 100


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    bucket = bench.small(20, 4096)
    seconds = 5 if bench.quick else 30
    result.notes.append(f"processor time has a resolution of 10 ms, {1 / seconds:.2f} % of the {seconds} s that were watched")
    with bench.server() as server, Node(bench.root / "node", server) as node:
        measure(bench, result, node, 0, seconds)
        for index in range(VOLUMES):
            node.publish(f"pod-{index}", bucket)
        measure(bench, result, node, VOLUMES, seconds)
    contest.clear(bench.target)
    for row in result.rows:
        result.verdicts += [
            at_most(f"{row.lane}: anonymous memory", max(row.figures["anon MiB"]), 20, "MiB"),
            at_most(f"{row.lane}: processor", row.median("cpu %"), 0.1, "%"),
        ]
    return result


def measure(bench: Bench, result: Result, node: Node, volumes: int, seconds: float) -> None:
    time.sleep(1)
    memory, shares = [], []
    for _ in range(1 if bench.quick else bench.reps):
        before = node.cpu_seconds()
        time.sleep(seconds)
        shares.append((node.cpu_seconds() - before) / seconds * 100)
        memory.append(node.anonymous_bytes() / MIB)
    result.rows.append(Row("tonnage node", f"{volumes} volumes", {"anon MiB": memory, "cpu %": shares}))
    bench.say(f"  {volumes} volumes: {memory[-1]:.1f} MiB, {shares[-1]:.2f} %")
