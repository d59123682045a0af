"""The controller that acts is killed, and less than 20 s later the other one has granted bytes to a load that waits for them. Without any, a
load goes on with the bytes that its node was granted, as fast as its policy lets it, what is cached mounts, and what is not is refused in one
sentence until a controller is back."""

import time

from ..manifests import SYSTEM
from ..outcome import until
from ..rules import Rules, budget, policy
from ..scene import Scene
from ..store import COUNTED, Traffic
from ..world import World

NAME = "governance-outage"
DAILY = f"{NAME}.daily.{NAME}"
"""The ledger."""
REPLICAS = 2
TAKEOVER = 20
"""Seconds in which another replica has to act: to have granted, and not only to lead."""
RATE = 4_000_000
"""Bytes per second of the load that is to outlive the controllers."""
LONG = 5
"""Seconds for which the rate has to hold, at least."""
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
    _takeover(world, scene, rules)
    _without(world, scene, rules)


def _takeover(world: World, scene: Scene, rules: Rules) -> None:
    """What the load before has left of its grant would not suffice: a node asks for as many bytes as a load has."""
    model = scene.add_model("granted-later")
    leader = until("a controller leads", 30, world.driver.leader)
    known = sum(rules.ledger(DAILY).values())
    mark, began = world.store.mark(), time.time()
    world.driver.crash_controller(leader)
    scene.add(scene.inline_pod("during-takeover", "granted-later"))
    granted = f"the ledger holds more than {known} bytes"
    until(granted, 2 * TAKEOVER, lambda: sum(rules.ledger(DAILY).values()) > known, lambda: (world.driver.leader(), rules.ledger(DAILY)))
    took, other = time.time() - began, world.driver.leader()
    world.check(f"another controller has granted bytes {took:.1f} s after the first one was killed", took < TAKEOVER and other not in ("", leader), other)
    scene.wait_until_running("during-takeover", seconds=60)
    world.equal("a load that needed bytes meanwhile gets them", scene.sums("during-takeover"), model.sums)
    waited = world.store.since(mark).began - began
    world.check(f"the first of them {waited:.1f} s after the kill, which is less than {TAKEOVER} s", waited < TAKEOVER)


def _without(world: World, scene: Scene, rules: Rules) -> None:
    granted, uncached = scene.add_model("granted", shards=6), scene.add_model("uncached")
    # So that the load outlives the controllers.
    rules.change(NAME, rate={"bytesPerSecondPerNode": f"{RATE}", "connectionsPerNode": 2})
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
    _keeps_to_the_rate(world, traffic)
    mark = world.store.mark()
    scene.start(scene.inline_pod("during", "cached"), seconds=30)
    world.equal("what is cached mounts, without a byte of content", world.store.since(mark).content, 0)
    mark = world.store.mark()
    _refused(world, scene, mark, uncached.size)
    world.driver.scale_controller(REPLICAS)
    scene.wait_until_running("uncached", seconds=120)
    world.equal("once a controller is back, that pod runs by itself", scene.sums("uncached"), uncached.sums)
    traffic = world.store.since(mark)
    world.check("and what it had before was not sent again", traffic.is_one_of(uncached.size), f"{traffic}; the model has {uncached.size} bytes")


def _keeps_to_the_rate(world: World, traffic: Traffic) -> None:
    """A run begins when those before it are worked off, and is then as fast as it can be: what had come when the last one began is what the
    time until then has paid for."""
    begun = sorted((it for it in traffic.requests if Traffic([it]).content), key=lambda it: it["began"])
    first, last = begun[0]["began"], begun[-1]["began"]
    came, seconds = Traffic([it for it in begun if it["last"] <= last]).content, last - first
    world.check(f"{came} bytes of it came in {seconds:.1f} s, which are to be {LONG} at least", seconds >= LONG, traffic)
    per_second = came / seconds
    world.check(f"{per_second:.0f} per second, where the policy says {RATE}", 0.5 * RATE <= per_second <= 1.1 * RATE, traffic)


def _refused(world: World, scene: Scene, mark: int, size: int) -> None:
    scene.add(scene.inline_pod("uncached", "uncached"))
    refusal = scene.refusal("uncached", PATIENCE)
    world.check("what is not cached is refused with ResourceExhausted", refusal.code == "ResourceExhausted", refusal)
    world.check("in one sentence that says who does not answer", refusal.is_one_sentence and "controller" in refusal.sentence, refusal)
    print(f"      “{refusal.sentence}”")
    sent = world.store.since(mark).content
    world.check(f"after {sent} bytes at most of what was left of a grant", sent < size)
    world.check("the driver's node pod is ready meanwhile", world.driver.is_ready(), world.kube.attempt("get", f"--namespace={SYSTEM}", "pods").out)
