"""A registry of images in the cluster's network, and beside it a wire that counts, as for the stores. The server is the distribution's
docker-registry, filled by its own API without a container engine; containerd asks it by plain HTTP (`../node/config/certs.d`)."""

import hashlib
import json
import shutil
import tarfile
from collections import defaultdict
from pathlib import Path

from .command import attempt, output
from .outcome import Failure, until
from .paths import CACHE
from .store import ADDRESS, Store, Traffic, link, place

DIRECT, COUNTED = f"http://{ADDRESS}:5000", f"http://{ADDRESS}:5001"
"""Endpoints of the one server: its own, and the wire's. containerd knows both."""
SERVER = "docker-registry"
"""The program, and the package that has it."""
TAG = "1"
MANIFEST, CONFIG, LAYER = (f"application/vnd.oci.image.{it}" for it in ("manifest.v1+json", "config.v1+json", "layer.v1.tar"))
UNPACK = f'cd "$0" && apt-get --quiet=2 -o APT::Sandbox::User=root download {SERVER} && dpkg-deb --extract {SERVER}_*.deb . && rm {SERVER}_*.deb'


class Pulled(Traffic):
    """What the registry sent. Its content is blobs: layers, and descriptions of images, which are small."""

    @property
    def bytes_by_key(self) -> dict[str, int]:
        sums = defaultdict(int)
        for it in self.requests:
            if it["method"] == "GET" and "/blobs/" in it["path"] and it["status"] in (200, 206):
                sums[it["path"]] += it["bytes"]
        return dict(sums)


class Registry(Store):
    """The server, its wire, its images, and what the node keeps of them."""

    NAME, PROGRAM, WIRE = "registry", "registry", "registry-relay"
    ENDPOINTS = (DIRECT, COUNTED)

    def __init__(self, cluster):
        super().__init__(cluster)
        self._manifests: set[str] = set()
        self._content: set[str] = set()
        """Digests of what was pushed: manifests, and all of it. An only layer that is not compressed has its snapshot called by its digest."""

    @staticmethod
    def build() -> None:
        """The server: the distribution's, unpacked only where it is not installed, because its package would start it."""
        if shutil.which(SERVER):
            return
        there = CACHE / "registry"
        there.mkdir(parents=True, exist_ok=True)
        program = there / "usr/bin" / SERVER
        if not program.exists() and (ended := attempt(["sh", "-c", UNPACK, there], seconds=300)).code != 0:
            raise Failure(f"the package {SERVER} cannot be had: apt-get update, or apt-get install {SERVER}. {ended.err.strip()}")
        link(program)

    @property
    def blobs(self) -> Path:
        """Where it keeps its files."""
        return self._directory / "data"

    def start_server(self) -> None:
        config = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._inside / "data")}},
            "http": {"addr": place(DIRECT)},
        }
        # What is JSON is YAML.
        (self._directory / "config.yml").write_text(json.dumps(config))
        self._cluster.start_component(self.PROGRAM, SERVER, "serve", self._inside / "config.yml")
        until("the registry answers", 30, lambda: self._answers(DIRECT))

    def since(self, mark: int) -> Pulled:
        return Pulled(super().since(mark).requests)

    def push(self, directory: Path, name: str, endpoint: str) -> str:
        """Makes an image of a directory, an uncompressed tar as its only layer, and uploads it past the wire. Returns the reference by
        which it is pulled from an endpoint."""
        work = self._directory / "push"
        work.mkdir()
        with tarfile.open(work / "layer", "w") as archive:
            archive.add(directory, ".")
        layer = _described(work / "layer", LAYER)
        (work / "config").write_text(json.dumps(_config(layer["digest"])))
        config = _described(work / "config", CONFIG)
        (work / "manifest").write_text(json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}))
        manifest = _described(work / "manifest", MANIFEST)
        self._upload(name, "layer", layer["digest"])
        self._upload(name, "config", config["digest"])
        self._put("manifest", f"{DIRECT}/v2/{name}/manifests/{TAG}", "--header", f"Content-Type: {MANIFEST}")
        shutil.rmtree(work)
        self._manifests.add(manifest["digest"])
        self._content |= {it["digest"] for it in (layer, config, manifest)}
        return f"{place(endpoint)}/{name}:{TAG}"

    def forget(self) -> None:
        """Takes the images off the node, with all their names, content and snapshots; what pods have mounted stays until they are gone."""
        until("nothing of the registry's images is on the node", 120, self._forgotten, self._left)

    def _forgotten(self) -> bool:
        if names := self._names():
            self._ctr("images", "remove", "--sync", *names)
        return not self._left()

    def _names(self) -> list[str]:
        """containerd gives an image three names: its tag's, its manifest's and its configuration's."""
        lines = (line.split() for line in self._ctr("images", "list").splitlines())
        return [line[0] for line in lines if not self._manifests.isdisjoint(line[1:])]

    def _left(self) -> list[str]:
        seen = {*self._ctr("content", "list", "--quiet").split(), *self._ctr("snapshots", "list").split()}
        return sorted(self._content & seen)

    def _ctr(self, *words: str) -> str:
        return self._cluster.inside("ctr", "--namespace=k8s.io", *words)

    def _upload(self, name: str, file: str, digest: str) -> None:
        """A blob in one piece: the server says where to."""
        where = self._curl("--data", "", "--output", "/dev/null", "--write-out", "%header{location}", f"{DIRECT}/v2/{name}/blobs/uploads/")
        self._put(file, f"{where.strip()}&digest={digest}")

    def _put(self, file: str, url: str, *words: str) -> None:
        self._curl(*words, "--upload-file", self._inside / "push" / file, url)

    def _curl(self, *words) -> str:
        return self._cluster.inside("curl", "--silent", "--show-error", "--fail", "--noproxy", "*", *words, seconds=600)


def _described(file: Path, kind: str) -> dict:
    """How an image refers to a part of itself."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": file.stat().st_size}


def _config(layer: str) -> dict:
    """Of an image that is not run. The runtime takes only one of its own architecture."""
    architecture = output(["dpkg", "--print-architecture"]).strip()
    return {"architecture": architecture, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer]}}
