"""Pairs of stagers and loaders in turns: every one once, then the quickest of each kind for all repetitions, and what they are judged by."""

import random
from contextlib import ExitStack

from . import contest, limits, pairs
from .measure import Failed, Sample
from .peers import Peer
from .suite import Bench, Result, Row, at_most, best, figures

HEAD = 64 << 10
"""Bytes before the first tensor, as `data.safetensors` writes them."""
FINALISTS = 3
"""Of each kind, beside the two best of ours."""


def run(bench: Bench, result: Result, stagers: list[Peer], loaders: list[pairs.Loader], streamer: pairs.Loader) -> None:
    """Every stager with every loader, a node of ours with every loader, and the streamer without a stager."""
    result.notes.append("tonnage: NodePublish as kubelet calls it, by the program `kubelet`, whose start of some milliseconds is counted")
    result.notes.append("loaders have imported everything before the clock starts and run in a fresh process each; sums use one thread")
    bucket = bench.one()
    with bench.server() as server, ExitStack() as open_loaders:
        job = contest.job_for(bucket, server, bench.target)
        source = contest.source_of(job) / job.files[0][0]
        limit = limits.measured(server, f"/{bucket}/{job.files[0][0]}", job.size, bench.root, 1 if bench.quick else 3)
        result.limits |= limit.to_json(job.size)
        expected = pairs.sums(source, HEAD)
        loading = {it: open_loaders.enter_context(pairs.Loading(it, server)) for it in dict.fromkeys([*loaders, streamer])}
        for one in loading.values():
            one.wait()
        everyone = [pairs.published(loading[it]) for it in loaders]
        everyone += [pairs.pulled(stager, loading[it]) for stager in stagers for it in loaders]
        everyone.append(pairs.alone(loading[streamer]))
        kinds = list(dict.fromkeys(it.kind for it in loaders))
        for lane in bench.lanes:
            bench.say(f" lane {lane}: {contest.LANES[lane]}")
            samples = _compete(bench, result, everyone, kinds, (job, server, lane, expected))
            result.rows += [_row(pair, lane, samples[pair.name], job.size) for pair in everyone if pair.name in samples]
            for kind in kinds:
                _judge(result, f"{lane}, {kind}", limit)
    contest.clear(bench.target)


def _compete(bench: Bench, result: Result, everyone: list[pairs.Pair], kinds: list[str], how: tuple) -> dict[str, list[Sample]]:
    """Everyone once; then the quickest of each kind, ours among them, for all repetitions."""
    first = _turns(bench, result, everyone, how, 1)
    final = []
    for kind in kinds:
        ranked = sorted((it for it in everyone if it.kind == kind and it.name in first), key=lambda it: pairs.median(first[it.name]))
        ours = [it for it in ranked if it.name.startswith("tonnage")]
        final += ours[:2] + [it for it in ranked if it not in ours][:FINALISTS]
    if bench.reps > 1:
        more = _turns(bench, result, final, how, bench.reps - bench.quick)
        for name, samples in more.items():
            first[name] = first[name] + samples if bench.quick else samples
    return first


def _turns(bench: Bench, result: Result, those: list[pairs.Pair], how: tuple, reps: int) -> dict[str, list[Sample]]:
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


def _row(pair: pairs.Pair, lane: str, samples: list[Sample], size: int) -> Row:
    usual = figures(samples, size)
    costs = {name: usual[name] for name in ("cpu s/GB", "anon MiB", "sent ×", "stolen s", contest.MEMORY) if name in usual}
    parts = {part: [it.extra[part] for it in samples] for part in ("stage s", "load s")}
    figure = {"in memory s": usual["exit s"], **costs, **parts}
    return Row(pair.name, f"{lane}, {pair.kind}", figure, pair.verifies)


def _judge(result: Result, place: str, limit: limits.Limits) -> None:
    ours = [row for row in result.rows if row.lane == place and row.name.startswith("tonnage →")]
    rivals = [row for row in result.rows if row.lane == place and not row.name.startswith("tonnage")]
    if not ours or not rivals:
        result.notes.append(f"{place}: nothing to compare")
        return
    mine = min(ours, key=lambda row: row.median("in memory s"))
    peer = best(rivals, place, "in memory s")
    time, other = mine.median("in memory s"), peer.median("in memory s")
    both = {"of": [mine, peer], "figure": "in memory s"}
    result.verdicts += [
        at_most(f"{place}: {mine.name} ÷ {peer.name}, which checks nothing", time / other, 0.90, **both),
        at_most(f"{place}: {mine.name} ÷ {peer.name} + b3sum", time / (other + limit.b3sum), 0.70, **both),
    ]
