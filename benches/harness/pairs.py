"""Pairs of a stager and a loader: from the request until every word is in memory and summed.

A pair's time is the stager's until it exits, without a sync, and the loader's from the moment it is given the path. Loaders have
imported everything and hold their device before, so that an interpreter's start and a driver's count for nobody.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy

from . import contest, machine, measure
from .measure import Failed, Sample
from .node import Node
from .peers import Job, Peer
from .server import Server

SCRIPTS = Path(__file__).parent / "loaders"
SILENT = 600
"""Seconds after which a load is given up."""


@dataclass(frozen=True)
class Loader:
    """`kind` is `mmap` where the tensors are the page cache's pages, `copy` where they are the process's own memory, `gpu` where they lie on one."""

    name: str
    kind: str
    script: str = ""
    device: str = "cpu"

    @property
    def reads_all(self) -> bool:
        """Whether headers are summed as well: `tonnage-bench read` knows nothing of tensors."""
        return not self.script


MAPPED = Loader("safetensors", "mmap", "mapped")
READ_MMAP = Loader("mmap", "mmap")
READ_COPY = Loader("read", "copy")
RUNAI = Loader("Run:ai", "copy", "runai")
FAST = Loader("fastsafetensors", "copy", "fast")
GPU = "cuda:0"
MAPPED_TO_GPU = Loader("safetensors", "gpu", "mapped", GPU)
RUNAI_TO_GPU = Loader("Run:ai", "gpu", "runai", GPU)
FAST_TO_GPU = Loader("fastsafetensors", "gpu", "fast", GPU)


class Loading:
    """A loader that is ready to load; use it in a `with`."""

    def __init__(self, loader: Loader, server: Server):
        self.loader, self._process, self._is_ready = loader, None, False
        if loader.script:
            command = [sys.executable, SCRIPTS / f"{loader.script}.py", loader.device]
            env = {**os.environ, **_s3_env(server)}
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=env)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process:
            self._process.kill()
            self._process.wait()

    def wait(self) -> None:
        """Until there is a process for the next load, which has imported everything."""
        if self._process and not self._is_ready:
            self._is_ready = self._process.stdout.readline() == "ready\n"
            if not self._is_ready:
                raise Failed(f"{self.loader.name} does not start")

    def load(self, path: str) -> tuple[float, int]:
        """Loads what is below a path; returns seconds and the sum of all words."""
        if not self._process:
            command = [machine.BENCH, "read", "--lane", self.loader.kind, path]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SILENT)
            answer = done.stdout.split()[:2]
        else:
            self._is_ready = False
            print(path, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline().split()
        if len(answer) != 2:
            raise Failed(f"{self.loader.name} could not load {path}")
        return float(answer[0]), int(answer[1])


def _s3_env(server: Server) -> dict:
    return {
        "AWS_ENDPOINT_URL": server.endpoint,
        "RUNAI_STREAMER_S3_ENDPOINT": server.endpoint,
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@dataclass
class Pair:
    """`stage` is given the job and returns a sample and the path to load; None where the loader fetches by itself."""

    name: str
    kind: str
    loading: Loading
    stage: Callable[[Job, Server], tuple[Sample, str]] | None = None
    around: Callable[[Job, Server], Node] | None = None
    """What is to run before the clock starts: a node service."""
    verifies: bool = False


def pulled(peer: Peer, loading: Loading) -> Pair:
    """A command that stages, then a loader."""

    def stage(job: Job, server: Server) -> tuple[Sample, str]:
        sample = measure.run(peer.command(job), server, None, peer.env(job))
        return sample, str(peer.output(job, job.files[0][0]).parent)

    return Pair(f"{peer.name} → {loading.loader.name}", loading.loader.kind, loading, stage, verifies=peer.verifies)


def published(loading: Loading) -> Pair:
    """A running node that is asked to publish, then a loader that reads the volume."""

    def around(job: Job, server: Server) -> Node:
        return Node(job.target / "node", server)

    return Pair(f"tonnage → {loading.loader.name}", loading.loader.kind, loading, around=around, verifies=True)


def alone(loading: Loading) -> Pair:
    """A loader that reads from S3 into memory."""
    return Pair(f"{loading.loader.name} from S3", loading.loader.kind, loading)


def once(pair: Pair, job: Job, server: Server, lane: str, expected: dict[bool, int]) -> Sample:
    """One run; fails where the sum is not the expected one."""
    pair.loading.wait()
    prepared = contest.prepare(job, lane, server)
    sample = _once(pair, job, server, expected)
    sample.extra.update(prepared)
    return sample


def _once(pair: Pair, job: Job, server: Server, expected: dict[bool, int]) -> Sample:
    if pair.around is None:
        return _timed(pair, job, server, expected, pair.stage)
    with pair.around(job, server) as node:

        def stage(job: Job, server: Server) -> tuple[Sample, str]:
            memory = machine.PeakMemory(node.process.pid)
            start = time.monotonic()
            volume = node.publish("bench", job.bucket)
            return Sample(time.monotonic() - start, memory=memory.stop()), str(volume.view)

        return _timed(pair, job, server, expected, stage)


def _timed(pair: Pair, job: Job, server: Server, expected: dict[bool, int], stage) -> Sample:
    server.reset()
    meter = measure.Meter(server)
    sample, path = stage(job, server) if stage else (Sample(0.0), f"s3://{job.bucket}")
    staged = sample.wall
    seconds, total = pair.loading.load(path)
    if total != expected[pair.loading.loader.reads_all]:
        raise Failed(f"{pair.name} loaded other bytes")
    sent = server.counts()["object_bytes"]
    return Sample(staged + seconds, 0.0, meter.cpu(), sample.memory, sent, meter.stolen(), {"stage s": staged, "load s": seconds})


def sums(source: Path, head: int) -> dict[bool, int]:
    """What a load has to add up to: True with the file's header, False without."""
    words = numpy.memmap(source, dtype="<u8", mode="r")
    tensors = int(numpy.add.reduce(words[head // 8 :]))
    return {False: tensors, True: (tensors + int(numpy.add.reduce(words[: head // 8]))) % (1 << 64)}


def median(samples: list[Sample]) -> float:
    return statistics.median(it.wall for it in samples)
