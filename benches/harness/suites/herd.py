"""What do 64 pods cost that want one cold model at once: bytes, and time beside one pod?

The time is compared on a large model; beside it a small one, which 64 `s5cmd` at once can fetch without filling the disk.
"""

import os
import subprocess
import time

from .. import contest, data, peers
from ..measure import Failed
from ..node import Node
from ..peers import Job
from ..server import Server
from ..suite import Bench, Result, Row, at_most

NAME = "herd"
PODS = 64


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    large, small = bench.one(), part(bench)
    with bench.server() as server:
        for bucket, lane in ((large, "large model"), (small, "small model")):
            job = contest.job_for(bucket, server, bench.target)
            runs: dict[int, list[dict[str, float]]] = {1: [], PODS: []}
            for turn in range(bench.reps):
                # In turns, and each first in every other one: a shared disk is not the same a minute later.
                for pods in sorted(runs, reverse=turn % 2 == 1):
                    runs[pods].append(herd(bench, job, server, pods))
            for pods, found in runs.items():
                row = Row(f"tonnage, {pods} pods", lane, {name: [it[name] for it in found] for name in found[0]}, True)
                result.rows.append(row)
                bench.say(f"  {row.name}, {lane}: {row.median('all s'):.2f} s")
        try:
            result.rows.append(Row(f"s5cmd, {PODS} pods", "small model", {name: [it] for name, it in copies(job, server).items()}))
        except Failed as why:
            result.notes.append(f"s5cmd failed: {why}")
    one, all_pods = result.row("tonnage, 1 pods", "large model"), result.row(f"tonnage, {PODS} pods", "large model")
    result.verdicts += [
        at_most(f"bytes sent for {PODS} pods ÷ model", max(all_pods.figures["sent ×"]), 1.0),
        at_most(f"{PODS} pods ÷ one pod", all_pods.median("all s") / one.median("all s"), 1.1, of=[one, all_pods], figure="all s"),
    ]
    return result


def part(bench: Bench) -> str:
    """A bucket whose 64 copies fit on the disk."""
    size = (16 if bench.quick else 256) * data.MIB
    bucket = f"herd-{size // data.MIB}m"
    (bench.data / bucket).mkdir(parents=True, exist_ok=True)
    data.safetensors(bench.data / bucket / "model.safetensors", size, seed=90)
    return bucket


def herd(bench: Bench, job: Job, server: Server, pods: int) -> dict[str, float]:
    """Publishes at once on a cold node: the slowest pod's seconds, and what was sent."""
    contest.prepare(job, "plain", server)
    with Node(bench.root / "node", server) as node:
        server.reset()
        taken = node.burst(job.bucket, pods, pods)
        return {"all s": max(taken["publish_us"]) / 1e6, "sent ×": server.counts()["object_bytes"] / job.size}


def copies(job: Job, server: Server) -> dict[str, float]:
    """As many s5cmd at once, each into its own directory, as init containers are."""
    contest.prepare(job, "plain", server)
    server.reset()
    start = time.monotonic()
    running = []
    for index in range(PODS):
        own = contest.retarget(job, job.target / str(index))
        env = {**os.environ, **peers.S5CMD.env(own)}
        running.append(subprocess.Popen([str(it) for it in peers.S5CMD.command(own)], stdout=subprocess.DEVNULL, env=env))
    failed = sum([process.wait() != 0 for process in running])
    took = time.monotonic() - start
    sent = server.counts()["object_bytes"] / job.size
    contest.clear(job.target)
    if failed:
        raise Failed(f"{failed} of {PODS} ended badly")
    return {"all s": took, "sent ×": sent}
