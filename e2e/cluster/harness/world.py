"""Everything that a scenario is given."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from .cluster import Cluster
from .install import Driver
from .kubectl import Kubectl
from .measure import Measure
from .outcome import Failure
from .scene import Scene
from .store import DIRECT, Store


@dataclass
class World:
    """The cluster with the driver and the store in it. What a scenario checks is printed when it holds."""

    cluster: Cluster
    kube: Kubectl
    store: Store
    driver: Driver
    seed: str
    measure: Measure = Measure()
    _scenes: list[Scene] = field(default_factory=list)
    _afterwards: list[Callable[[], object]] = field(default_factory=list)

    def scene(self, name: str, endpoint: str = DIRECT, consumers: list[dict] | None = None) -> Scene:
        """Sets a scene in which all pods may read, or only `consumers`."""
        scene = Scene(self.cluster, self.kube, self.store, name, self.seed)
        self._scenes.append(scene)
        scene.open(endpoint, consumers)
        return scene

    def leave(self) -> None:
        """Removes what the scenario has made; what cannot be removed is a failure of the scenario."""
        self.store.limit(None)
        try:
            while self._scenes:
                self._scenes.pop().close()
        finally:
            while self._afterwards:
                self._afterwards.pop()()

    def afterwards(self, action: Callable[[], object]) -> None:
        """What is to be done once the scenario's scenes are gone, however it ends; the latest first."""
        self._afterwards.append(action)

    def dice(self, scenario: str) -> random.Random:
        """Moments that the seed decides."""
        return random.Random(f"{self.seed}/{scenario}")

    def check(self, sentence: str, holds: object, seen: object = "") -> None:
        if not holds:
            raise Failure(f"does not hold: {sentence}. {seen}".strip())
        print(f"  ok  {sentence}", flush=True)

    def equal(self, sentence: str, seen: object, wanted: object) -> None:
        self.check(sentence, seen == wanted, f"seen {seen!r}, wanted {wanted!r}")
