"""Everything that a scenario is given."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

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
    has_pace: bool = True
    """Whether the pace of the store's wire that counts is this world's, to be given back at the end."""
    is_alone: bool = True
    """Whether nothing else takes time from this scenario: none beside it, and no other cluster."""
    _scenes: list[Scene] = field(default_factory=list)
    _afterwards: list[Callable[[], object]] = field(default_factory=list)

    def beside(self) -> "World":
        """The same, for one who is there while others are."""
        return replace(self, has_pace=False, is_alone=False, _scenes=[], _afterwards=[])

    def crowded(self) -> "World":
        """The same, for those who have somebody beside them."""
        return replace(self, is_alone=False)

    def scene(self, name: str, endpoint: str = DIRECT, consumers: list[dict] | None = None) -> Scene:
        """Sets a scene in which all pods may read, or only `consumers`."""
        scene = Scene(self.cluster, self.kube, self.store, name, self.seed)
        self._scenes.append(scene)
        scene.open(endpoint, consumers)
        return scene

    def leave(self) -> None:
        """Removes what the scenario has made, all that can be removed; what cannot is a failure of the scenario."""
        if self.has_pace:
            self.store.limit(None)
        errors: list[Exception] = []
        while self._scenes or self._afterwards:
            remove = self._scenes.pop().close if self._scenes else self._afterwards.pop()
            try:
                remove()
            except Exception as error:  # noqa: BLE001: the others are removed all the same
                errors.append(error)
        if errors:
            raise Failure(" | ".join(str(it) or repr(it) for it in errors)) from errors[0]

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
