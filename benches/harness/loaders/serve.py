"""What the loaders have in common: each load has a fresh process, which has imported everything and holds its device before it is asked.

Prints `ready`, then for a line `PATH` one line `SECONDS SUM`, and so on: the time from the line to the last byte summed, and the sum
of all little-endian 64-bit words modulo 2⁶⁴. The one argument is the device, `cpu` or `cuda:0`.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable

MODULUS = 1 << 64
DEVICE = sys.argv[1]


def serve(load: Callable[[str], int]) -> None:
    """Answers until the input ends. `load` gives the sum of every word below a path."""
    import torch

    torch.set_num_threads(1)  # a pool of threads would not live through a fork
    is_open = True
    while is_open:
        child = os.fork()
        if child == 0:
            os._exit(_one(load))
        _, status = os.waitpid(child, 0)
        is_open = os.waitstatus_to_exitcode(status) == 0


def _one(load: Callable[[str], int]) -> int:
    """One load; 1 where there is none left to do. A process of its own meets a GPU that nobody has used in it."""
    import torch

    if DEVICE != "cpu":
        words(torch.zeros(1 << 20, dtype=torch.float16, device=DEVICE))
    print("ready", flush=True)
    path = _line()
    if not path:
        return 1
    start = time.monotonic()
    try:
        total = load(path) % MODULUS
        print(time.monotonic() - start, total, flush=True)
    except Exception:
        traceback.print_exc()
        print("failed", flush=True)
    return 0


def _line() -> str:
    """The next line of the input, and nothing behind it: that is for the next process."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line.decode().rstrip("\n")


def words(tensor) -> int:
    """The sum of a tensor's 64-bit words, wherever it lies."""
    import torch

    return int(tensor.view(torch.int64).sum())


def files(path: str) -> list[str]:
    """The safetensors files below a directory."""
    found = [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
    return sorted(name for name in found if name.endswith(".safetensors"))
