"""On a full disk what was released goes and what runs stays: pods that read never lose a byte, the floor is left free, and a model that
does not fit is refused with all figures until there is room. A cache on kubelet's file system is refused unless forced."""

import json
import re

from ..install import CACHE
from ..manifests import inline
from ..model import Model
from ..outcome import until
from ..paths import INSIDE
from ..reader import never_noticed, reader
from ..scene import Scene
from ..store import COUNTED
from ..world import World

NAME = "full-disk"
SHAPE = {"shards": 3, "shard_size": 16 << 20}
LARGE = {"shards": 2, "shard_size": 80 << 20}
TURNS = ("released", "turn-1", "turn-2", "turn-3")
"""Each of them but the first takes the place of the one before it."""
FLOOR = 1 << 30
"""Bytes that the driver leaves free by default."""
ROOM = 32 << 20
"""Bytes that can be used besides: less than a model."""
STRANGER = f"{CACHE}/a-file-of-somebody-else"
FIGURES = re.compile(r"[\d.]+ \w+ are needed, but [\d.]+ \w+ can be used after eviction \(1\.0 GiB are kept free\); .+")
BESIDE_KUBELET = INSIDE / "cache-on-kubelets-disk"
REFUSED = f"the cache {BESIDE_KUBELET} lies on kubelet's file system"


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED)
    live = scene.add_model("live", **SHAPE)
    scene.start(reader(scene, "live", inline(NAME, "live"), live))
    world.driver.usage()
    world.driver.tonnage("cache", "gc", "--all")
    _turn(world, scene, TURNS[0])
    try:
        _fill(world, live.size)
        for before, path in zip(TURNS, TURNS[1:]):
            world.check(f"{before} is cached, and no pod uses it", world.driver.has_cached(before))
            _turn(world, scene, path)
            left = [name for name in (before, "live") if world.driver.has_cached(name)]
            world.equal(f"{before} was evicted for {path}, and what runs was not", left, ["live"])
            free = world.cluster.free(CACHE)
            world.check("the floor is left free", free >= FLOOR, f"{free} bytes are free")
        large = _too_large(world, scene)
    finally:
        world.cluster.inside("rm", "--force", STRANGER)
    _goes_on(world, scene, large)
    scene.remove("live", "too-large")
    _on_kubelets_disk(world, scene)


def _turn(world: World, scene: Scene, path: str) -> None:
    """A model that comes, is read and goes. Whatever is durable then may be evicted."""
    model = scene.add_model(path, **SHAPE)
    scene.start(scene.inline_pod(path, path))
    world.equal(f"a pod reads all of {path}", scene.sums(path), model.sums)
    scene.remove(path)
    world.driver.usage()


def _fill(world: World, size: int) -> None:
    """Takes what is free, but for the floor and less room than a model needs."""
    world.cluster.inside("fallocate", f"--length={world.cluster.free(CACHE) - FLOOR - ROOM}", STRANGER)
    left = world.cluster.free(CACHE) - FLOOR
    world.check(f"the disk is full but for the floor and {left} bytes, fewer than a model has", 0 < left < size, f"a model has {size} bytes")


def _too_large(world: World, scene: Scene) -> Model:
    model = scene.add_model("large", **LARGE)
    mark = world.store.mark()
    scene.add(scene.inline_pod("too-large", "large"))
    refusal = scene.refusal("too-large", 30)
    world.equal("a model that does not fit is refused", refusal.code, "ResourceExhausted")
    world.check("in one sentence with all figures", refusal.is_one_sentence and FIGURES.fullmatch(refusal.sentence), refusal)
    print(f"      “{refusal.sentence}”")
    world.equal("and no byte of it is fetched", world.store.since(mark).content, 0)
    never_noticed(world, scene, "live")
    return model


def _goes_on(world: World, scene: Scene, large: Model) -> None:
    scene.wait_until_running("too-large", seconds=130)
    world.equal("its pod starts by itself when there is room again", scene.sums("too-large"), large.sums)
    never_noticed(world, scene, "live")
    world.driver.usage()
    verified = json.loads(world.driver.tonnage("cache", "verify", "--json"))["verified"]
    world.equal(f"read from the device, all {verified['objects']} objects are whole", verified["damaged"], [])


def _on_kubelets_disk(world: World, scene: Scene) -> None:
    # Propagation asks for a mount that is shared, which on a node is the root.
    world.cluster.inside("mkdir", "--parents", BESIDE_KUBELET)
    world.cluster.inside("mount", "--bind", BESIDE_KUBELET, BESIDE_KUBELET)
    world.cluster.inside("mount", "--make-rshared", BESIDE_KUBELET)
    try:
        _refused_unless_forced(world, scene)
    finally:
        world.driver.upgrade()
        world.driver.wait_until_ready()
        world.cluster.inside("umount", BESIDE_KUBELET)
        world.cluster.inside("rm", "--recursive", "--one-file-system", BESIDE_KUBELET)


def _refused_unless_forced(world: World, scene: Scene) -> None:
    group = {"name": "default", "cacheDir": str(BESIDE_KUBELET)}
    world.driver.upgrade({"nodeGroups": [group]}, wait=False)
    said = until("the node pod says that its cache is on kubelet's file system", 90, lambda: _refusal(world), world.driver.node_log)
    world.check("a cache on kubelet's file system is refused: the node pod is not ready", not world.driver.is_ready())
    print(f"      “{said}”")
    world.driver.upgrade({"nodeGroups": [{**group, "forceRootFilesystem": True}]})
    world.driver.wait_until_ready()
    mark = world.store.mark()
    scene.start(scene.inline_pod("forced", "live"))
    world.check("forced, it is used", world.store.since(mark).content > 0 and world.driver.has_cached("live"))
    scene.remove("forced")


def _refusal(world: World) -> str:
    return next((line for line in world.driver.node_log().splitlines() if REFUSED in line), "")
