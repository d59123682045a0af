"""What the machine allows, measured in the same run: network discard, disk, hash, and the model of both cores."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import machine, measure
from .server import Server


@dataclass
class Limits:
    """Seconds for the whole of a job. `floor` is what no stager can beat: the slowest of network, disk, and all
    processor work that must be done (receive, hash, serve) on all cores."""

    network: float
    network_cpu: float
    served_cpu: float
    disk: float
    disk_cpu: float
    hash: float
    """On one core, of memory."""
    b3sum: float
    """What checking costs who has not checked: `b3sum` over the file, on all cores, with the file in memory."""
    cores: int

    @property
    def work(self) -> float:
        return (self.network_cpu + self.served_cpu + self.disk_cpu + self.hash) / self.cores

    @property
    def floor(self) -> float:
        return max(self.network, self.disk, self.work)

    def to_json(self, size: int) -> dict[str, float]:
        per_gb = 1e9 / size
        return {
            "network s": self.network,
            "disk s": self.disk,
            "hash s": self.hash,
            "b3sum s": self.b3sum,
            "processor model s": self.work,
            "limit s": self.floor,
            "discard cpu s/GB": self.network_cpu * per_gb,
            "disk cpu s/GB": self.disk_cpu * per_gb,
            "hash cpu s/GB": self.hash * per_gb,
            "server cpu s/GB": self.served_cpu * per_gb,
        }


def measured(server: Server, path: str, size: int, directory: Path, repeats: int = 3) -> Limits:
    """The best of some tries of each: a limit is what can be, not what usually is. `path` is /bucket/key."""
    machine.warm(server_file(server, path))
    networks = []
    for connections in [2, 4, 8][:repeats]:
        before = server.cpu_seconds()
        sample = measure.run([machine.BENCH, "network", server.address, path, size, "--connections", connections], server, None)
        networks.append((sample.wall, sample.cpu, server.cpu_seconds() - before))
    network, network_cpu, served = min(networks)
    disks = []
    for writers in [2, 4, 8][:repeats]:
        sample = measure.run([machine.BENCH, "disk", directory / "limit", size, "--writers", writers], None, None)
        disks.append((sample.wall, sample.cpu))
    disk, disk_cpu = min(disks)
    checks = [measure.run(["b3sum", server_file(server, path)], None, None).wall for _ in range(repeats)]
    hashed = min(float(subprocess.run([machine.BENCH, "hash", str(size)], capture_output=True, text=True, check=True).stdout) for _ in range(repeats))
    return Limits(network, network_cpu, served, disk, disk_cpu, hashed, min(checks), os.cpu_count() or 1)


def server_file(server: Server, path: str) -> Path:
    return Path(server.root) / path.lstrip("/")
