"""What is kept when a scenario fails: the logs of all components, what Kubernetes and the node say, what the store was asked."""

import shutil
import traceback
from pathlib import Path

from .cluster import Cluster
from .command import attempt
from .manifests import SYSTEM
from .paths import EVIDENCE, NODE, STATE

KINDS = "pods,daemonsets,deployments,jobs,persistentvolumeclaims,persistentvolumes,csidrivers,csinodes,storageclasses,leases"
CUSTOM = "sources,volumes.tonnage.dev,nodecaches,egresspolicies,egressbudgets,egressleases,cachequotas"
QUESTIONS = {
    "objects.txt": ["kubectl", "get", KINDS, "--all-namespaces", "--output=wide"],
    "described.txt": ["kubectl", "describe", "pods,daemonsets,deployments,persistentvolumeclaims,persistentvolumes,nodes", "--all-namespaces"],
    "custom.yaml": ["kubectl", "get", CUSTOM, "--all-namespaces", "--output=yaml"],
    "events.txt": ["kubectl", "get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"],
    "mounts.txt": ["cat", "/proc/self/mountinfo"],
    "processes.txt": ["ps", "-ef"],
    "kubelet-directory.txt": ["find", "/var/lib/kubelet", "-xdev", "-maxdepth", "7"],
    "cache-directory.txt": ["find", "/var/lib/tonnage", "-maxdepth", "3"],
}


def keep(cluster: Cluster, scenario: str, error: BaseException) -> Path:
    """Writes it all down and names the directory. A question that finds no answer is kept with what it said instead."""
    directory = EVIDENCE / scenario
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "failure.txt").write_text("".join(traceback.format_exception(error)))
    if (STATE / "log").is_dir():
        # kubelet's links from containers to pods lead to paths of the cluster's.
        shutil.copytree(STATE / "log", directory / "log", symlinks=True)
    if (STATE / "store/requests.jsonl").exists():
        shutil.copy2(STATE / "store/requests.jsonl", directory)
    if cluster.is_up():
        for name, question in QUESTIONS.items():
            (directory / name).write_text(_answer([*question]))
        (directory / "driver.log").write_text(_driver_logs())
    return directory


def _answer(command: list[str]) -> str:
    ended = attempt([NODE / "in.sh", *command])
    return ended.out + ended.err


def _driver_logs() -> str:
    """Of every container, that before its last restart included."""
    names = _answer(["kubectl", "get", f"--namespace={SYSTEM}", "pods", "--output=name"]).split()
    logs = []
    for name in names:
        for which in ("--previous=true", "--previous=false"):
            logs.append(f"--- {name} {which}\n" + _answer(["kubectl", "logs", f"--namespace={SYSTEM}", name, "--all-containers", which]))
    return "\n".join(logs)
