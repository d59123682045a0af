"""How long from the request until every tensor of a 4 GiB model is in memory, and which pair of stager and loader is quickest?

Every stager is tried with every loader once; the quickest pairs of either kind go on. Mapped tensors and copied ones are judged
apart. `tonnage` is a node service that is asked to publish, `tonnage pull` the command line. Nobody syncs.
"""

import random
from contextlib import ExitStack
from dataclasses import replace

from .. import contest, limits, pairs, peers
from ..measure import Failed, Sample
from ..suite import Bench, Result, Row, at_most, best, figures

NAME = "stage-to-ram"
PULL = replace(peers.OURS, name="tonnage pull")
QUICK = ([PULL, peers.RCLONE_TUNED, peers.CRT_DIRECT], [pairs.MAPPED, pairs.READ_COPY])
STAGERS = [PULL, peers.RCLONE_TUNED, peers.RCLONE, peers.S5CMD_TUNED, peers.CRT_DIRECT, peers.CRT]
LOADERS = [pairs.MAPPED, pairs.READ_MMAP, pairs.READ_COPY, pairs.RUNAI, pairs.FAST]
HEAD = 64 << 10
"""Bytes before the first tensor, as `data.safetensors` writes them."""
FINALISTS = 3
"""Of each kind, beside the two best of ours."""


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    result.notes.append("tonnage: NodePublish as kubelet calls it, by the program `kubelet`, whose start of some milliseconds is counted")
    result.notes.append("loaders have imported everything before the clock starts and run in a fresh process each; sums use one thread")
    bucket = bench.one()
    stagers, loaders = QUICK if bench.few else (STAGERS, LOADERS)
    with bench.server() as server, ExitStack() as open_loaders:
        job = contest.job_for(bucket, server, bench.target)
        source = contest.source_of(job) / job.files[0][0]
        limit = limits.measured(server, f"/{bucket}/{job.files[0][0]}", job.size, bench.root, 1 if bench.quick else 3)
        result.limits = limit.to_json(job.size)
        expected = pairs.sums(source, HEAD)
        runai = pairs.Loading(pairs.RUNAI, server)
        loading = {it: runai if it is pairs.RUNAI else pairs.Loading(it, server) for it in loaders}
        for one in {runai, *loading.values()}:
            open_loaders.enter_context(one)
            one.wait()
        everyone = [pairs.published(it) for it in loading.values()]
        everyone += [pairs.pulled(stager, it) for stager in stagers for it in loading.values()]
        everyone.append(pairs.alone(runai))
        for lane in bench.lanes:
            bench.say(f" lane {lane}: {contest.LANES[lane]}")
            samples = compete(bench, result, everyone, (job, server, lane, expected))
            result.rows += [row_of(pair, lane, samples[pair.name], job.size) for pair in everyone if pair.name in samples]
            judge(result, lane, limit)
    contest.clear(bench.target)
    return result


def compete(bench: Bench, result: Result, everyone: list[pairs.Pair], how: tuple) -> dict[str, list[Sample]]:
    """Everyone once; then the quickest of each kind, ours among them, for all repetitions."""
    first = turns(bench, result, everyone, how, 1)
    final = []
    for kind in ("mmap", "copy"):
        ranked = sorted((it for it in everyone if it.kind == kind and it.name in first), key=lambda it: pairs.median(first[it.name]))
        ours = [it for it in ranked if it.name.startswith("tonnage")]
        final += ours[:2] + [it for it in ranked if it not in ours][:FINALISTS]
    if bench.reps > 1:
        more = turns(bench, result, final, how, bench.reps - bench.quick)
        for name, samples in more.items():
            first[name] = first[name] + samples if bench.quick else samples
    return first


def turns(bench: Bench, result: Result, those: list[pairs.Pair], how: tuple, reps: int) -> dict[str, list[Sample]]:
    """Shuffled anew for every repetition; who fails is noted and is out."""
    job, server, lane, expected = how
    samples: dict[str, list[Sample]] = {}
    failed: set[str] = set()
    order = random.Random(3)
    for _ in range(reps):
        turn = [pair for pair in those if pair.name not in failed]
        order.shuffle(turn)
        for pair in turn:
            try:
                sample = pairs.once(pair, job, server, lane, expected)
            except Failed as why:
                failed.add(pair.name)
                result.notes.append(f"{lane}: {pair.name} failed: {why}")
                continue
            samples.setdefault(pair.name, []).append(sample)
            bench.say(f"  {pair.name:<34} {sample.wall:6.2f} s = stage {sample.extra['stage s']:.2f} + load {sample.extra['load s']:.2f}")
    return samples


def row_of(pair: pairs.Pair, lane: str, samples: list[Sample], size: int) -> Row:
    usual = figures(samples, size)
    figure = {"in memory s": usual["exit s"], **{name: usual[name] for name in ("cpu s/GB", "anon MiB", "sent ×", "stolen s")}}
    for part in ("stage s", "load s"):
        figure[part] = [it.extra[part] for it in samples]
    return Row(pair.name, f"{lane}, {pair.kind}", figure, pair.verifies)


def judge(result: Result, lane: str, limit: limits.Limits) -> None:
    for kind in ("mmap", "copy"):
        place = f"{lane}, {kind}"
        ours = [row for row in result.rows if row.lane == place and row.name.startswith("tonnage →")]
        rivals = [row for row in result.rows if row.lane == place and not row.name.startswith("tonnage")]
        if not ours or not rivals:
            result.notes.append(f"{place}: nothing to compare")
            continue
        mine = min(ours, key=lambda row: row.median("in memory s"))
        peer = best(rivals, place, "in memory s")
        time, other = mine.median("in memory s"), peer.median("in memory s")
        both = {"of": [mine, peer], "figure": "in memory s"}
        result.verdicts += [
            at_most(f"{place}: {mine.name} ÷ {peer.name}, which checks nothing", time / other, 0.90, **both),
            at_most(f"{place}: {mine.name} ÷ {peer.name} + b3sum", time / (other + limit.hash), 0.70, **both),
        ]
