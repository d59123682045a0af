"""Images without a registry and without a container engine: made by the project's own script, imported into containerd."""

from pathlib import Path

from .cluster import Cluster
from .command import output
from .outcome import Failure
from .paths import BIN, INSIDE, REPOSITORY, STATE

DRIVER, PROVISIONER = "local/tonnage:test", "local/csi-provisioner:test"
NEXT = "local/tonnage:next"
"""The driver's image by another name, to upgrade to."""
BUSYBOX, PAUSE = "local/busybox:1", "local/pause:1"
"""What nodes have from the start (`../node/images.sh`): a shell and its tools; the second waits where it is told nothing else."""


def load(cluster: Cluster, driver: Path) -> None:
    """Makes and imports the images of the driver and of the provisioner."""
    for name, binary in ((DRIVER, driver), (PROVISIONER, BIN / "csi-provisioner")):
        archive = f"{binary.name}.oci.tar"
        output([REPOSITORY / "deploy/image.sh", "--binary", binary, STATE / archive, name])
        cluster.inside("ctr", "--namespace=k8s.io", "images", "import", INSIDE / archive)
        (STATE / archive).unlink()
        # Pods must not pull, so an image under another name would only show as a pod that does not start.
        if f"docker.io/{name}" not in cluster.inside("ctr", "--namespace=k8s.io", "images", "list", "--quiet").split():
            raise Failure(f"containerd imported {archive} and does not know docker.io/{name}")


def add_name(cluster: Cluster, image: str, name: str) -> None:
    """Gives an image one more name, which any registry may have."""
    cluster.inside("ctr", "--namespace=k8s.io", "images", "tag", "--force", _whole(image), _whole(name))


def remove_name(cluster: Cluster, name: str) -> None:
    """Takes a name away; one that is not there does not matter."""
    cluster.inside("ctr", "--namespace=k8s.io", "images", "remove", _whole(name))


def _whole(name: str) -> str:
    """The name as containerd keeps it: Docker's registry is meant where none is named, and its `library` where there is no owner."""
    first, _, rest = name.partition("/")
    if not rest:
        return f"docker.io/library/{name}"
    return name if "." in first or ":" in first else f"docker.io/{name}"
