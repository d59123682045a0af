"""How many files per second of a set of 10,000 files of 256 KiB reach the local disk, durable?"""

from .. import contest, peers
from ..suite import Bench, Result, at_least, rows_of

NAME = "stage-small"
PEERS = [peers.S5CMD_TUNED, peers.RCLONE_SMALL, peers.CRT]
DEFAULTS = [peers.S5CMD, peers.RCLONE, peers.CRT_DIRECT]


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    bucket = bench.small(2_000 if bench.quick else 10_000)
    contenders = [peers.OURS, *PEERS, *([] if bench.quick else DEFAULTS)]
    with bench.server() as server:
        job = contest.job_for(bucket, server, bench.target)
        for lane in ["plain"] if bench.quick else ["hot", "idle"]:
            held = contest.Contest(server, job, contenders, lane, bench.reps).run(bench.say)
            result.notes += [f"{lane}: {name} failed: {why}" for name, why in held.failures.items()]
            rows = rows_of(held, {"tonnage"})
            for row in rows:
                row.figures["files/s"] = [len(job.files) / it for it in row.figures["durable s"]]
            result.rows += rows
            ours = result.row("tonnage", lane)
            peer = max((row for row in rows if row is not ours), key=lambda row: row.median("files/s"))
            ratio = ours.median("files/s") / peer.median("files/s")
            result.verdicts.append(at_least(f"{lane}: files/s, ÷ {peer.name}", ratio, 1.2, of=[ours, peer], figure="files/s"))
    return result
