"""The cluster as a thing that is built, started, entered and removed; `../node/` has the scripts that do it."""

import re
from dataclasses import dataclass

from .command import Ended, attempt, output, shown
from .outcome import until
from .paths import NODE, STATE

KUBELET = "/var/lib/kubelet"


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo."""

    point: str
    options: frozenset[str]

    @classmethod
    def parse(cls, line: str) -> "Mount":
        fields = line.split()
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        return cls(point, frozenset(fields[5].split(",")))


class Cluster:
    """One node, in namespaces of its own."""

    def build(self) -> None:
        """Builds what is not built yet."""
        shown([NODE / "build.sh"])

    def is_up(self) -> bool:
        return (STATE / "ready").exists() and attempt([NODE / "in.sh", "true"]).code == 0

    def start(self) -> None:
        output([NODE / "up.sh"], seconds=200)

    def remove(self) -> None:
        output([NODE / "down.sh", "--remove"])

    def inside(self, *command, text: str = "", seconds: float = 120) -> str:
        """What a command prints that runs in the cluster's namespaces; it has to end well."""
        return output([NODE / "in.sh", *command], text, seconds)

    def attempt(self, *command, text: str = "", seconds: float = 120) -> Ended:
        """Runs a command in the cluster's namespaces, however it ends."""
        return attempt([NODE / "in.sh", *command], text, seconds)

    def start_component(self, name: str, *command) -> None:
        """Starts a part of Kubernetes by its name, or any command under a name."""
        output([NODE / "ctl.sh", "start", name, *command])

    def kill_component(self, name: str) -> None:
        """kill -9."""
        output([NODE / "ctl.sh", "stop", name])

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

    def wait_for_api(self, seconds: float = 60) -> None:
        until("the API server answers", seconds, lambda: self.attempt("kubectl", "get", "--raw", "/readyz", "--request-timeout=2s").code == 0)
