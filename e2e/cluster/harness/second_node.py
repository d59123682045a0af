"""The second node: `../node/node2.sh` starts and ends it; here it becomes a part of Kubernetes and is taken out again, as an operator
does both."""

from pathlib import Path

from .cluster import SECOND, Cluster
from .command import output
from .install import NODE_PODS, takes_volumes
from .kubectl import Kubectl
from .manifests import DRIVER, SYSTEM
from .outcome import until
from .paths import STATE

HOME = (STATE / SECOND).resolve()
"""All that it has on this machine, apart from its logs and its cgroups."""


def on_node(node: str, manifest: dict) -> dict:
    """The pod, to be scheduled to that node."""
    return {**manifest, "spec": {**manifest["spec"], "nodeSelector": {"kubernetes.io/hostname": node}}}


class SecondNode:
    """`here` is the cluster as seen from it."""

    def __init__(self, cluster: Cluster, kube: Kubectl):
        self._cluster, self._kube = cluster, kube
        self.here = Cluster(SECOND)
        self._cgroups: list[Path] = []

    def add(self) -> None:
        """Starts it, and waits until the driver serves there as well."""
        self._cluster.add_node()
        self._cgroups = [Path(it) for it in (HOME / "cgroups").read_text().split()]
        until(f"the driver takes volumes on {SECOND}", 90, self._is_served, lambda: self._kube.attempt("describe", "node", SECOND).out[-2000:])

    def remove(self) -> None:
        """Takes it out of Kubernetes and ends it; what is gone already does not matter. It ends also where it cannot be drained."""
        try:
            if self._kube.find("", "node", SECOND):
                self._drain()
        finally:
            self._kube.delete("", "node", SECOND)
            if HOME.exists():
                self._cluster.remove_node()

    def _drain(self) -> None:
        self._kube("drain", SECOND, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s")
        self._kube.delete("", "node", SECOND)
        # The driver's pod, while there is a kubelet that can end it. No other is made for a node that is gone.
        for pod in self.pods():
            self._kube.delete(pod["metadata"]["namespace"], "pods", pod["metadata"]["name"])
        until(f"no pod is left on {SECOND}", 90, lambda: not self.pods(), self._names)

    def driver_pods(self) -> dict[str, dict]:
        """The driver's pods by their nodes."""
        return {it["spec"].get("nodeName", ""): it for it in self._kube.all(SYSTEM, "pods", NODE_PODS)}

    def pods(self) -> list[dict]:
        """All pods of the node, whoever's they are."""
        return [it for it in self._kube.all("*", "pods") if it["spec"].get("nodeName") == SECOND]

    def traces(self) -> list[str]:
        """What is left of it: in Kubernetes, in the first node's network, and on the machine."""
        kinds = {"node": "", "csinode": "", "nodecaches.tonnage.dev": "", "egressleases.tonnage.dev": "", "lease": "kube-node-lease"}
        found = [kind for kind, namespace in kinds.items() if self._kube.find(namespace, kind, SECOND)]
        found += [f"pod {name}" for name in self._names()]
        network = self._cluster.inside("ip", "-oneline", "link") + self._cluster.inside("ip", "route")
        found += [line for line in network.splitlines() if SECOND in line]
        found += [line for line in output(["ps", "-eo", "args"]).splitlines() if f"--hostname-override {SECOND}" in line]
        found += [str(it) for it in (HOME, *self._cgroups) if it.exists()]
        return found + [it for it in _loop_devices() if it.startswith(f"{HOME}/")]

    def _is_served(self) -> bool:
        pod = self.driver_pods().get(SECOND)
        registered = self._kube.find("", "csinode", SECOND) or {"spec": {}}
        names = [it["name"] for it in registered["spec"].get("drivers") or []]
        return DRIVER in names and pod is not None and takes_volumes(pod)

    def _names(self) -> list[str]:
        return [it["metadata"]["name"] for it in self.pods()]


def _loop_devices() -> list[str]:
    """Files behind loop devices."""
    return [it.read_text().strip() for it in Path("/sys/block").glob("loop*/loop/backing_file")]
