"""Kubelet's calls to the driver, made by hand on the node (`e2e/src/bin/kubelet.rs`): what whoever reaches the driver's socket can say."""

import json
import os
import shutil
from pathlib import Path

from .cluster import KUBELET, Cluster
from .command import Ended, output, shown
from .manifests import DRIVER
from .paths import INSIDE, REPOSITORY, STATE

PROGRAM = "kubelet"
COPY = "kubelet-emulator"
"""Its name beside the directory of the real kubelet."""
SOCKET = f"{KUBELET}/plugins/{DRIVER}/csi.sock"
VOLUME = "weights"
"""How it names the volume in a pod."""


def build() -> Path:
    """The program: KUBELET_BIN, what lies beside the driver that TONNAGE_BIN names, or what cargo builds."""
    if given := os.environ.get("KUBELET_BIN"):
        return Path(given).absolute()
    if (given := os.environ.get("TONNAGE_BIN")) and (beside := Path(given).absolute().parent / PROGRAM).exists():
        return beside
    manifest = ["--manifest-path", REPOSITORY / "Cargo.toml"]
    shown(["cargo", "build", "--quiet", "--release", *manifest, "--package", "tonnage-e2e", "--bin", PROGRAM])
    metadata = json.loads(output(["cargo", "metadata", "--format-version=1", "--no-deps", *manifest]))
    return Path(metadata["target_directory"]) / "release" / PROGRAM


def install() -> None:
    """Puts the program where the cluster's namespaces show it wherever the repository lies."""
    shutil.copy2(build(), STATE / COPY)


def publish(cluster: Cluster, pod: dict, source: str, path: str, tokens: str, seconds: int) -> Ended:
    """Asks the driver for one inline volume more of a pod of the cluster, with anybody's tokens. Where it is refused, no directory is left
    that kubelet would not remove with the pod."""
    metadata = pod["metadata"]
    who = ["--name", metadata["name"], "--uid", metadata["uid"], "--namespace", metadata["namespace"]]
    who += ["--service-account", pod["spec"]["serviceAccountName"], "--tokens"]
    where = ["--node-socket", SOCKET, "--kubelet-dir", KUBELET, "--seconds", seconds]
    ended = cluster.attempt(INSIDE / COPY, "publish", *where, *who, "--source", source, "--path", path, text=tokens)
    cluster.attempt("rmdir", f"{KUBELET}/pods/{metadata['uid']}/volumes/kubernetes.io~csi/{VOLUME}")
    return ended
