"""Two neighbours of a stage: one reads cached files, one appends and syncs. DIRECTORY; until its input ends.

Prints `ready`, and at the end the p50 and p99 of both in milliseconds as JSON.
"""

import json
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path

READ = 256 << 10
PAUSES = {"read": 0.004, "fsync": 0.02}


def reads(files: list[Path]):
    """A random piece of a random file."""
    opened = [os.open(file, os.O_RDONLY) for file in files]
    sizes = [file.stat().st_size for file in files]
    while True:
        index = random.randrange(len(opened))
        offset = random.randrange(0, sizes[index] - READ)
        yield
        os.pread(opened[index], READ, offset)
        yield


def syncs(directory: Path):
    """Four KiB more, made durable."""
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    block = os.urandom(4096)
    while True:
        yield
        os.write(log, block)
        os.fsync(log)
        yield


def watch(steps, pause: float, times: list[float], ended: threading.Event) -> None:
    while not ended.wait(pause):
        next(steps)
        start = time.perf_counter()
        next(steps)
        times.append((time.perf_counter() - start) * 1000)


place = Path(sys.argv[1])
work = {"read": reads(sorted(place.glob("*.bin"))), "fsync": syncs(place)}
times: dict[str, list[float]] = {name: [] for name in work}
over = threading.Event()
threads = [threading.Thread(target=watch, args=(steps, PAUSES[name], times[name], over)) for name, steps in work.items()]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.read()
over.set()
for thread in threads:
    thread.join()
found = {}
for name, values in times.items():
    percentiles = statistics.quantiles(values, n=100, method="inclusive")
    found |= {f"{name} p50 ms": percentiles[49], f"{name} p99 ms": percentiles[98]}
print(json.dumps(found))
