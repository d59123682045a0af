"""What one scenario needs and leaves behind no trace of: a namespace, a source with models below it, a storage class, pods."""

import re
import shutil
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs

from . import manifests, model
from .cluster import Cluster, Mount
from .kubectl import Kubectl
from .model import Model
from .outcome import Failure, until
from .paths import STATE
from .store import Store, Traffic

REFUSED = re.compile(r"rpc error: code = (\w+) desc = (.*)", re.DOTALL)


@dataclass(frozen=True)
class Refusal:
    """What the driver answers to kubelet, as the pod's events show it."""

    code: str
    sentence: str

    @property
    def is_one_sentence(self) -> bool:
        return 0 < len(self.sentence) < 600 and "\n" not in self.sentence


class Scene:
    """Named like its scenario, and so are its namespace, its source, its storage class and its place in the store."""

    def __init__(self, cluster: Cluster, kube: Kubectl, store: Store, name: str, seed: str):
        self.name = name
        self.cluster, self.kube, self.store = cluster, kube, store
        self._seed = f"{seed}/{name}"
        self._files = STATE / "models" / name
        self._namespaces: list[str] = []
        self._others: list[tuple[str, str]] = []

    def open(self, endpoint: str, consumers: list[dict] | None = None) -> None:
        """Makes the namespace, the source and the class. By default all pods of the namespace may read."""
        self.add_namespace(self.name)
        source = manifests.source(self.name, endpoint, consumers or [manifests.consumer(self.name)])
        self.add(source, manifests.storage_class(self.name, self.name))

    def close(self) -> None:
        """Removes all of it, and fails where something is left on the node."""
        try:
            self._remove_users()
        finally:
            # Also where a pod stays: the next scenario finds none of it in its way.
            for kind, name in self._others:
                self.kube.delete("", kind, name)
            self.kube.delete("", "namespaces", *self._namespaces)
        for namespace in self._namespaces:
            until(f"namespace {namespace} is gone", 60, lambda: not self.kube.find("", "namespace", namespace))
        self.store.remove(self.name)
        shutil.rmtree(self._files, ignore_errors=True)
        self._namespaces, self._others = [], []
        until("no mount of a volume is left", 30, lambda: not self._strange_mounts(), self._strange_mounts)
        until("no directory of a pod is left", 60, lambda: not self._strange_directories(), self._strange_directories)

    def _remove_users(self) -> None:
        """Pods, and then the claims that they have used."""
        for namespace in self._namespaces:
            self.kube.delete_all(namespace, "pods")
        for namespace in self._namespaces:
            until(f"the pods of {namespace} are gone", 120, lambda: not self.kube.all(namespace, "pods"), lambda: self._names("pods"))
            self.kube.delete_all(namespace, "persistentvolumeclaims")
        until("provisioned volumes are gone", 60, lambda: not self._provisioned(), self._provisioned)

    def add_namespace(self, name: str, labels: dict[str, str] | None = None) -> None:
        self._namespaces.append(name)
        self.kube.apply(manifests.namespace(name, labels))
        until(f"{name} has its service account", 30, lambda: self.kube.find(name, "serviceaccount", "default"))

    def add(self, *objects: dict) -> None:
        """Applies objects; those that belong to no namespace are removed at the end."""
        self._others += [(it["kind"], it["metadata"]["name"]) for it in objects if "namespace" not in it["metadata"]]
        self.kube.apply(*objects)

    def add_model(self, path: str, **shape: int) -> Model:
        """Generates a model and uploads it below the source."""
        made = model.generate(self.place(path), f"{self._seed}/{path}", **shape)
        self.store.put(made.directory, f"{self.name}/{path}")
        return made

    def add_variant(self, original: Model, path: str, changed: str) -> Model:
        """Uploads another model that has all files of the first but one in common."""
        made = model.with_new_file(original, self.place(path), changed, f"{self._seed}/{path}/{changed}")
        self.store.put(made.directory, f"{self.name}/{path}")
        return made

    def replace(self, original: Model, path: str, changed: str) -> Model:
        """Uploads new bytes of one file of a model, and nothing else."""
        made = model.with_new_file(original, self.place(f"{path}.new"), changed, f"{self._seed}/{path}/new/{changed}")
        self._upload(made.directory / changed, self.place(f"{path}.only"), changed, path)
        return made

    def restore(self, original: Model, path: str, changed: str) -> None:
        """Uploads the old bytes of a file that was replaced, and nothing else."""
        self._upload(original.directory / changed, self.place(f"{path}.back"), changed, path)

    def listings(self, traffic: Traffic, path: str) -> list[str]:
        """Prefixes of the listings in it that are of a model. Those of the source's root are none: its health is asked for there."""
        asked = (parse_qs(it["query"]).get("prefix", [""])[0] for it in traffic.requests if it["method"] == "GET")
        return [it for it in asked if it.startswith(f"{self.name}/{path}")]

    def place(self, path: str) -> Path:
        return self._files / path

    def inline_pod(self, name: str, path: str, **attributes: str) -> dict:
        return manifests.pod(self.name, name, manifests.inline(self.name, path, **attributes))

    def start(self, *pods: dict, seconds: float = 60) -> None:
        """Makes pods, all at once, and waits until they run."""
        self.add(*pods)
        for pod in pods:
            self.wait_until_running(pod["metadata"]["name"], seconds, pod["metadata"]["namespace"])

    def wait_until_running(self, name: str, seconds: float = 60, namespace: str = "") -> dict:
        where = namespace or self.name
        return until(f"pod {name} runs", seconds, lambda: self._running(where, name), lambda: self._last_words(where, name))

    def remove(self, *names: str, seconds: float = 60) -> None:
        """Deletes pods and waits until they are gone."""
        self.kube.delete(self.name, "pods", *names)
        for name in names:
            until(f"pod {name} is gone", seconds, lambda: not self.kube.find(self.name, "pod", name), lambda: self._last_words(self.name, name))

    def sums(self, pod: str, directory: str = manifests.MOUNT, namespace: str = "") -> dict[str, str]:
        """SHA-256 of all files that a pod sees, computed in the pod."""
        printed = self.kube.run(namespace or self.name, pod, "sh", "-c", f"cd {directory} && find . -type f -exec sha256sum {{}} +")
        return {name.removeprefix("./"): digest for digest, name in (line.split(maxsplit=1) for line in printed.splitlines())}

    def refusal(self, pod: str, seconds: float, namespace: str = "") -> Refusal:
        """The driver's first answer to the mount of a pod that it does not make."""
        where = namespace or self.name
        return until(f"pod {pod} is told why it does not start", seconds, lambda: self.refusals(pod, where), lambda: self._last_words(where, pod))[0]

    def refusals(self, pod: str, namespace: str = "") -> list[Refusal]:
        """All that the driver has answered, oldest first."""
        events = self.kube.events(namespace or self.name, pod)
        found = (REFUSED.search(event.message) for event in events if event.reason == "FailedMount")
        return [Refusal(match[1], match[2].strip()) for match in found if match]

    def started(self, pod: str) -> float:
        """When the first instruction of the container ran, by the machine's clock. The status of a pod has whole seconds only."""
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - time.time()
        return float(self.kube.logs(self.name, pod).split()[0]) - since_boot

    def seconds_to_start(self, pod: str) -> float:
        """From the scheduler's decision to the first instruction of the container."""
        scheduled = next(event for event in self.kube.events(self.name, pod) if event.reason == "Scheduled")
        return self.started(pod) - datetime.fromisoformat(scheduled.at).timestamp()

    def _upload(self, file: Path, staging: Path, name: str, path: str) -> None:
        """Uploads one file of a model by its name there, by way of a directory of its own."""
        (staging / name).parent.mkdir(parents=True)
        shutil.copy2(file, staging / name)
        self.store.put(staging, f"{self.name}/{path}")

    def _running(self, namespace: str, name: str) -> dict | None:
        pod = self.kube.get(namespace, "pod", name)
        if pod["status"].get("phase") in ("Failed", "Succeeded"):
            raise Failure(f"pod {name} ended: {self.kube.attempt('logs', f'--namespace={namespace}', name).out[-500:]}")
        states = pod["status"].get("containerStatuses", [])
        return pod if states and all("running" in it["state"] for it in states) else None

    def _last_words(self, namespace: str, name: str) -> str:
        return "Its events: " + " | ".join(f"{event.reason}: {event.message}" for event in self.kube.events(namespace, name)[-4:])

    def _names(self, kind: str) -> list[str]:
        return [it["metadata"]["name"] for namespace in self._namespaces for it in self.kube.all(namespace, kind)]

    def _provisioned(self) -> list[str]:
        """Volumes that the provisioner is to remove, in Kubernetes' words and in the driver's."""
        mine = [it for it in self.kube.all("", "persistentvolumes") if it["spec"].get("claimRef", {}).get("namespace") in self._namespaces]
        deleted = [it["metadata"]["name"] for it in mine if it["spec"]["persistentVolumeReclaimPolicy"] == "Delete"]
        records = self.kube.all("", "volumes.tonnage.dev")
        return deleted + [it["metadata"]["name"] for it in records if it["spec"].get("claim", {}).get("namespace") in self._namespaces]

    def _strange_mounts(self) -> list[Mount]:
        """Mounts of volumes that no pod has. Pods of another scenario may be there."""
        mounts = self.cluster.volume_mounts()
        pods = {it["metadata"]["uid"] for it in self.kube.all("*", "pods")} if mounts else set()
        return [it for it in mounts if it.pod not in pods]

    def _strange_directories(self) -> set[str]:
        return self.cluster.pod_directories() - {it["metadata"]["uid"] for it in self.kube.all("*", "pods")}
