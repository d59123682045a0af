"""How long after a kill is a node ready again that holds 1,000,000 objects and 100 live mounts?

Ready is `/readyz`, which says what `Probe` says. Objects are distinct files of 8 bytes, each under its true BLAKE3. The cache is on an
XFS of its own in a sparse file: where a filesystem discards what is freed, removing a million files takes longer than all the rest.
"""

import os
import time
from pathlib import Path

import numpy

from .. import machine
from ..blake3 import hashes_of_words
from ..loop_disk import xfs
from ..namespace import Namespace
from ..node import Node
from ..suite import Bench, Result, Row, at_most

NAME = "restart"
MOUNTS = 100
DISK = 8 * machine.GIB
EPOCH_1980 = 315_532_800


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    count = 20_000 if bench.quick else 1_000_000
    bucket = bench.small(20, 4096)
    times, lost = [], []
    with bench.server() as server, Namespace() as space, xfs(space, bench.root, DISK, sparse=True) as disk:
        with Node(bench.root / "node", server, space=space, cache=space.within(disk) / "cache") as node:
            for index in range(MOUNTS):
                node.publish(f"pod-{index}", bucket)
            node.stop()
            begun = time.monotonic()
            fill(disk / "cache" / "objects", count)
            bench.say(f"  {count:,} objects written in {time.monotonic() - begun:.0f} s")
            node.start()
            for _ in range(max(2, bench.reps)):
                node.kill()
                times.append(node.start())
                lost.append(MOUNTS - (len(node.mounts()) - 1))
                bench.say(f"  ready after {times[-1]:.3f} s")
    row = Row("tonnage", f"{count:,} objects, {MOUNTS} mounts", {"ready s": times, "mounts lost": lost})
    result.rows.append(row)
    result.verdicts += [
        at_most("slowest to be ready after a kill", max(times), 2, "s"),
        at_most("mounts that did not live on", max(lost), 0, "mounts"),
    ]
    return result


def fill(objects: Path, count: int) -> None:
    """Writes objects whose content is their number, read-only and of the time that the store gives."""
    words = numpy.arange(count, dtype="<u8") + (1 << 40)
    names = hashes_of_words(words)
    content = words.tobytes()
    directories = {}
    for name in [f"{index:02x}" for index in range(256)]:
        (objects / name).mkdir(exist_ok=True)
        directories[name] = os.open(objects / name, os.O_RDONLY)
    for index in range(count):
        name = names[32 * index : 32 * index + 32].hex()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444, dir_fd=directories[name[:2]])
        os.write(fd, content[8 * index : 8 * index + 8])
        os.utime(fd, (EPOCH_1980, EPOCH_1980))
        os.close(fd)
    for directory in directories.values():
        os.close(directory)
