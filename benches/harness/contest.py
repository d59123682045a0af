"""Lets peers do the same work in turns: shuffled anew for every repetition, each run on an emptied disk and memory that
was made alike, content verified after the clock has stopped."""

import random
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import machine, measure
from .measure import Failed, Sample
from .peers import Job, Peer
from .server import Server

LANES = {
    "hot": "memory touched and freed just before",
    "idle": "15 s of idleness before, so that free pages have gone back to the host",
    "plain": "memory as it comes",
}
IDLE_SECONDS = 15
MEMORY = "memory GB/s"
"""How quickly memory was touched just before a run of the hot lane."""


@dataclass
class Contest:
    """One question put to several peers."""

    server: Server
    job: Job
    peers: list[Peer]
    lane: str = "plain"
    reps: int = 5
    seed: int = 1
    verify: bool = True
    then: object = None
    """Called with (peer, job) after each run, before verification; what it returns goes into the sample's `extra`."""
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    """By peer: what it was called with last."""

    def run(self, say) -> "Contest":
        order = random.Random(self.seed)
        for rep in range(self.reps):
            turn = [peer for peer in self.peers if peer.name not in self.failures]
            order.shuffle(turn)
            for peer in turn:
                try:
                    sample = self._once(peer, rep)
                except Failed as failed:
                    self.failures[peer.name] = str(failed)
                    say(f"  {peer.name}: FAILED: {failed}")
                    continue
                self.samples.setdefault(peer.name, []).append(sample)
                say(f"  {rep + 1}/{self.reps} {peer.name:<22} {sample.wall:7.2f} s  durable {sample.synced:7.2f} s  cpu {sample.cpu:6.2f} s")
        shutil.rmtree(self.job.target, ignore_errors=True)
        return self

    def _once(self, peer: Peer, rep: int) -> Sample:
        job = self.job
        prepared = prepare(job, self.lane, self.server)
        command = [str(word) for word in peer.command(job)]
        self.commands[peer.name] = shlex.join(command)
        sample = measure.run(command, self.server, job.target, peer.env(job))
        sample.extra.update(prepared)
        if self.then:
            sample.extra.update(self.then(peer, job))
        if self.verify and rep == 0:
            check(peer, job, self.server)
        return sample


def prepare(job: Job, lane: str, server: Server) -> dict[str, float]:
    """An empty target, a warm source, nothing dirty, and memory as the lane wants it; how quick that is, where it was made quick."""
    clear(job.target)
    job.target.mkdir(parents=True)
    machine.sync(job.target)
    machine.warm(source_of(job))
    if lane == "hot":
        return {MEMORY: machine.heat(job.size * 3 // 2 + machine.GIB // 2) / 1e9}
    if lane == "idle":
        machine.idle(IDLE_SECONDS)
    return {}


def clear(target: Path) -> None:
    """Removes a directory although views in it are read-only."""
    if target.exists():
        subprocess.run(["chmod", "-R", "u+w", str(target)], check=False)
        shutil.rmtree(target)


DATA = Path()


def source_of(job: Job) -> Path:
    """The directory that the server serves the bucket from."""
    return DATA / job.bucket


def check(peer: Peer, job: Job, server: Server) -> None:
    """Compares what arrived with what the server holds: every byte of up to fifty files."""
    step = max(1, len(job.files) // 50)
    for key, _ in job.files[::step]:
        made = peer.output(job, key)
        if subprocess.run(["cmp", "--silent", str(made), str(source_of(job) / key)]).returncode != 0:
            raise Failed(f"{peer.name} left other bytes at {key}")


def job_for(bucket: str, server: Server, target: Path) -> Job:
    """All files of a bucket."""
    top = DATA / bucket
    files = tuple((str(it.relative_to(top)), it.stat().st_size) for it in sorted(top.rglob("*")) if it.is_file() and it.name != ".done")
    return Job(server.endpoint, bucket, target, files, server.ca)


def retarget(job: Job, target: Path) -> Job:
    return replace(job, target=target)
