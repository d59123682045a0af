"""What the machine does: processor time, memory of processes, what is cached, and making runs alike.

Processor time is the machine's (`/proc/stat`) less the server's, so that kernel workers count for whoever caused them.
"""

import contextlib
import ctypes
import os
import subprocess
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
GIB = 1 << 30
BINARIES = Path(os.environ.get("CARGO_TARGET_DIR") or Path(__file__).parents[2] / "target") / "release"
BENCH = BINARIES / "tonnage-bench"
TONNAGE = BINARIES / "tonnage"
HOT = 5e9  # bytes per second of touched memory that count as hot
_libc = ctypes.CDLL(None, use_errno=True)


def cpu_seconds() -> float:
    """Seconds that all processors have worked: user, nice, system, interrupts; neither idle nor stolen."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / TICKS


def stolen_seconds() -> float:
    """Seconds that the host gave to others."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / TICKS


def process_seconds(pid: int) -> float:
    """Seconds that a process and its threads have worked."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process; 0 once it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def open_sockets(pid: int) -> int:
    """How many sockets a process has open."""
    return sum(os.readlink(entry.path).startswith("socket:") for entry in os.scandir(f"/proc/{pid}/fd"))


def descendants(pid: int) -> list[int]:
    """A process and all that it started."""
    found, left = [], [pid]
    while left:
        one = left.pop()
        found.append(one)
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                left += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


class PeakMemory(threading.Thread):
    """Watches the anonymous memory of a process and its children until stopped; `peak` is in bytes."""

    def __init__(self, pid: int, every: float = 0.05):
        super().__init__(daemon=True)
        self.pid, self.every, self.peak = pid, every, 0
        self._ended = threading.Event()
        self.start()

    def run(self):
        while not self._ended.wait(self.every):
            self.peak = max(self.peak, sum(map(anonymous_bytes, descendants(self.pid))))

    def stop(self) -> int:
        self._ended.set()
        self.join()
        return self.peak


def cached_bytes(path: Path) -> int:
    """Bytes of a file that are in the page cache."""
    out = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)], capture_output=True, text=True, check=True)
    return int(out.stdout.strip() or 0)


def evict(path: Path) -> None:
    """Takes the files below a path out of the page cache, and fails if they stay."""
    files = [path] if path.is_file() else [it for it in path.rglob("*") if it.is_file()]
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # EINVAL where a filesystem is read-only by nature
                os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    largest = max(files, key=lambda it: it.stat().st_size, default=None)
    if largest and cached_bytes(largest) > largest.stat().st_size // 50:
        raise RuntimeError(f"{largest} stays in the page cache")


def warm(path: Path) -> None:
    """Reads the files below a path into the page cache: the server is not to wait for its disk."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(_SCRATCH):
                    pass


_SCRATCH = bytearray(1 << 20)


def sync(path: Path) -> None:
    """`syncfs` of the filesystem that holds `path`."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if _libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(fd)


def available_bytes() -> int:
    """What the kernel says is to be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no MemAvailable")


def heat(size: int, passes: int = 6) -> float:
    """Touches and frees memory until a pass is quick; returns the last pass's bytes per second."""
    size = min(size, available_bytes() - 2 * GIB)
    rate = 0.0
    for _ in range(passes):
        rate = float(subprocess.run([BENCH, "heat", str(size)], capture_output=True, text=True, check=True).stdout)
        if rate >= HOT:
            break
    return rate


def idle(seconds: float) -> None:
    """Lets free pages go back to the host."""
    time.sleep(seconds)


def description() -> dict:
    """What a reader needs to know about this machine."""
    cpu = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    widest = next((it for it in ("avx512f", "avx2", "sse4_1") if f" {it}" in flags), "none")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    return {
        "cpu": f"{len(cpu)} × {cpu[0]}",
        "vectors": widest,
        "memory_bytes": memory,
        "kernel": os.uname().release,
        "load_before": os.getloadavg()[0],
    }
