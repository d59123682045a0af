"""Is a distant, slow-starting, per-connection-limited link filled: 30 ms to the first byte, 90 MB/s a connection, 2 GB/s in total?

The rate is what the server sent from one second after its first byte to its last look before the end, looked at ten times a second.
Asked twice in a full run: with the local disk, which may be slower than the link, and with a tmpfs in its place, which is not.
"""

from dataclasses import replace

from .. import contest, machine, measure, peers
from ..namespace import memory
from ..suite import Bench, Result, Row, at_least, figures
from ..throughput import Watch, rate

NAME = "stage-latency"
SHARE = "share of cap after 1 s"


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    part = 8 if bench.quick else 1
    cap, connection = 2_000_000_000 // part, 90_000_000 // part
    if bench.quick:
        result.notes.append("quick: both rates are an eighth, so that a smaller file lasts longer than the first second")
    contenders = [peers.OURS] + (peers.STRONGEST if bench.few else peers.ALL)
    bucket = bench.one()
    shape = ["--first-byte-ms", "30", "--connection-rate", str(connection), "--total-rate", str(cap)]
    with bench.server(*shape) as server, Watch(server, 0.1) as watch:
        job = contest.job_for(bucket, server, bench.target)
        key, size = job.files[0]
        machine.warm(contest.source_of(job))
        discard = measure.run([machine.BENCH, "network", server.address, f"/{bucket}/{key}", size, "--connections", 32], server, None)
        result.limits = {"discard GB/s after 1 s": rate(watch.take(), 1.0) / 1e9, "discard s": discard.wall, "cap GB/s": cap / 1e9}

        def look(_peer, _job) -> dict:
            return {"rate": rate(watch.take(), 1.0)}

        reps = min(bench.reps, 2) if bench.quick else bench.reps
        held = {"latency": contest.Contest(server, job, contenders, "plain", reps, then=look).run(bench.say)}
        if not bench.quick:
            with memory(bench.root / "memory") as place:
                job = replace(job, target=place / "target")
                held["latency, into a tmpfs"] = contest.Contest(server, job, contenders, "hot", reps, then=look).run(bench.say)
    for lane, contested in held.items():
        result.notes += [f"{lane}: {name} failed: {why}" for name, why in contested.failures.items()]
        for name, samples in contested.samples.items():
            usual = figures(samples, size)
            usual[SHARE] = [it.extra["rate"] / cap for it in samples]
            result.rows.append(Row(name, lane, usual, name == "tonnage"))
        ours = result.row("tonnage", lane)
        result.verdicts.append(at_least(f"{lane}: {SHARE}", ours.median(SHARE), 0.95, of=[ours], figure=SHARE))
    return result
