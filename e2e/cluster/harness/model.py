"""Models that look like real ones: a few large files of weights that do not compress, and small ones beside them. The bytes follow
from a seed, and the sums are computed here, from what was generated and not from what was served."""

import hashlib
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Model:
    """Files of a directory, by their names in it."""

    directory: Path
    sums: dict[str, str]
    sizes: dict[str, int]

    @property
    def size(self) -> int:
        return sum(self.sizes.values())

    @property
    def checklist(self) -> str:
        """What `sha256sum -c` reads."""
        return "".join(f"{digest}  {name}\n" for name, digest in sorted(self.sums.items()))


def generate(directory: Path, seed: str, shards: int = 3, shard_size: int = 8 * MIB) -> Model:
    """Writes a model into a new directory; the same seed gives the same bytes."""
    source = random.Random(seed)
    for number in range(1, shards + 1):
        _write(directory / f"weights/model-{number:05}-of-{shards:05}.safetensors", _safetensors(source, shard_size))
    _write(directory / "config.json", json.dumps({"architectures": ["Test"], "seed": seed}).encode())
    _write(directory / "tokenizer.json", source.randbytes(100_003))
    return read(directory)


def with_new_file(model: Model, directory: Path, name: str, seed: str) -> Model:
    """A copy in which one file of the same size has other bytes."""
    shutil.copytree(model.directory, directory)
    _write(directory / name, random.Random(seed).randbytes(model.sizes[name]))
    return read(directory)


def read(directory: Path) -> Model:
    """The model in a directory."""
    files = {it.relative_to(directory).as_posix(): it.read_bytes() for it in sorted(directory.rglob("*")) if it.is_file()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return Model(directory, sums, {name: len(content) for name, content in files.items()})


def _safetensors(source: random.Random, size: int) -> bytes:
    """The length of the header, the header, one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + source.randbytes(size)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
