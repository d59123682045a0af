"""How long until a model of eight shards and twelve small files is on the local disk, and does the link idle between files?

Gaps are looked for in a second run over a link that is capped at a fraction of what disk and processors can do.
"""

from .. import contest, peers
from ..suite import Bench, Result, Row, at_least, at_most, best, rows_of
from ..throughput import Watch, longest_gap, rate

NAME = "stage-hf"
PEERS = [peers.RCLONE_TUNED, peers.S5CMD_TUNED, peers.CRT_DIRECT]
DEFAULTS = [peers.RCLONE, peers.S5CMD, peers.CRT]


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    bucket = bench.hf()
    contenders = [peers.OURS, *PEERS, *([] if bench.few else DEFAULTS)]
    for lane in bench.lanes:
        with bench.server() as server:
            job = contest.job_for(bucket, server, bench.target)
            held = contest.Contest(server, job, contenders, lane, bench.reps).run(bench.say)
        result.notes += [f"{lane}: {name} failed: {why}" for name, why in held.failures.items()]
        result.rows += rows_of(held, {"tonnage"})
        ours, peer = result.row("tonnage", lane), best(result.rows, lane, "durable s")
        ratio = ours.median("durable s") / peer.median("durable s")
        result.verdicts.append(at_most(f"{lane}: durable, ÷ {peer.name}", ratio, 0.85, of=[ours, peer], figure="durable s"))
    gaps(bench, result, bucket)
    return result


def gaps(bench: Bench, result: Result, bucket: str) -> None:
    """The share of a capped link that was used, without the looks in which the run started and ended."""
    cap = 250_000_000 if bench.quick else 800_000_000
    with bench.server("--total-rate", str(cap)) as server, Watch(server, 0.05) as watch:
        job = contest.job_for(bucket, server, bench.target)

        def look(_peer, _job) -> dict:
            points = watch.take()
            return {"share": rate(points) / cap, "gap": longest_gap(points)}

        reps = 1 if bench.quick else min(bench.reps, 3)
        held = contest.Contest(server, job, [peers.OURS, *PEERS], "plain", reps, then=look, verify=False).run(bench.say)
    for name, samples in held.samples.items():
        figures = {"share of link": [it.extra["share"] for it in samples], "longest gap s": [it.extra["gap"] for it in samples]}
        result.rows.append(Row(name, "capped link", figures, command=held.commands[name]))
    result.notes.append(f"the capped link carries {cap / 1e6:.0f} MB/s")
    ours = result.row("tonnage", "capped link")
    result.verdicts += [
        at_least("share of a capped link, first byte to last", ours.median("share of link"), 0.95, of=[ours], figure="share of link"),
        at_most("longest time without a byte", max(ours.figures["longest gap s"]), 0.1, "s"),
    ]
