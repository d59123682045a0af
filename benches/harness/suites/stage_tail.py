"""How much do slow and failing ranges stretch the slowest runs: 2 % twenty times slower, 1 % refused with 503 or cut off?

The same link, 200 MB/s a connection, once clean and once with troubles; p99 over p50 of the runs of each. Every run's bytes are compared.
"""

import statistics

from .. import contest, peers
from ..suite import Bench, Result, Row, at_most, figures

NAME = "stage-tail"
LINK = ["--connection-rate", "200000000"]
TROUBLES = ["--slow-permille", "20", "--slow-factor", "20", "--error-permille", "10"]


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    alone = 2 if bench.quick else 90
    together = 3 if bench.quick else 10
    contenders = [peers.OURS, *([peers.RCLONE_TUNED] if bench.quick else peers.STRONGEST)]
    bucket = bench.one(1)
    for lane, shape in {"clean": LINK, "troubled": LINK + TROUBLES}.items():
        bench.say(f" {lane}")
        with bench.server(*shape) as server:
            job = contest.job_for(bucket, server, bench.target)

            def compare(peer, job, server=server) -> dict:
                contest.check(peer, job, server)
                return {}

            held = [
                contest.Contest(server, job, some, "plain", count, then=compare, verify=False).run(bench.say)
                for some, count in ((contenders, together), ([peers.OURS], alone))
            ]
        samples = {peer.name: [it for part in held for it in part.samples.get(peer.name, [])] for peer in contenders}
        failures = {name: why for part in held for name, why in part.failures.items()}
        result.notes += [f"{lane}: {name} failed: {why}" for name, why in failures.items()]
        for name, taken in samples.items():
            if taken:
                result.rows.append(Row(name, lane, figures(taken, job.size), name == "tonnage"))
        result.verdicts.append(at_most(f"{lane}: runs of tonnage that failed or left other bytes", "tonnage" in failures, 0, "runs"))
    result.notes.append(f"{together} runs of each, and {alone} more of tonnage; with fewer than 100 the p99 is close to the slowest run")
    for row in result.rows:
        row.figures["p99 ÷ p50"] = [tail(row.figures["exit s"])]
    clean = result.row("tonnage", "clean")
    stretch = {lane: result.row("tonnage", lane).median("p99 ÷ p50") for lane in ("clean", "troubled")}
    ratio = stretch["troubled"] / stretch["clean"]
    result.verdicts.append(at_most("p99 ÷ p50 of runs, troubled ÷ clean", ratio, 1.15, of=[clean], figure="exit s"))
    return result


def tail(times: list[float]) -> float:
    """p99 over p50, interpolated between runs."""
    return statistics.quantiles(times, n=100, method="inclusive")[98] / statistics.median(times)
