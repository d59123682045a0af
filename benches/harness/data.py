"""Generates what is staged: safetensors of random numbers, shards, and many small files.

Everything follows from a seed, so that a directory that is there already is used again. Bytes are random: neither
compression nor holes nor equal blocks help anybody.
"""

import json
import struct
from pathlib import Path

import numpy

MIB = 1 << 20


def _random(size: int, seed: int):
    """Yields `size` random bytes in pieces of at most 16 MiB."""
    generator = numpy.random.Generator(numpy.random.SFC64(seed))
    while size > 0:
        piece = min(size, 16 * MIB)
        yield generator.bytes(piece)
        size -= piece


def safetensors(path: Path, size: int, seed: int) -> None:
    """Writes a safetensors file of exactly `size` bytes: F16 tensors of at most 128 MiB and a header before them."""
    if path.exists() and path.stat().st_size == size:
        return
    head = 64 * 1024
    tensors, at = {}, 0
    while at < size - head:
        end = min(at + 128 * MIB, size - head)
        tensors[f"model.layers.{len(tensors)}.weight"] = {"dtype": "F16", "shape": [(end - at) // 2], "data_offsets": [at, end]}
        at = end
    text = json.dumps(tensors).encode()
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(struct.pack("<Q", head - 8) + text.ljust(head - 8))
        for piece in _random(size - head, seed):
            file.write(piece)
    part.rename(path)


def small(directory: Path, count: int, size: int, seed: int) -> None:
    """Writes `count` files of `size` random bytes, a thousand to a directory."""
    done = directory / ".done"
    if done.exists():
        return
    for index in range(count):
        path = directory / f"{index // 1000:03}" / f"{index:06}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(_random(size, seed * 1_000_003 + index)))
    done.touch()
