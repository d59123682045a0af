"""What the loaders have in common: everything is imported first, then each line of input is a load in a fresh process.

Prints `ready`, then for every line `PATH` one line `SECONDS SUM`: the time from the line to the last byte summed, and the sum
of all little-endian 64-bit words modulo 2⁶⁴.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable

MODULUS = 1 << 64


def serve(load: Callable[[str], int]) -> None:
    """Answers until the input ends. `load` gives the sum of every word below a path."""
    import torch

    torch.set_num_threads(1)  # a pool of threads would not live through a fork
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                total = load(line.rstrip("\n")) % MODULUS
                print(time.monotonic() - start, total, flush=True)
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if status != 0:
            print("failed", flush=True)


def words(tensor) -> int:
    """The sum of a tensor's 64-bit words."""
    import torch

    return int(tensor.view(torch.int64).sum())


def files(path: str) -> list[str]:
    """The safetensors files below a directory."""
    found = [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
    return sorted(name for name in found if name.endswith(".safetensors"))
