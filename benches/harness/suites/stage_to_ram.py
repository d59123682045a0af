"""How long from the request until every tensor of a 4 GiB model is in memory, and which pair of stager and loader is quickest?

Every stager is tried with every loader once; the quickest pairs of either kind go on. Mapped tensors and copied ones are judged
apart. `tonnage` is a node service that is asked to publish, `tonnage pull` the command line. Nobody syncs.
"""

from .. import finals, pairs, peers
from ..suite import Bench, Result

NAME = "stage-to-ram"
QUICK = ([peers.PULL, peers.RCLONE_TUNED, peers.CRT_DIRECT], [pairs.MAPPED, pairs.READ_COPY])
STAGERS = [peers.PULL, peers.RCLONE_TUNED, peers.RCLONE, peers.S5CMD_TUNED, peers.CRT_DIRECT, peers.CRT]
LOADERS = [pairs.MAPPED, pairs.READ_MMAP, pairs.READ_COPY, pairs.RUNAI, pairs.FAST]


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    stagers, loaders = QUICK if bench.few else (STAGERS, LOADERS)
    finals.run(bench, result, stagers, loaders, pairs.RUNAI)
    return result
