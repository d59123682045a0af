"""How much slower do a pod's reads of cached files and another's fsyncs get while 20 GiB are staged beside them?

Both take a fixed number of steps a second and note how long each takes. Quiet first, then beside every stager in turn.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from .. import contest, data, machine, measure, peers
from ..measure import Failed
from ..peers import Job, Peer
from ..server import Server
from ..suite import Bench, Result, Row, at_most

NAME = "neighbour"
SCRIPT = Path(__file__).parents[1] / "clients" / "neighbours.py"
FILES = 8
CONTENDERS = [peers.OURS_CAPPED, peers.OURS_DIRECT, peers.RCLONE_TUNED, peers.S5CMD_TUNED]


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    bucket = bench.one()
    seconds = 3 if bench.quick else 15
    place = bench.root / "neighbours"
    place.mkdir(exist_ok=True)
    for index in range(FILES):
        data.safetensors(place / f"{index}.bin", 32 * data.MIB, seed=50 + index)
    with bench.server() as server:
        job = contest.job_for(bucket, server, bench.target)
        total = job.size if bench.quick else 20 * machine.GIB
        samples: dict[str, list[dict]] = {}
        for _ in range(1 if bench.quick else min(bench.reps, 3)):
            samples.setdefault("quiet", []).append(beside(place, lambda: time.sleep(seconds)))
            for peer in CONTENDERS:
                try:
                    contest.clear(bench.target)
                    machine.sync(bench.root)
                    samples.setdefault(peer.name, []).append(beside(place, lambda peer=peer: stage(peer, job, server, total)))
                except Failed as why:
                    result.notes.append(f"{peer.name} failed: {why}")
    contest.clear(bench.target)
    contest.clear(place)
    for name, found in samples.items():
        if found:
            result.rows.append(Row(name, "neighbours", {figure: [it[figure] for it in found] for figure in found[0]}))
            bench.say(f"  {name:<22} " + ", ".join(f"{figure} {result.rows[-1].median(figure):.2f}" for figure in found[0]))
    quiet, ours = result.row("quiet", "neighbours"), result.row(peers.OURS_CAPPED.name, "neighbours")
    for figure in ("read p99 ms", "fsync p99 ms"):
        ratio = ours.median(figure) / quiet.median(figure)
        result.verdicts.append(at_most(f"{figure[:-3]}, staging ÷ quiet", ratio, 1.5, of=[ours, quiet], figure=figure))
    return result


def stage(peer: Peer, job: Job, server: Server, total: int) -> None:
    """Stages the model again and again, each time into a directory of its own, until `total` bytes have been staged. Nothing is removed
    meanwhile: where freed blocks are discarded, removing a model delays other people's fsyncs by itself."""
    for index in range(max(1, total // job.size)):
        own = contest.retarget(job, job.target / str(index))
        own.target.mkdir(parents=True)
        measure.run(peer.command(own), server, None, peer.env(own))


def beside(place: Path, work) -> dict[str, float]:
    """Runs the neighbours around some work; p50 and p99 of their steps in milliseconds."""
    machine.warm(place)
    command = [sys.executable, SCRIPT, place]
    with subprocess.Popen([str(it) for it in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        start = time.monotonic()
        try:
            work()
        finally:
            out, _ = process.communicate("")
    return {**json.loads(out), "work s": time.monotonic() - start}
