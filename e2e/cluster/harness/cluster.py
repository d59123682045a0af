"""The cluster as a thing that is built, started, entered and removed; `../node/` has the scripts that do it."""

import re
import uuid
from dataclasses import dataclass

from .command import Ended, attempt, output, shown
from .interrupt import held_back
from .outcome import until
from .paths import NODE, STATE

KUBELET = "/var/lib/kubelet"
FIRST, SECOND = "node1", "node2"
"""Names of the nodes; the second is there only where a scenario adds it."""


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo. Its number is its own for as long as it is there."""

    number: str
    point: str
    options: frozenset[str]

    @classmethod
    def parse(cls, line: str) -> "Mount":
        fields = line.split()
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        return cls(fields[0], point, frozenset(fields[5].split(",")))

    @property
    def pod(self) -> str:
        """Uid of the pod whose volume is mounted; empty where it is no pod's."""
        below = self.point.removeprefix(f"{KUBELET}/pods/")
        return "" if below == self.point else below.split("/")[0]


class Cluster:
    """The cluster, as seen from one of its nodes. Each node is in namespaces of its own; kubectl and helm work on the first."""

    def __init__(self, node: str = FIRST):
        self._at = ["env", f"TONNAGE_E2E_NODE={node}"]

    def build(self) -> None:
        """Builds what is not built yet."""
        shown([NODE / "build.sh"])

    def is_up(self) -> bool:
        return (STATE / "ready").exists() and self.attempt("true").code == 0

    def start(self) -> None:
        _begin(NODE / "up.sh")

    def remove(self) -> None:
        output([NODE / "down.sh", "--remove"])

    def add_node(self) -> None:
        """Starts the second node, and returns when it is Ready."""
        _begin(NODE / "node2.sh", "start")

    def remove_node(self) -> None:
        """Ends the second node's processes, and removes what they have made outside of their namespaces."""
        output([NODE / "node2.sh", "stop"])

    def inside(self, *command, text: str = "", seconds: float = 120) -> str:
        """What a command prints that runs in the cluster's namespaces; it has to end well."""
        return output([*self._at, NODE / "in.sh", *command], text, seconds)

    def attempt(self, *command, text: str = "", seconds: float = 120) -> Ended:
        """Runs a command in the cluster's namespaces, however it ends."""
        return attempt([*self._at, NODE / "in.sh", *command], text, seconds)

    def start_component(self, name: str, *command) -> None:
        """Starts a part of Kubernetes by its name, or any command under a name."""
        output([*self._at, NODE / "ctl.sh", "start", name, *command])

    def kill_component(self, name: str) -> None:
        """kill -9."""
        output([*self._at, NODE / "ctl.sh", "stop", name])

    def mounts(self) -> list[Mount]:
        """All mounts as the node's own processes see them."""
        return [Mount.parse(line) for line in self.inside("cat", "/proc/self/mountinfo").splitlines()]

    def volume_mounts(self) -> list[Mount]:
        """Mounts of CSI volumes below kubelet's directory, binds of their subdirectories included."""
        ours = (f"{KUBELET}/pods/", f"{KUBELET}/plugins/")
        return [it for it in self.mounts() if it.point.startswith(ours) and ("kubernetes.io~csi" in it.point or "volume-subpaths" in it.point)]

    def pod_directories(self) -> set[str]:
        """Uids of the pods that have a directory in kubelet's."""
        return set(self.inside("ls", f"{KUBELET}/pods").split())

    def files(self, *arguments) -> list[str]:
        """What find prints."""
        return self.inside("find", *arguments).splitlines()

    def free(self, path: str) -> int:
        """Bytes of a file system that its unprivileged users can have."""
        blocks, size = self.inside("stat", "--file-system", "--format=%a %S", path).split()
        return int(blocks) * int(size)

    def take_down(self) -> None:
        """Ends the node as a power cut does: kubelet, the runtime, every container and every mount of theirs. What is on its
        disks stays; the control plane and the store are other machines'."""
        self.inside("/var/lib/conf/reboot.sh", "down")

    def boot(self) -> str:
        """Starts the node that was taken down with fresh mounts of the same disks; returns its new boot id."""
        boot_id = str(uuid.uuid4())
        (STATE / "boot_id").write_text(f"{boot_id}\n")
        self.inside("/var/lib/conf/reboot.sh", "up")
        return boot_id

    def return_to_machine(self) -> None:
        """Gives the node the boot id of the machine again; what its containers have been told, they keep."""
        self.inside("/var/lib/conf/reboot.sh", "back")

    def wait_for_api(self, seconds: float = 60) -> None:
        until("the API server answers", seconds, lambda: self.attempt("kubectl", "get", "--raw", "/readyz", "--request-timeout=2s").code == 0)


def _begin(*command) -> None:
    """Starts a node, and ends only when it is known which processes that were: whoever is interrupted can end them then."""
    with held_back():
        output(["setsid", "--wait", *command], seconds=200)
