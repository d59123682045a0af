"""How long until one 4 GiB safetensors file is on the local disk, durable, and what does it cost?

In the hot and in the idle lane, beside every peer that stages to disk. Everybody's clock stops after the same `syncfs`.
"""

from .. import contest, limits, peers
from ..suite import Bench, Result, at_most, best, rows_of

NAME = "stage-1x4g"


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    contenders = [peers.OURS] + (peers.STRONGEST if bench.few else peers.ALL)
    bucket = bench.one()
    with bench.server() as server:
        job = contest.job_for(bucket, server, bench.target)
        limit = limits.measured(server, f"/{bucket}/{job.files[0][0]}", job.size, bench.root)
        result.limits = limit.to_json(job.size)
        for lane in bench.lanes:
            stage(bench, result, server, job, contenders, lane)
            judge(result, lane, limit, job.size)
    return result


def stage(bench, result, server, job, contenders, lane) -> None:
    """Every peer once to warm up the field, then the strongest until the figures stand."""
    bench.say(f" lane {lane}: {contest.LANES[lane]}")
    few = contest.Contest(server, job, contenders, lane, bench.reps if bench.few else 1).run(bench.say)
    result.notes += [f"{name} failed: {why}" for name, why in few.failures.items()]
    if not bench.few:
        ranked = sorted(few.samples, key=lambda name: few.samples[name][0].synced)
        finalists = [peer for peer in contenders if peer.name in ranked[:4] or peer.name == "tonnage"]
        bench.say(f" the four quickest go on for {bench.reps} turns")
        final = contest.Contest(server, job, finalists, lane, bench.reps, seed=2, verify=False).run(bench.say)
        for name, samples in final.samples.items():
            few.samples[name] = samples
    result.rows += rows_of(few, {"tonnage"})


def judge(result, lane, limit, size) -> None:
    ours = result.row("tonnage", lane)
    peer = best(result.rows, lane, "durable s")
    both = [ours, peer]
    time = ours.median("durable s")
    hashed = peer.median("durable s") + limit.b3sum
    discard = result.limits["discard cpu s/GB"]
    result.verdicts += [
        at_most(f"{lane}: durable, ÷ {peer.name}, which checks nothing", time / peer.median("durable s"), 0.95, of=both, figure="durable s"),
        at_most(f"{lane}: durable, ÷ {peer.name} + b3sum", time / hashed, 0.70, of=both, figure="durable s"),
        at_most(f"{lane}: durable ÷ limit", time / limit.floor, 1.30, of=[ours], figure="durable s"),
        at_most(f"{lane}: processor above network discard", ours.median("cpu s/GB") - discard, 0.25, "s/GB", of=[ours], figure="cpu s/GB"),
        at_most(f"{lane}: anonymous memory", max(ours.figures["anon MiB"]), 64 + 16, "MiB"),
    ]
