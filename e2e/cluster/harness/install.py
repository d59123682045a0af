"""The driver, as an operator installs it: by its chart, with helm. Also its processes, for those who kill them, and its command line."""

import json
import re
import shutil
from pathlib import Path

from . import image
from .cluster import Cluster
from .command import Ended
from .kubectl import Kubectl
from .manifests import DRIVER, SYSTEM, store_keys
from .outcome import Failure, until
from .paths import INSIDE, REPOSITORY, STATE

RELEASE = "tonnage"
CACHE = "/var/lib/tonnage"
"""The cache's directory on the node, which is the chart's default."""
NODE_PODS = "app.kubernetes.io/component=node"
CONTROLLER = "tonnage-controller"
"""Name of the controllers' Deployment, and of the lease that one of them holds."""
OURS = f"app.kubernetes.io/instance={RELEASE}"
UNINSTALL = ("helm", "uninstall", RELEASE, f"--namespace={SYSTEM}", "--wait", "--timeout=2m")
CLUSTER_CIDRS = ("10.96.0.0/16", "10.244.0.0/16")
"""Services, and the pods of both nodes (`../node/components.sh`, `../node/env.sh`)."""
LOADS = 100
"""How many reports of loads the driver keeps."""
CHART = REPOSITORY / "deploy/chart"
CRDS = "crds-generated/crds.yaml"
"""The chart's CustomResourceDefinitions, below it."""
PUBLISHED = re.compile(r'^csi_operations_seconds_count\{([^}]*NodePublishVolume[^}]*)\} (\S+)$', re.MULTILINE)


def values() -> dict:
    """What differs from the chart's defaults: images that no registry has, listings that are made anew for every pod, and the cluster's
    own ranges, which are closed. The stores are on the node's address, which is in none of them."""
    driver, provisioner = (dict(zip(("repository", "tag"), name.split(":"))) for name in (image.DRIVER, image.PROVISIONER))
    local = {"registry": "", "pullPolicy": "Never"}
    return {
        "image": {**driver, **local},
        "clusterCIDRs": list(CLUSTER_CIDRS),
        "node": {"revisionTTL": "1s"},
        "controller": {"provisioner": {"image": {**provisioner, **local}}},
    }


def crds() -> str:
    """The chart's CustomResourceDefinitions."""
    return (CHART / CRDS).read_text()


def takes_volumes(pod: dict) -> bool:
    """Whether a node pod says so."""
    return any(it["type"] == "Ready" and it["status"] == "True" for it in pod["status"].get("conditions", []))


class Driver:
    """The release."""

    def __init__(self, cluster: Cluster, kube: Kubectl, binary: Path):
        self._cluster, self._kube, self._binary = cluster, kube, binary

    def helm(self, verb: str, *arguments, changed: dict | None = None, seconds: float = 240) -> str:
        """Runs helm on the chart or the release; values, with what is to be changed of them, are on standard input."""
        text = json.dumps(_merged(values(), changed or {}))
        return self._cluster.inside("helm", verb, *arguments, text=text, seconds=seconds)

    def chart(self, kinds: str = "") -> Path:
        """The chart, where the cluster's namespaces show it wherever the repository lies; with these CustomResourceDefinitions in place of its
        own, if there are any."""
        copy = STATE / "chart"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(CHART, copy)
        if kinds:
            (copy / CRDS).write_text(kinds)
        return INSIDE / "chart"

    def is_installed(self) -> bool:
        return self._cluster.attempt("helm", "status", RELEASE, f"--namespace={SYSTEM}").code == 0

    def ensure(self) -> None:
        """Installs the release where there is none, and waits until the node takes volumes."""
        if not self.is_installed():
            where = [f"--namespace={SYSTEM}", "--create-namespace"]
            self.helm("install", RELEASE, self.chart(), *where, "--values=-", "--wait", "--timeout=3m")
        elif (latest := self.revisions()[-1])["status"] == "uninstalling":
            # An uninstall was refused, and helm upgrades no release that it has begun to uninstall.
            self.roll_back(latest["revision"])
        self._kube.apply(store_keys())
        self.wait_until_ready()

    def upgrade(self, changed: dict | None = None, wait: bool = True, kinds: str = "") -> None:
        """Upgrades the release to the values that it is installed with, but for what is changed, and to the chart's kinds or to these."""
        patience = ["--wait", "--timeout=3m"] if wait else []
        self.helm("upgrade", RELEASE, self.chart(kinds), f"--namespace={SYSTEM}", "--values=-", *patience, changed=changed)

    def revisions(self) -> list[dict]:
        """The release's revisions as helm tells them, oldest first."""
        return json.loads(self._cluster.inside("helm", "history", RELEASE, f"--namespace={SYSTEM}", "--output=json"))

    def roll_back(self, revision: int) -> None:
        self._cluster.inside("helm", "rollback", RELEASE, revision, f"--namespace={SYSTEM}", "--wait", "--timeout=3m", seconds=240)

    def uninstall(self, *flags: str) -> None:
        self._cluster.inside(*UNINSTALL, *flags, seconds=180)

    def attempt_uninstall(self) -> Ended:
        """Uninstalls, however that ends."""
        return self._cluster.attempt(*UNINSTALL, seconds=180)

    def wait_until_ready(self) -> None:
        until("the driver's node pod is ready and registered", 90, lambda: self.is_ready() and self.is_registered(), self._seen)

    def is_registered(self) -> bool:
        drivers = self._kube.get("", "csinode", "node1")["spec"].get("drivers") or []
        return DRIVER in [it["name"] for it in drivers]

    def node_pod(self) -> dict | None:
        """The one that is to stay, where another one is about to go."""
        pods = [it for it in self._kube.all(SYSTEM, "pods", NODE_PODS) if "deletionTimestamp" not in it["metadata"]]
        return pods[0] if len(pods) == 1 else None

    def is_ready(self) -> bool:
        """Whether the node pod says that it takes volumes."""
        pod = self.node_pod()
        return pod is not None and takes_volumes(pod)

    def node_log(self) -> str:
        """The last that the node pod's container has said, whether it runs or has ended."""
        return self._kube.attempt("logs", f"--namespace={SYSTEM}", f"--selector={NODE_PODS}", "--tail=20").out

    def node_restarts(self) -> int:
        """How often the node pod's container was started again."""
        pod = until("the driver's container runs", 60, self._running_pod)
        return pod["status"]["containerStatuses"][0]["restartCount"]

    def kill_node_process(self) -> None:
        """kill -9 of the plugin's process."""
        self._kill(until("the driver's container runs", 60, self._running_pod))

    def leader(self) -> str:
        """Name of the controller's pod that acts; empty where none does."""
        lease = self._kube.find(SYSTEM, "lease", CONTROLLER) or {"spec": {}}
        return lease["spec"].get("holderIdentity", "").rpartition("_")[0]

    def crash_controller(self, name: str) -> None:
        """kill -9 of a controller, whose pod is gone with it: one that was started again in the same pod would be the same to the others."""
        pod = self._kube.get(SYSTEM, "pod", name)
        self._kill(pod)
        self._kube("delete", f"--namespace={SYSTEM}", "pod", name, "--force", "--grace-period=0", "--wait=false")

    def scale_controller(self, replicas: int) -> None:
        """Returns when so many are ready, and one of them acts, or none."""
        self._kube("scale", f"--namespace={SYSTEM}", "deployment", CONTROLLER, f"--replicas={replicas}")
        self._kube("rollout", "status", f"--namespace={SYSTEM}", f"deployment/{CONTROLLER}", "--timeout=90s")
        until(f"of {replicas} controllers one acts", 60, lambda: bool(self.leader()) == (replicas > 0), self.leader)

    def metrics(self) -> str:
        """What the node pod tells Prometheus."""
        pod = until("the driver's container runs", 60, self._running_pod)
        return self._kube("get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}:9808/proxy/metrics")

    def _kill(self, pod: dict) -> None:
        ours = next(it for it in pod["status"]["containerStatuses"] if it["name"] == "tonnage")
        container = ours["containerID"].removeprefix("containerd://")
        self._cluster.inside("ctr", "--namespace=k8s.io", "tasks", "kill", "--signal=SIGKILL", container)

    def tonnage(self, *arguments) -> str:
        """What the command line prints in the node pod, beside the service; the pod's environment names the cache."""
        pod = until("the driver's container runs", 60, self._running_pod)
        return self._kube.run(SYSTEM, pod["metadata"]["name"], "/tonnage", *arguments, container="tonnage")

    def loads(self) -> list[dict]:
        """The driver's own reports, newest first."""
        return json.loads(self.tonnage("loads", f"--last={LOADS}", "--json"))

    def load_of(self, pod: dict) -> dict:
        """The report of a pod's one load, which is written after kubelet has had its answer."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        found = until(f"the load of {name} is reported", 15, lambda: [it for it in self.loads() if it.get("pod", {}).get("uid") == uid])
        if len(found) > 1:
            raise Failure(f"pod {name} has one volume, and {len(found)} loads are reported for it: {found}")
        return found[0]

    def usage(self) -> dict:
        """`tonnage cache du`, once all that was verified is also synced, so that every object is in its place."""

        def settled() -> dict | None:
            usage = json.loads(self.tonnage("cache", "du", "--json"))
            return usage if usage["fresh"]["files"] == 0 else None

        return until("the cache has synced what it fetched", 60, settled)

    def has_cached(self, path: str) -> bool:
        """Whether the model of that path lies whole in the cache."""
        contents = json.loads(self.tonnage("cache", "ls", "--json"))
        return any(it["views"] and any(origin.endswith(f"/{path}") for origin in it["from"]) for it in contents)

    def attempt_on_node(self, *arguments) -> Ended:
        """Runs the command line on the node itself, where there may be no driver any more."""
        shutil.copy2(self._binary, STATE / "tonnage")
        return self._cluster.attempt(INSIDE / "tonnage", *arguments)

    def publishes(self) -> int:
        """How many volumes kubelet has had published since it started, by its own count."""
        metrics = self._kube.attempt("get", "--raw", "/api/v1/nodes/node1/proxy/metrics").out
        good = [value for labels, value in PUBLISHED.findall(metrics) if 'grpc_status_code="OK"' in labels and f'driver_name="{DRIVER}"' in labels]
        return sum(int(float(value)) for value in good)

    def leftovers(self) -> list[str]:
        """Files of the driver on the node, apart from its cache, from volumes, and from what kubelet itself keeps under a driver's name."""
        places = ("/var/lib/kubelet/plugins", "/var/lib/kubelet/plugins_registry")
        return self._cluster.files(*places, "-not", "-path", "*/plugins/kubernetes.io/*", "-name", f"*{DRIVER}*")

    def _running_pod(self) -> dict | None:
        pod = self.node_pod()
        states = [it["state"] for it in pod["status"].get("containerStatuses", [])] if pod else []
        return pod if states and all("running" in it for it in states) else None

    def _seen(self) -> str:
        pods = self._kube.attempt("get", f"--namespace={SYSTEM}", "pods").out
        return f"{pods}\n{self.node_log()}"


def _merged(old: dict, new: dict) -> dict:
    """As helm merges values: maps are merged, everything else is replaced."""
    both = {key: _merged(old[key], new[key]) for key in old.keys() & new.keys() if isinstance(old[key], dict) and isinstance(new[key], dict)}
    return {**old, **new, **both}
