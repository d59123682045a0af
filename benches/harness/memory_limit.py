"""A control group with a memory limit, of either version, around some commands. Needs root."""

import contextlib
import os
import signal
import time
from pathlib import Path

ENTER = 'echo $$ >"$0/cgroup.procs" && exec "$@"'


class MemoryLimit:
    """Lives as long as its `with`; what still runs in it then is killed."""

    def __init__(self, limit: int):
        top, file = _controller()
        self.group = top / f"tonnage-bench-{os.getpid()}"
        self._file, self._limit = file, limit

    def __enter__(self):
        self.group.mkdir(exist_ok=True)
        (self.group / self._file).write_text(str(self._limit))
        return self

    def __exit__(self, *_):
        end = time.monotonic() + 5
        while self.group.exists():
            for pid in (self.group / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                self.group.rmdir()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def inside(self, command: list) -> list:
        """The command that runs another one in here; the process is the other one's after the `exec`."""
        return ["sh", "-c", ENTER, self.group, *command]


def _controller() -> tuple[Path, str]:
    """Where memory groups are made, and the file that takes their limit."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for _, point, kind, options, *_ in mounts:
        if kind == "cgroup" and "memory" in options.split(","):
            return Path(point), "memory.limit_in_bytes"
    for _, point, kind, *_ in mounts:
        if kind == "cgroup2" and "memory" in (Path(point) / "cgroup.controllers").read_text().split():
            (Path(point) / "cgroup.subtree_control").write_text("+memory")
            return Path(point), "memory.max"
    raise RuntimeError("no control group limits memory here")
