"""Kubelet's calls to the driver, made by hand on the node (`e2e/src/bin/kubelet.rs`): what whoever reaches the driver's socket can say."""

import shutil

from . import programs
from .cluster import KUBELET, Cluster
from .command import Ended
from .manifests import DRIVER
from .paths import INSIDE, STATE

PROGRAM = "kubelet"
COPY = "kubelet-emulator"
"""Its name beside the directory of the real kubelet."""
SOCKET = f"{KUBELET}/plugins/{DRIVER}/csi.sock"
VOLUME = "weights"
"""How it names the volume in a pod."""


def install() -> None:
    """Puts the program where the cluster's namespaces show it wherever the repository lies."""
    shutil.copy2(programs.of_tests(PROGRAM), STATE / COPY)


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
