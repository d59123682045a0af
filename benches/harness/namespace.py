"""A private mount namespace, so that whatever is mounted in it is gone when it ends. Needs root."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Namespace:
    """Lives as long as its keeper, a process that only waits; use it in a `with`."""

    def __init__(self):
        command = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", "echo ready; exec cat"]
        self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._keeper.stdout.readline().strip() != "ready":
            raise RuntimeError("no mount namespace: this suite needs root")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._keeper.stdin.close()
        self._keeper.wait()

    def inside(self, command: list) -> list:
        """The command that runs another one in here; the process is the other one's after the `exec`."""
        return ["nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt", "--", *map(str, command)]

    def run(self, *command) -> str:
        """Runs a command in here to its end; returns its standard output."""
        done = subprocess.run(self.inside(list(command)), capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-400:]}")
        return done.stdout

    def seen(self, path: Path) -> Path:
        """How a path in here is reached from outside."""
        return Path(f"/proc/{self._keeper.pid}/root") / path.relative_to("/")

    def within(self, seen: Path) -> Path:
        """How a path that `seen` gave is called in here."""
        return Path("/") / seen.relative_to(f"/proc/{self._keeper.pid}/root")

    def share(self, directory: Path) -> None:
        """Makes a directory a shared mount, as kubelet's directory is one on a node."""
        directory.mkdir(parents=True, exist_ok=True)
        self.run("mount", "--bind", directory, directory)
        self.run("mount", "--make-shared", directory)


@contextmanager
def memory(place: Path) -> Iterator[Path]:
    """An empty directory that no disk is behind, as seen from outside of the namespace in which it is mounted on `place`."""
    place.mkdir(exist_ok=True)
    with Namespace() as space:
        space.run("mount", "-t", "tmpfs", "-o", "size=50%", place.name, place)
        yield space.seen(place)
    place.rmdir()
