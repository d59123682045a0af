"""An XFS of its own, in a file on the disk that is measured, on a loop device with direct I/O: content is cached once, not below it
again, and cleaning up is one unlink.

The image loses its name as soon as the device holds it, and the device goes with its last mount, which is in a namespace: nothing
is left, however a run ends.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import contest, data
from .namespace import Namespace


@contextmanager
def xfs(space: Namespace, root: Path, room: int, sparse: bool = False) -> Iterator[Path]:
    """A directory with room for `room` bytes, as seen from outside of the namespace in which it is mounted. A sparse image is
    made at once, and slower when it is first written."""
    image, point = root / "loop.xfs", root / "xfs"
    point.mkdir(exist_ok=True)
    try:
        size = room + 256 * data.MIB
        if sparse:
            _run("truncate", "--size", size, image)
        else:
            _written(image, size)
        device = _attached(image)
        try:
            # Discarding would punch holes into the image.
            _run("mkfs.xfs", "-q", "-f", "-K", device)
            space.run("mount", device, point)
        finally:
            # A device that is mounted goes with its mount.
            _run("losetup", "--detach", device)
    finally:
        image.unlink(missing_ok=True)
    try:
        yield space.seen(point)
    finally:
        # After Ctrl-C the namespace may be gone, and the mount with it.
        with suppress(RuntimeError):
            space.run("umount", point)
        contest.clear(point)


def _written(image: Path, size: int) -> None:
    """Zeros that are on the disk: the first write of a preallocated block would cost the file system below its own journey."""
    blocks = -(-size // (4 * data.MIB))
    _run("dd", "if=/dev/zero", f"of={image}", "bs=4M", f"count={blocks}", "oflag=direct", "status=none")


def _attached(image: Path) -> str:
    device = _run("losetup", "--find", "--show", "--direct-io=on", "--sector-size", "4096", image)
    if Path("/sys/block", Path(device).name, "loop/dio").read_text().strip() != "1":
        _run("losetup", "--detach", device)
        raise RuntimeError(f"{device} refuses direct I/O")
    return device


def _run(*command) -> str:
    done = subprocess.run([str(it) for it in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-400:]}")
    return done.stdout.strip()
