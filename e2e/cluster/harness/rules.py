"""Egress rules as scenarios write them, and what becomes of them: whether they are in force, and what their ledgers say."""

import json
from datetime import datetime, timedelta, timezone

from .command import Ended
from .kubectl import Kubectl
from .manifests import GROUP
from .outcome import until

UNTIL, REASON, AUTHOR = "tonnage.dev/override-until", "tonnage.dev/override-reason", "tonnage.dev/changed-by"


def policy(name: str, namespace: str, **spec) -> dict:
    """An EgressPolicy for one namespace."""
    whole = {"namespaces": {"names": [namespace]}, **spec}
    return {"apiVersion": GROUP, "kind": "EgressPolicy", "metadata": {"name": name}, "spec": whole}


def budget(name: str, size: str) -> dict:
    """One whose window cannot end in the middle of a scenario."""
    return {"name": name, "bytes": size, "window": {"rolling": "24h"}}


def in_time(hours: float) -> str:
    """A time as annotations have it."""
    return (datetime.now(timezone.utc) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Rules:
    """The EgressPolicies of a scenario."""

    def __init__(self, kube: Kubectl):
        self._kube = kube
        self._names: list[str] = []

    def apply(self, *manifests: dict) -> None:
        """Makes or changes policies, and waits until they are in force."""
        self.write([it["metadata"]["name"] for it in manifests], json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)}))

    def write(self, names: list[str], text: str) -> None:
        """The same, as an administrator writes them down."""
        self._put(names, text)
        for name in names:
            self.wait_for(name)

    def apply_malformed(self, manifest: dict) -> dict:
        """Makes or changes a policy that the API server takes and nobody can read: its condition `Ready`, once the controller tells of it."""
        name = manifest["metadata"]["name"]
        self._put([name], json.dumps(manifest))

        def refused() -> dict | None:
            condition = self._ready(name)
            return condition if condition.get("status") == "False" else None

        return until(f"EgressPolicy {name} is said to be malformed", 30, refused, lambda: self.status(name))

    def delete(self, name: str) -> None:
        """Takes one of them away; `remove` waits until nothing of it is left."""
        self._kube.delete("", "egresspolicies", name)

    def change(self, name: str, **spec) -> None:
        """Merges a change into a policy, and waits until it is in force."""
        self._kube.patch("", "egresspolicy", name, {"spec": spec})
        self.wait_for(name)

    def wait_for(self, name: str) -> None:
        """The controller tells of a generation when it goes by it; nodes read the same stream."""
        until(f"EgressPolicy {name} is in force", 30, lambda: self._is_in_force(name), lambda: self.status(name))

    def annotate(self, name: str, **annotations: str | None) -> Ended:
        """Writes an override's `until` and `reason`, or takes them away, however that ends."""
        keys = {"until": UNTIL, "reason": REASON, "author": AUTHOR}
        words = [f"{keys[key]}-" if value is None else f"{keys[key]}={value}" for key, value in annotations.items()]
        return self._kube.attempt("annotate", "egresspolicy", name, "--overwrite", *words)

    def author(self, name: str) -> str:
        return self._kube.get("", "egresspolicy", name)["metadata"]["annotations"].get(AUTHOR, "")

    def status(self, name: str) -> dict:
        return self._kube.get("", "egresspolicy", name).get("status", {})

    def ledger(self, name: str) -> dict:
        """What an EgressBudget says: `settled`, summed, and `outstandingBytes`; nothing where there is none yet."""
        status = (self._kube.find("", "egressbudget", name) or {}).get("status", {})
        return {"settled": sum(it["bytes"] for it in status.get("settled", [])), "outstanding": status.get("outstandingBytes", 0)}

    def remove(self) -> None:
        """Their ledgers go with them."""
        names, self._names = self._names, []
        self._kube.delete("", "egresspolicies", *names)

        def left() -> list[str]:
            return [it["metadata"]["name"] for it in self._kube.all("", "egressbudgets") if it["spec"]["policy"] in names]

        until("no ledger of them is left", 60, lambda: not left(), left)

    def _put(self, names: list[str], text: str) -> None:
        """Where the kinds are seconds old, the API server asks to come again."""
        self._names += names
        ended: list[Ended] = []

        def applied() -> bool:
            ended[:] = [self._kube.attempt("apply", "--server-side", "--force-conflicts", "-f", "-", text=text)]
            return ended[0].code == 0

        until("the API server takes the policies", 20, applied, lambda: ended[0].err)

    def _is_in_force(self, name: str) -> bool:
        return self._ready(name).get("status") == "True"

    def _ready(self, name: str) -> dict:
        """The condition `Ready`; nothing where the controller has not told of the policy as it is now."""
        found = self._kube.get("", "egresspolicy", name)
        status = found.get("status", {})
        is_new = status.get("observedGeneration") == found["metadata"]["generation"]
        return next((it for it in status.get("conditions", []) if is_new and it["type"] == "Ready"), {})
