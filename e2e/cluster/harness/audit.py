"""The audit log, as `kubectl logs` shows it among other lines: one line of JSON for every decision, of nodes and of controllers."""

import json
import time
from dataclasses import dataclass, field
from datetime import datetime

from .kubectl import Kubectl
from .manifests import SYSTEM

BEGINS = '{"audit":'
NODE, CONTROLLER = "node", "controller"
"""Whose lines: components, as the chart labels their pods."""
LONGEST = 4096
"""Bytes of a line, its end included."""


@dataclass(frozen=True)
class AuditLog:
    """What was written since this was made. An instance of the driver that is gone has taken its lines along."""

    kube: Kubectl
    since: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    """Milliseconds since 1970."""

    def lines(self, component: str) -> list[str]:
        """As they were written, those of one pod after those of the other."""
        which = [f"--selector=app.kubernetes.io/component={component}", "--container=tonnage", "--tail=-1"]
        written = self.kube("logs", f"--namespace={SYSTEM}", *which).splitlines()
        return [it for it in written if it.startswith(BEGINS) and json.loads(it)["timeUnixMillis"] >= self.since]

    def entries(self, component: str, event: str = "") -> list[dict]:
        """What they say, of one event or of all."""
        entries = [json.loads(it) for it in self.lines(component)]
        return [it for it in entries if not event or it.get("event") == event]


def is_plain(line: str) -> bool:
    """Whether a line is short and printable, says one time twice, and is none that tells how many others are missing."""
    entry = json.loads(line)
    if "dropped" in entry:
        return False
    moment = datetime.fromisoformat(entry["time"]).timestamp()
    return len(line) < LONGEST and line.isascii() and line.isprintable() and entry["audit"] == "v1" and abs(moment * 1000 - entry["timeUnixMillis"]) < 1


def who(kube: Kubectl, namespace: str, pod: str) -> dict:
    """A pod as a line has it."""
    found = kube.get(namespace, "pod", pod)
    labels = kube.get("", "namespace", namespace)["metadata"]["labels"]
    return {"namespace": namespace, "labels": labels, "serviceAccount": found["spec"]["serviceAccountName"], "podUid": found["metadata"]["uid"]}


def named(kube: Kubectl, policy: str) -> dict:
    """A policy as a line has it, as long as its specification does not change."""
    metadata = kube.get("", "egresspolicy", policy)["metadata"]
    return {"name": policy, "uid": metadata["uid"], "generation": metadata["generation"]}
