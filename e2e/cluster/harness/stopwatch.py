"""When a pod came how far, by the one clock that the machine and its namespaces share. Statuses of pods have whole seconds only, so
moments are taken from events, which have microseconds, and from lines of logs, which the runtime stamps."""

from dataclasses import dataclass
from datetime import datetime

from .contenders import FETCH
from .kubectl import Kubectl
from .outcome import until


@dataclass(frozen=True)
class Moments:
    """Of one pod, in seconds since 1970. `there` is when its model was: mounted, or copied by the init container."""

    asked: float
    scheduled: float
    there: float
    began: float
    ended: float
    bytes: int
    """What its container has read,"""
    total: int
    """and the sum of all words of it."""

    @property
    def phases(self) -> dict[str, float]:
        """Seconds that follow each other and add up to the first of them."""
        return {
            "in memory s": self.ended - self.asked,
            "scheduled s": self.scheduled - self.asked,
            "model there s": self.there - self.scheduled,
            "container s": self.began - self.there,
            "read s": self.ended - self.began,
        }


def moments(kube: Kubectl, namespace: str, pod: str, asked: float, made: str = "") -> Moments:
    """Of a pod that has ended well and was asked for at a moment. `made` is the runtime's stamp of its container, where only that tells
    when the model was there."""
    stamp, seconds, total, size = _lines(kube, namespace, pod, "reader")[-1]
    ended = _unix(stamp)
    copied = [_unix(line[0]) for line in _lines(kube, namespace, pod, FETCH) if line[1:] == ["ended"]]
    there = _unix(made) if made else copied[0] if copied else _event(kube, namespace, pod, "Loaded")
    return Moments(asked, _event(kube, namespace, pod, "Scheduled"), there, ended - float(seconds), ended, int(size), int(total))


def _event(kube: Kubectl, namespace: str, pod: str, reason: str) -> float:
    """The driver tells of a load when it has answered."""
    found = until(f"pod {pod} has an event {reason}", 20, lambda: [it for it in kube.events(namespace, pod) if it.reason == reason])
    return _unix(found[0].at)


def _lines(kube: Kubectl, namespace: str, pod: str, container: str) -> list[list[str]]:
    """Words of the lines of a log, the time first; none where the pod has no such container."""
    ended = kube.attempt("logs", f"--namespace={namespace}", pod, f"--container={container}", "--timestamps")
    return [line.split() for line in ended.out.splitlines()] if ended.code == 0 else []


def _unix(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
