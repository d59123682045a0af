"""How long from the request until every tensor of a 4 GiB model is in a GPU's memory, and which pair of stager and loader is quickest?

As stage-to-ram, with loaders that leave the tensors on the first GPU and sum them there. Each load has a process of its own, which holds
the GPU before it is asked: to open one takes a second, whoever staged. The limit is one copy of as many bytes from pinned memory.
"""

import subprocess
import sys
from pathlib import Path

from .. import data, finals, pairs, peers
from ..suite import Bench, Result

NAME = "stage-to-gpu"
STAGERS = [peers.PULL, peers.RCLONE_TUNED, peers.S5CMD_TUNED, peers.CRT_DIRECT]
LOADERS = [pairs.MAPPED_TO_GPU, pairs.RUNAI_TO_GPU, pairs.FAST_TO_GPU]
COPY = """
import time, torch
pinned = torch.empty({size}, dtype=torch.uint8, pin_memory=True)
there = torch.empty({size}, dtype=torch.uint8, device="{device}")
for _ in range(3):
    torch.cuda.synchronize()
    start = time.monotonic()
    there.copy_(pinned)
    torch.cuda.synchronize()
    print(time.monotonic() - start)
"""


def run(bench: Bench) -> Result:
    result = Result(NAME, __doc__.splitlines()[0])
    if not Path("/dev/nvidiactl").exists():
        result.notes.append("not run: there is no GPU of NVIDIA here")
        return result
    name, seconds = _gpu()
    result.notes.append(f"on one {name}")
    finals.run(bench, result, STAGERS, LOADERS, pairs.RUNAI_TO_GPU)
    result.limits["copy of 1 GiB to the GPU s"] = seconds
    return result


def _gpu() -> tuple[str, float]:
    """What it is called, and the best of three copies of a gibibyte from pinned memory."""
    code = "import torch; print(torch.cuda.get_device_name(0))" + COPY.format(size=1024 * data.MIB, device=pairs.GPU)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, *seconds = done.stdout.splitlines()
    return name, min(map(float, seconds))
