"""The programs of this repository that the cluster runs. Several clusters have them built before they are started."""

import json
import os
from pathlib import Path

from .command import output, shown
from .paths import REPOSITORY

MANIFEST = ["--manifest-path", REPOSITORY / "Cargo.toml"]


def driver() -> Path:
    """The driver's binary: TONNAGE_BIN, or what cargo builds."""
    if given := os.environ.get("TONNAGE_BIN"):
        return Path(given).absolute()
    return _built("tonnage-csi", "tonnage")


def of_tests(name: str) -> Path:
    """A program of the tests: what lies beside the driver that TONNAGE_BIN names, or what cargo builds."""
    if (given := os.environ.get("TONNAGE_BIN")) and (beside := Path(given).absolute().parent / name).exists():
        return beside
    return _built("tonnage-e2e", name)


def _built(package: str, name: str) -> Path:
    shown(["cargo", "build", "--quiet", "--release", *MANIFEST, "--package", package, "--bin", name])
    metadata = json.loads(output(["cargo", "metadata", "--format-version=1", "--no-deps", *MANIFEST]))
    return Path(metadata["target_directory"]) / "release" / name
