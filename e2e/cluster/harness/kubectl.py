"""What is asked of the API server: changes by the real kubectl, looks by a connection that is kept."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from .api import Api
from .cluster import Cluster
from .command import Ended
from .outcome import Failure


@dataclass(frozen=True)
class Event:
    """An event about a pod or a claim."""

    kind: str
    reason: str
    message: str
    at: str


class Kubectl:
    """One administrator's kubectl; every object is named by its namespace ("" for none), kind and name."""

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._api = Api()

    def __call__(self, *arguments, text: str = "", seconds: float = 120) -> str:
        return self._cluster.inside("kubectl", *arguments, text=text, seconds=seconds)

    def attempt(self, *arguments, text: str = "", seconds: float = 120) -> Ended:
        return self._cluster.attempt("kubectl", *arguments, text=text, seconds=seconds)

    def apply(self, *manifests: dict) -> None:
        """Makes or changes objects, all in one call."""
        self("apply", "--server-side", "--force-conflicts", "-f", "-", text=_list(manifests))

    def try_to_create(self, *manifests: dict) -> Ended:
        return self.attempt("create", "-f", "-", text=_list(manifests))

    def get(self, namespace: str, kind: str, name: str) -> dict:
        found = self.find(namespace, kind, name)
        if found is None:
            raise Failure(f"there is no {kind} {name}{f' in {namespace}' if namespace else ''}")
        return found

    def find(self, namespace: str, kind: str, name: str) -> dict | None:
        """The object, or nothing if there is none."""
        return self._api.find(namespace, kind, name)

    def all(self, namespace: str, kind: str, selector: str = "") -> list[dict]:
        """All objects of a kind, or of several with commas between them: of a namespace, of none ("") or of all ("*")."""
        return [it for one in kind.split(",") for it in self._api.all(namespace, one, labelSelector=selector)]

    def condition(self, namespace: str, kind: str, name: str, what: str) -> dict:
        """A condition of an object; empty where it has none of that type yet."""
        conditions = self.get(namespace, kind, name).get("status", {}).get("conditions", [])
        return next((it for it in conditions if it["type"] == what), {})

    def patch(self, namespace: str, kind: str, name: str, change: dict) -> None:
        self("patch", *_in(namespace), kind, name, "--type=merge", "--patch", json.dumps(change))

    def delete(self, namespace: str, kind: str, *names: str) -> None:
        """Asks for the end of objects; those that are gone already do not matter. Does not wait."""
        if names:
            self("delete", *_in(namespace), kind, *names, "--ignore-not-found", "--wait=false")

    def delete_all(self, namespace: str, kind: str) -> None:
        self("delete", *_in(namespace), kind, "--all", "--ignore-not-found", "--wait=false")

    def events(self, namespace: str, name: str) -> list[Event]:
        """What was said about an object, oldest first."""
        found = self._api.all(namespace, "events", fieldSelector=f"involvedObject.name={name}")
        events = [Event(it["type"], it["reason"], it["message"], it.get("eventTime") or it.get("firstTimestamp") or "") for it in found]
        return sorted(events, key=lambda event: event.at)

    def execute(self, namespace: str, pod: str, *command, container: str = "") -> Ended:
        """Runs a command in a pod, however it ends."""
        which = [f"--container={container}"] if container else []
        return self.attempt("exec", *_in(namespace), pod, *which, "--", *command)

    def run(self, namespace: str, pod: str, *command, container: str = "") -> str:
        """What a command prints in a pod; it has to end well."""
        ended = self.execute(namespace, pod, *command, container=container)
        if ended.code != 0:
            raise Failure(f"`{' '.join(command)}` in pod {pod} ended with {ended.code}: {ended.err.strip()}")
        return ended.out

    def logs(self, namespace: str, pod: str) -> str:
        return self("logs", *_in(namespace), pod)


def _in(namespace: str) -> list[str]:
    return [f"--namespace={namespace}"] if namespace else []


def _list(manifests: Iterable[dict]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
