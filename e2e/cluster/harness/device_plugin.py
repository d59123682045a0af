"""Device plugins that register with the real kubelet and have devices of no use (`e2e/src/bin/device-plugin`)."""

import shutil

from . import programs
from .cluster import FIRST, Cluster
from .kubectl import Kubectl
from .outcome import until
from .paths import INSIDE, STATE

PROGRAM = "device-plugin"
SOCKETS = "/var/lib/kubelet/device-plugins"
VARIABLE = "DEVICES"
"""Where a container finds the names of the devices that kubelet has given it, with commas between them."""


class DevicePlugin:
    """One resource of the first node, from `start` to `stop`."""

    def __init__(self, cluster: Cluster, kube: Kubectl, resource: str, devices: int):
        self._cluster, self._kube = cluster, kube
        self._resource, self._devices = resource, devices
        self._name = resource.replace("/", "-")

    @staticmethod
    def install() -> None:
        """Puts the program where the cluster's namespaces show it wherever the repository lies."""
        # One that still runs keeps the file that it was started from.
        (STATE / PROGRAM).unlink(missing_ok=True)
        shutil.copy2(programs.of_tests(PROGRAM), STATE / PROGRAM)

    def start(self) -> None:
        """Returns when the scheduler can give the devices to pods."""
        self._cluster.start_component(self._name, INSIDE / PROGRAM, "--resource", self._resource, "--devices", self._devices, "--dir", SOCKETS)
        until(f"the node has {self._devices} {self._resource}", 60, lambda: self._allocatable() == self._devices, self._log)

    def stop(self) -> None:
        """kill -9, and what that leaves."""
        self._cluster.kill_component(self._name)
        self._cluster.inside("rm", "--force", f"{SOCKETS}/{self._name}.sock")

    def _allocatable(self) -> int:
        node = self._kube.get("", "node", FIRST)
        return int(node["status"]["allocatable"].get(self._resource, 0))

    def _log(self) -> str:
        return self._cluster.attempt("tail", "--lines=5", f"/var/log/{self._name}.log").out


def asking_for(manifest: dict, resource: str, count: int) -> dict:
    """The pod with that many devices for each of its containers."""
    containers = [{**it, "resources": {"limits": {resource: str(count)}}} for it in manifest["spec"]["containers"]]
    return {**manifest, "spec": {**manifest["spec"], "containers": containers}}
