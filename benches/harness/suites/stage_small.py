"""How many files per second of a set of 10,000 files of 256 KiB reach the local disk, durable?

Asked on the disk that is measured and on an XFS of its own: ext4 without a journal searches past every inode that was freed in the last
minutes, which the clean-up before each run makes the price of every file, whoever writes it.
"""

from contextlib import contextmanager
from dataclasses import replace

from .. import contest, peers
from ..loop_disk import xfs
from ..namespace import Namespace
from ..suite import Bench, Result, at_least, rows_of

NAME = "stage-small"
PEERS = [peers.S5CMD_TUNED, peers.RCLONE_SMALL, peers.CRT]
DEFAULTS = [peers.S5CMD, peers.RCLONE, peers.CRT_DIRECT]


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    bucket = bench.small(2_000 if bench.quick else 10_000)
    contenders = [peers.OURS, *PEERS, *([] if bench.few else DEFAULTS)]
    with bench.server() as server:
        native = contest.job_for(bucket, server, bench.target)
        for lane in bench.lanes:
            compete(bench, result, lane, contest.Contest(server, native, contenders, lane, bench.reps))
            with own_disk(bench, 3 * native.size) as job:
                compete(bench, result, f"{lane}, XFS", contest.Contest(server, replace(native, target=job), contenders, lane, bench.reps))
    return result


@contextmanager
def own_disk(bench: Bench, room: int):
    with Namespace() as space, xfs(space, bench.root, room) as disk:
        yield disk / "target"


def compete(bench: Bench, result: Result, place: str, held: contest.Contest) -> None:
    held.run(bench.say)
    result.notes += [f"{place}: {name} failed: {why}" for name, why in held.failures.items()]
    rows = [replace(row, lane=place) for row in rows_of(held, {"tonnage"})]
    for row in rows:
        row.figures["files/s"] = [len(held.job.files) / it for it in row.figures["durable s"]]
    result.rows += rows
    ours = result.row("tonnage", place)
    peer = max((row for row in rows if row is not ours), key=lambda row: row.median("files/s"))
    ratio = ours.median("files/s") / peer.median("files/s")
    result.verdicts.append(at_least(f"{place}: files/s, ÷ {peer.name}", ratio, 1.2, of=[ours, peer], figure="files/s"))
