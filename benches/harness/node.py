"""A running `tonnage node` with the server's buckets as its sources, and kubelet's calls to it.

A source is called like its bucket. Mounts are made in a private namespace, kubelet's directory is shared in it as on a real
node, and a node that was killed can be started again over the same store and mounts.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import contest, machine
from .measure import Failed
from .namespace import Namespace
from .server import Server

KUBELET = machine.BINARIES / "kubelet"


@dataclass(frozen=True)
class Volume:
    """A published volume; `view` is its target as seen from outside of the namespace."""

    id: str
    target: Path
    view: Path


class Node:
    """A node service over `directory`; use it in a `with`. `flags` go to `tonnage node`, after `--cache-dir`."""

    def __init__(self, directory: Path, server: Server, *flags: str, space: Namespace | None = None, cache: Path | None = None):
        self.directory, self.flags = directory, flags
        self._own = Namespace() if space is None else None
        self.space = space or self._own
        self.cache = cache or directory / "cache"
        self.kubelet_dir = directory / "kubelet"
        self.socket = directory / "node.sock"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "sources.toml").write_text("".join(_source(it, server) for it in sorted(server.root.iterdir()) if it.is_dir()))
        self.space.share(self.kubelet_dir)
        self.address = f"127.0.0.1:{_free_port()}"
        self.process: subprocess.Popen | None = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        for mount in reversed(self.mounts()):
            self.space.run("umount", mount)
        if self._own:
            self._own.__exit__()
        contest.clear(self.directory)

    def start(self) -> float:
        """Starts the service and returns the seconds until `/readyz`, which is what Probe says, answers 200."""
        command = [machine.TONNAGE, "node", "--endpoint", f"unix://{self.socket}", "--sources", self.directory / "sources.toml"]
        command += ["--cache-dir", self.cache, "--kubelet-dir", self.kubelet_dir, "--node-id", "bench"]
        command += ["--http-address", self.address, *self.flags]
        with (self.directory / "node.log").open("a") as log:
            start = time.monotonic()
            self.process = subprocess.Popen(self.space.inside(command), stdout=log, stderr=log)
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() - start > 120:
                raise Failed(f"the node is not ready: {self.log()}")
            time.sleep(0.002)
        return time.monotonic() - start

    def stop(self) -> None:
        """Ends the service as a node does: mounts stay."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def kill(self) -> None:
        """Ends the service without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def publish(self, name: str, source: str, path: str = "") -> Volume:
        """What kubelet does for a pod of this name; takes the time of one start of a process, too."""
        place = ["--node-socket", self.socket, "--kubelet-dir", self.kubelet_dir]
        out = _kubelet("publish", *place, "--name", name, "--source", source, "--path", path)
        volume, target = out.split(" ", 1)
        return Volume(volume, Path(target), self.space.seen(Path(target)))

    def unpublish(self, volume: Volume) -> None:
        _kubelet("unpublish", "--node-socket", self.socket, "--volume-id", volume.id, "--target", volume.target)

    def burst(self, source: str, count: int, parallel: int = 1, path: str = "") -> dict[str, list[float]]:
        """Publishes and unpublishes `count` times by `tonnage-bench publish`; latencies of both in microseconds."""
        command = [machine.BENCH, "publish", "--socket", self.socket, "--kubelet-dir", self.kubelet_dir, "--source", source, "--path", path]
        command += ["--count", count, "--parallel", parallel]
        done = subprocess.run([str(it) for it in command], capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"tonnage-bench publish: {done.stderr.strip()[-400:]}")
        return json.loads(done.stdout)

    def anonymous_bytes(self) -> int:
        return machine.anonymous_bytes(self.process.pid)

    def cpu_seconds(self) -> float:
        return machine.process_seconds(self.process.pid)

    def mounts(self) -> list[str]:
        """Mount points below kubelet's directory, itself among them."""
        points = [line.split()[4] for line in self.space.run("cat", "/proc/self/mountinfo").splitlines()]
        return [point for point in points if f"{point}/".startswith(f"{self.kubelet_dir}/")]

    def log(self) -> str:
        return (self.directory / "node.log").read_text()[-600:]

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.address, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def _source(bucket: Path, server: Server) -> str:
    text = f'[[source]]\nname = "{bucket.name}"\nurl = "s3://{bucket.name}"\nendpoint = "{server.endpoint}"\naddressing = "path"\n'
    if server.ca:
        text += f'ca_bundle = "{server.ca}"\n'
    return text + 'auth = "anonymous"\nallow_http = true\nallow_loopback = true\n\n'


def _kubelet(*arguments) -> str:
    done = subprocess.run([KUBELET, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, "RUST_BACKTRACE": "0"})
    if done.returncode != 0:
        raise Failed(f"kubelet {arguments[0]}: {done.stderr.strip()[-400:]}")
    return done.stdout.strip()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
