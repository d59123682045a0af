"""GPUs that wait for weights are counted: a device plugin gives a pod two of the node's GPUs, kubelet's own socket says so, and the time of
the pod's load counts twice and once, however often kubelet called for it. Pods without a GPU add nothing."""

import re

from ..device_plugin import VARIABLE, DevicePlugin, asking_for
from ..outcome import until
from ..scene import Scene
from ..store import COUNTED
from ..world import World

NAME = "gpu"
GPU, CARD = "nvidia.com/gpu", "example.com/nic"
GPUS = 4
SLOW, OTHER = "slow", "other"
SMALL = {"shards": 1, "shard_size": 8 << 20}
RATE = 4 << 20
"""Bytes per second of the store: the one model takes six seconds, the small one two."""
HOLD = "2s"
"""Longest time that a call waits, in place of two minutes: kubelet has to call again for a load of six seconds."""
SLACK = 5
"""Seconds of a load besides its transfer, kubelet's pauses among them."""
EXACT = 1e-6
LONG = 1
"""Seconds that a load of the small model takes at least."""
WAITED = re.compile(rf'^tonnage_gpu_wait_seconds_total\{{namespace="{NAME}",source="{NAME}"\}} (\S+)$', re.MULTILINE)


def run(world: World) -> None:
    world.afterwards(lambda: _configure(world))
    _configure(world, holdMax=HOLD)
    scene = world.scene(NAME, endpoint=COUNTED)
    models = {"two": scene.add_model(SLOW), "none": scene.add_model(OTHER, **SMALL)}
    DevicePlugin.install()
    for resource, count in ((GPU, GPUS), (CARD, 1)):
        plugin = DevicePlugin(world.cluster, world.kube, resource, count)
        world.afterwards(plugin.stop)
        plugin.start()
    world.store.limit(RATE)
    counted = _two_gpus(world, scene)
    _no_gpu(world, scene)
    _one_gpu(world, scene, counted)
    for name, model in models.items():
        world.equal(f"the pod {name} reads what the generator wrote", scene.sums(name), model.sums)


def _two_gpus(world: World, scene: Scene) -> float:
    """Returns the GPU-seconds."""
    mark = world.store.mark()
    scene.start(asking_for(scene.inline_pod("two", SLOW), GPU, 2))
    traffic = world.store.since(mark)
    given = _devices(world, "two")
    world.check(f"kubelet gave the pod two of {GPUS} GPUs: {given}", len(set(given)) == 2 and all(it.startswith("gpu-") for it in given))
    answers = scene.refusals("two")
    world.check("kubelet had to call again for its volume", answers and all(it.code == "Aborted" for it in answers), answers)
    took, load = traffic.last_byte - traffic.began, _load(world, "two")
    world.check(f"the load took {load:.3f} s by its own report, the transfer {took:.3f} s on the wire", took <= load <= took + SLACK)
    waited = until("the GPUs that waited are counted", 15, lambda: _waited(world), world.driver.node_log)
    world.check(f"{waited:.3f} GPU-seconds are counted, twice the load", abs(waited - 2 * load) < EXACT)
    return waited


def _no_gpu(world: World, scene: Scene) -> None:
    scene.start(scene.inline_pod("none", OTHER))
    waited = _load(world, "none")
    world.check(f"a pod without devices waited {waited:.3f} s for another model: long enough to be missed or found", waited > LONG)
    mark = world.store.mark()
    scene.start(asking_for(scene.inline_pod("card", SLOW), CARD, 1))
    world.equal("a pod has a device that is no GPU", _devices(world, "card"), ["nic-0"])
    waited, sent = _load(world, "card"), world.store.since(mark).content
    world.check(f"it waited {waited:.3f} s for the first model, which was cached", waited > EXACT and sent == 0, f"{sent} bytes were sent")


def _one_gpu(world: World, scene: Scene, before: float) -> None:
    """Loads are looked up in their order: when a later one is counted, those before it have been as well, or have no GPU."""
    scene.start(asking_for(scene.inline_pod("one", SLOW), GPU, 1))
    load = _load(world, "one")
    waited = until("another GPU that waited is counted", 15, lambda: (now := _waited(world)) > before and now, world.driver.node_log)
    too_many = waited - before - load
    what = f"{waited:.3f} GPU-seconds are counted now: {load:.3f} s of one GPU came to them, and nothing of pods without one"
    world.check(what, abs(too_many) < EXACT, f"{too_many} s are too many")


def _devices(world: World, pod: str) -> list[str]:
    """What kubelet gave the container, by its environment."""
    return world.kube.run(NAME, pod, "sh", "-c", f"echo ${VARIABLE}").strip().split(",")


def _load(world: World, pod: str) -> float:
    """Seconds of the one load of a pod, by the driver's own report."""
    report = world.driver.load_of(world.kube.get(NAME, "pod", pod))
    return sum(nanos for _, nanos in report["phases"]) / 1e9


def _waited(world: World) -> float:
    """GPU-seconds of the namespace, by the node pod's metrics."""
    found = WAITED.search(world.driver.metrics())
    return float(found[1]) if found else 0.0


def _configure(world: World, **node: str) -> None:
    """Replaces the node pod; the new one's counters begin at nothing."""
    world.driver.upgrade({"node": node})
    world.driver.wait_until_ready()
