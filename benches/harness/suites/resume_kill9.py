"""How much is fetched again after SIGKILL in the middle of a download?

The link is capped, so that the middle can be hit. What was in flight is at most one range of 8 MiB for each connection.
"""

import os
import signal
import subprocess
import time

from .. import contest, data, machine, measure, peers
from ..measure import Failed
from ..peers import Job, Peer
from ..server import Server
from ..suite import Bench, Result, Row, at_most

NAME = "resume-kill9"
CONTENDERS = [peers.OURS, peers.ARIA2, peers.RCLONE_TUNED, peers.S5CMD_TUNED]
RANGE = 8 * data.MIB


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    bucket = bench.one()
    with bench.server("--total-rate", "800000000") as server:
        job = contest.job_for(bucket, server, bench.target)
        for peer in CONTENDERS:
            try:
                runs = [interrupted(peer, job, server) for _ in range(1 if bench.quick else bench.reps)]
            except Failed as why:
                result.notes.append(f"{peer.name} failed: {why}")
                continue
            figures = {name: [it[name] for it in runs] for name in runs[0]}
            result.rows.append(Row(peer.name, "killed at half", figures, peer.verifies))
            bench.say(f"  {peer.name:<22} sent {figures['sent ×']} ×")
    contest.clear(bench.target)
    ours = result.row("tonnage", "killed at half")
    over = max(again - flight for again, flight in zip(ours.figures["again MiB"], ours.figures["in flight MiB"]))
    result.verdicts.append(at_most("fetched again beyond what was in flight", over, 0, "MiB"))
    return result


def interrupted(peer: Peer, job: Job, server: Server) -> dict[str, float]:
    """Kills a run at half of the bytes, runs it again to its end, and says what was sent."""
    contest.prepare(job, "plain", server)
    server.reset()
    command = [str(it) for it in peer.command(job)]
    env = {**os.environ, **peer.env(job)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    while server.counts()["object_bytes"] < job.size // 2:
        if process.poll() is not None:
            raise Failed(f"ended with {process.returncode} before half of the bytes were sent")
        time.sleep(0.01)
    connections = sum(machine.open_sockets(pid) for pid in machine.descendants(process.pid))
    for pid in machine.descendants(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    first = settled(server)
    again = measure.run(command, server, job.target, peer.env(job))
    contest.check(peer, job, server)
    sent = first + again.sent
    return {
        "sent ×": sent / job.size,
        "again MiB": (sent - job.size) / data.MIB,
        "in flight MiB": connections * RANGE / data.MIB,
        "second run s": again.wall,
    }


def settled(server: Server) -> int:
    """Bytes sent, once the server has noticed that nobody listens any more."""
    before, now = -1, server.counts()["object_bytes"]
    while now != before:
        time.sleep(0.1)
        before, now = now, server.counts()["object_bytes"]
    return now
