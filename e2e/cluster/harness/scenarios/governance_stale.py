"""Rules that a node could not read for longer than a policy lets it go by them load nothing new: without the API server a load stops in one
sentence and keeps what it has; where the server answers and only the rules cannot be read, a pod of an uncached model is refused in that
sentence and one of a cached model mounts. When the rules can be read again, everybody starts by himself."""

import re

from ..manifests import inline, pod
from ..outcome import Failure, until
from ..paths import STATE
from ..reader import never_noticed, reader
from ..rules import Rules, policy
from ..scene import Scene
from ..store import COUNTED
from ..world import World

NAME = "governance-stale"
STALE = 60
"""Seconds that rules may be old, the least that a policy can say."""
STOPPED = 120
"""Seconds in which the load has to stop: a run that has begun ends, and the next one begins at the policy's rate."""
PATIENCE = 200
"""Seconds in which waiting pods have to start: kubelet tries again every two minutes at last, the watch of the rules every ten seconds, and a load
that has begun needs its time."""
NOTICED = 120
"""Seconds in which a pod has to start that is made just after the API server is back: kubelet looks for new pods again after half a minute,
and up to as much again."""
ROLE, POLICIES = "tonnage-node", "egresspolicies"
SENTENCE = re.compile(
    rf"the policies are (\d+) s old, because nothing newer can be read from the API server, and EgressPolicy {NAME} lets nothing be loaded by policies older "
    rf"than {STALE} s \(spec\.maxStalenessSeconds\); content that is cached still mounts"
)


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED)
    rules = Rules(world.kube)
    world.afterwards(rules.remove)
    cached, slow = scene.add_model("cached", shards=1), scene.add_model("slow", shards=8)
    uncached = scene.add_model("uncached", shards=1)
    scene.start(reader(scene, "reader", inline(NAME, "cached"), cached))
    # What has been asked for may come, and one run is at most 8 MiB: so the load outlives the rules.
    rules.apply(policy(NAME, NAME, allow=[{}], maxStalenessSeconds=STALE, rate={"bytesPerSecondPerNode": "500k", "connectionsPerNode": 1}))
    mark = world.store.mark()
    scene.add(scene.inline_pod("slow", "slow"))
    until("the slow load has begun", 30, lambda: world.store.so_far(mark).content > 0)
    before = _rules_of_the_role(world)
    world.afterwards(lambda: _may(world, before))
    _stops(world, before, mark, slow.size)
    never_noticed(world, scene, "reader")
    _refused(world, scene)
    _goes_on(world, scene, rules, before)
    world.equal("both read what the generator wrote", (scene.sums("slow"), scene.sums("uncached")), (slow.sums, uncached.sums))
    traffic = world.store.since(mark)
    world.check(f"and nothing was sent twice: {traffic}", traffic.is_one_of(slow.size + uncached.size), f"both have {slow.size + uncached.size} bytes")


def _rules_of_the_role(world: World) -> list[dict]:
    return world.kube.get("", "clusterrole", ROLE)["rules"]


def _may(world: World, rules: list[dict]) -> None:
    world.kube.patch("", "clusterrole", ROLE, {"rules": rules})


def _without_policies(rules: list[dict]) -> list[dict]:
    """The role of a driver that may not read rules of egress."""
    without = [{**it, "resources": [kind for kind in it["resources"] if kind != POLICIES]} if POLICIES in it.get("resources", []) else it for it in rules]
    if without == rules:
        raise Failure(f"ClusterRole {ROLE} says nothing of {POLICIES}: {rules}")
    return without


def _stops(world: World, role: list[dict], mark: int, size: int) -> None:
    """Nobody can tell the API server of it meanwhile: what the driver answers stands in kubelet's log."""
    log = STATE / "log/kubelet.log"
    _may(world, _without_policies(role))
    begin = log.stat().st_size
    world.cluster.kill_component("kube-apiserver")
    try:
        said = until("kubelet is told that the rules are too old", STOPPED, lambda: _answer(log.read_bytes()[begin:]), lambda: log.read_bytes()[-600:])
        sent = world.store.since(mark).content
    finally:
        world.cluster.start_component("kube-apiserver")
        world.cluster.wait_for_api()
    _is_too_old(world, "without the API server a load stops with ResourceExhausted, in one sentence", said)
    world.check(f"after {sent} of {size} bytes", 0 < sent < size)
    world.kube("wait", "--for=condition=Ready", "node/node1", "--timeout=90s")
    world.driver.wait_until_ready()


def _answer(logged: bytes) -> str | None:
    """The sentence of the first answer for the slow pod that is one of too old rules."""
    found = re.search(r'pod "slow" .*rpc error: code = ResourceExhausted desc = (the policies are .*)', logged.decode(errors="replace"))
    return found[1].strip() if found else None


def _is_too_old(world: World, sentence: str, said: str) -> None:
    found = SENTENCE.fullmatch(said)
    world.check(sentence, found and int(found[1]) > STALE, said)
    print(f"      “{said}”")


def _refused(world: World, scene: Scene) -> None:
    """The API server is back, and the driver may still not read the rules."""
    mark = world.store.mark()
    scene.start(pod(NAME, "during", inline(NAME, "cached")), seconds=NOTICED)
    world.equal("by rules that are too old a cached model mounts", scene.sums("during"), scene.sums("reader"))
    world.equal("without a byte of content", world.store.since(mark).content, 0)
    scene.add(scene.inline_pod("uncached", "uncached"))

    def refused() -> str | None:
        """A watch of what has changed meanwhile may come first."""
        return next((it.sentence for it in scene.refusals("uncached") if it.code == "ResourceExhausted"), None)

    said = until("the pod of an uncached model is refused", 30, refused, lambda: scene.refusals("uncached"))
    _is_too_old(world, "and a pod of an uncached model is refused with ResourceExhausted, in the same sentence", said)
    world.equal("for which no byte of content was fetched", world.store.since(mark).content, 0)


def _goes_on(world: World, scene: Scene, rules: Rules, role: list[dict]) -> None:
    _may(world, role)
    rules.change(NAME, rate=None)
    for name in ("slow", "uncached"):
        scene.wait_until_running(name, seconds=PATIENCE)
    world.check("once the rules can be read again, both pods run by themselves", True)
