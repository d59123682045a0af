"""The controller that acts is killed, and the other one takes over in less than 20 s. Without any, a load goes on with the bytes that its
node was granted, what is cached mounts, and what is not is refused in one sentence until a controller is back."""

import time

from ..manifests import SYSTEM
from ..outcome import until
from ..rules import Rules, budget, policy
from ..scene import Scene
from ..store import COUNTED
from ..world import World

NAME = "governance-outage"
REPLICAS = 2
TAKEOVER = 20
"""Seconds in which another replica has to act."""
PATIENCE = 120
"""Seconds in which a pod has to be told why it does not start: kubelet gives a call up after as many."""


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED)
    rules = Rules(world.kube)
    world.afterwards(rules.remove)
    world.afterwards(lambda: world.driver.scale_controller(REPLICAS))
    world.driver.scale_controller(REPLICAS)
    rules.apply(policy(NAME, NAME, allow=[{}], budgets=[budget("daily", "1Gi")]))
    scene.add_model("cached")
    scene.start(scene.inline_pod("before", "cached"))
    _takeover(world, scene)
    _without(world, scene, rules)


def _takeover(world: World, scene: Scene) -> None:
    model = scene.add_model("granted-later")
    leader = until("a controller leads", 30, world.driver.leader)
    began = time.monotonic()
    world.driver.crash_controller(leader)
    scene.add(scene.inline_pod("during-takeover", "granted-later"))
    other = until("another controller leads", 2 * TAKEOVER, lambda: (it := world.driver.leader()) != leader and it)
    took = time.monotonic() - began
    world.check(f"another controller leads {took:.1f} s after the first one was killed", took < TAKEOVER, other)
    scene.wait_until_running("during-takeover", seconds=60)
    ran = time.monotonic() - began
    world.equal(f"a load that needed bytes meanwhile gets them; its pod runs after {ran:.1f} s", scene.sums("during-takeover"), model.sums)


def _without(world: World, scene: Scene, rules: Rules) -> None:
    granted, uncached = scene.add_model("granted", shards=6), scene.add_model("uncached")
    # So that the load outlives the controllers.
    rules.change(NAME, rate={"bytesPerSecondPerNode": "4M", "connectionsPerNode": 2})
    mark = world.store.mark()
    scene.add(scene.inline_pod("granted", "granted"))
    until("the slow load has begun", 30, lambda: world.store.so_far(mark).content > 0)
    world.driver.scale_controller(0)
    gone = time.time()
    scene.wait_until_running("granted", seconds=90)
    traffic = world.store.since(mark)
    world.equal("a load goes on without a controller", scene.sums("granted"), granted.sums)
    world.check(f"with bytes that were granted before, {traffic.last_byte - gone:.1f} s after the last one was gone", traffic.last_byte > gone, traffic)
    world.check("and nothing was sent twice", traffic.is_one_of(granted.size), f"{traffic}; the model has {granted.size} bytes")
    mark = world.store.mark()
    scene.start(scene.inline_pod("during", "cached"), seconds=30)
    world.equal("what is cached mounts, without a byte of content", world.store.since(mark).content, 0)
    _refused(world, scene, uncached.size)
    mark = world.store.mark()
    world.driver.scale_controller(REPLICAS)
    scene.wait_until_running("uncached", seconds=120)
    world.equal("once a controller is back, that pod runs by itself", scene.sums("uncached"), uncached.sums)


def _refused(world: World, scene: Scene, size: int) -> None:
    mark = world.store.mark()
    scene.add(scene.inline_pod("uncached", "uncached"))
    refusal = scene.refusal("uncached", PATIENCE)
    world.check("what is not cached is refused with ResourceExhausted", refusal.code == "ResourceExhausted", refusal)
    world.check("in one sentence that says who does not answer", refusal.is_one_sentence and "controller" in refusal.sentence, refusal)
    print(f"      “{refusal.sentence}”")
    sent = world.store.since(mark).content
    world.check(f"after {sent} bytes at most of what was left of a grant", sent < size)
    world.check("the driver's node pod is ready meanwhile", world.driver.is_ready(), world.kube.attempt("get", f"--namespace={SYSTEM}", "pods").out)
