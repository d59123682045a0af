"""The node plugin and kubelet are killed (kill -9) at random moments of publish and unpublish: pods that read meanwhile never notice,
pods that wait get their model, and in the end nothing is left."""

import re
import time

from ..manifests import inline
from ..outcome import until
from ..reader import never_noticed, reader
from ..scene import Scene
from ..store import COUNTED
from ..world import World

NAME = "kills"
ROUNDS = 6
READERS = ("reader-1", "reader-2")
PUBLISHED = re.compile(r"(?m)^tonnage_published_volumes (\d+)$")
RATE = 12_000_000
"""Bytes per second of the store, so that a fetch lasts about two seconds."""
PUBLISHING, UNPUBLISHING = 2.5, 1.2
"""Seconds in which the moment of a kill is drawn: a pod's way to its model, and its end."""


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED)
    steady = scene.add_model("steady", shards=2, shard_size=2 << 20)
    mark = world.store.mark()
    scene.start(*(reader(scene, name, inline(NAME, "steady"), steady) for name in READERS))
    world.check("pods that come first have their model listed", scene.listings(world.store.since(mark), "steady"))
    _restart_costs_nothing(world, scene)
    dice = world.dice(NAME)
    for number in range(ROUNDS):
        victim = ("plugin", "kubelet")[number % 2]
        _one_round(world, scene, f"round-{number}", victim, (dice.uniform(0, PUBLISHING), dice.uniform(0, UNPUBLISHING)))
    never_noticed(world, scene, *READERS)
    world.store.limit(None)
    scene.remove(*READERS)
    until("the driver tells Prometheus of no volume", 30, lambda: _published(world) == 0, lambda: _published(world))
    world.check("all pods are gone, and the driver tells Prometheus of no volume", True)
    _nothing_half_done(world)


def _one_round(world: World, scene: Scene, name: str, victim: str, moments: tuple[float, float]) -> None:
    """A pod of a new model, with one kill on its way in and one on its way out."""
    publish, unpublish = moments
    model = scene.add_model(name)
    world.store.limit(RATE)
    scene.add(scene.inline_pod(name, name))
    time.sleep(publish)
    _kill(world, victim)
    scene.wait_until_running(name, seconds=120)
    world.equal(f"{victim} killed {publish:.2f} s into a publish: the pod runs and reads all of it", scene.sums(name), model.sums)
    world.kube.delete(NAME, "pods", name)
    time.sleep(unpublish)
    _kill(world, victim)
    scene.remove(name, seconds=120)
    world.check(f"{victim} killed {unpublish:.2f} s into an unpublish: the pod goes", True)


def _kill(world: World, victim: str) -> None:
    if victim == "plugin":
        world.driver.kill_node_process()
    else:
        world.cluster.kill_component("kubelet")
        world.cluster.start_component("kubelet")


def _restart_costs_nothing(world: World, scene: Scene) -> None:
    """kubelet publishes every volume of every running pod again when it starts, with the same id and target."""
    mark = world.store.mark()
    world.cluster.kill_component("kubelet")
    world.cluster.start_component("kubelet")
    until("kubelet has published the readers' volumes again", 60, lambda: world.driver.publishes() >= len(READERS), world.driver.publishes)
    traffic = world.store.since(mark)
    seen = (traffic.objects, scene.listings(traffic, "steady"))
    world.equal("kubelet's restart publishes running pods again, and the store is asked for no object and no listing of theirs", seen, ([], []))
    world.equal("the driver tells Prometheus of their volumes", _published(world), len(READERS))


def _published(world: World) -> int:
    """How many volumes the driver says to be published on the node."""
    return int(PUBLISHED.search(world.driver.metrics())[1])


def _nothing_half_done(world: World) -> None:
    """Mounts and pod directories are looked at whenever a scene is closed; this is the cache."""
    directories = [f"/var/lib/tonnage/{name}" for name in ("tmp", "trash", "partial", "quarantine")]

    def left() -> list[str]:
        return world.cluster.files(*directories, "-type", "f")

    until("the cache holds nothing half done", 60, lambda: not left(), left)
    world.check("the cache holds nothing half done", True)
