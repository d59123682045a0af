"""With the store away, a cached model is mounted, and a pod that needs the store is told why and goes on by itself when it is back; with
the API server away, pods that run are undisturbed. A store inside the cluster is out of reach until its source names the address."""

import time
from pathlib import Path

from ..manifests import claim, claimed, consumer, inline, pod, source, without_volume
from ..outcome import until
from ..paths import STATE
from ..scene import Scene
from ..world import World

NAME = "unreachable"
AWAY = 20
"""Seconds without the API server: longer than kubelet's and the driver's patience with a request."""
INSIDE = f"{NAME}-inside"
NOTE = "exec httpd -f -vv -p 9000 -h /"
"""Listens, and logs every request and nothing else."""
CLOSED = "an address inside the cluster, which this source does not allow"
READ = "while sha256sum /model/config.json; do sleep 1; done"


def run(world: World) -> None:
    scene = world.scene(NAME)
    _inside_the_cluster(world, scene)
    _without_the_store(world, scene)
    _without_the_api_server(world, scene)


def _inside_the_cluster(world: World, scene: Scene) -> None:
    """Whoever the store is that a source leads to: a pod that notes who comes."""
    scene.start(without_volume(pod(NAME, "inside", {}, NOTE)))
    address = world.kube.get(NAME, "pod", "inside")["status"]["podIP"]
    scene.add(source(INSIDE, f"http://{address}:9000", [consumer(NAME)]))
    until("the controller finds the source closed", 60, lambda: CLOSED in _ready(world)["message"], lambda: _ready(world))
    world.equal("a source that leads to a pod's address is not Ready", (_ready(world)["status"], _ready(world)["reason"]), ("False", "Denied"))
    scene.add(pod(NAME, "lured", inline(INSIDE, "any")))
    refusal = scene.refusal("lured", 30)
    world.equal("a pod that uses it is answered with PermissionDenied", refusal.code, "PermissionDenied")
    world.check("and with one sentence that says why", refusal.is_one_sentence and f"is at {address}: {CLOSED}" in refusal.sentence, refusal)
    print(f"      “{refusal.sentence}”")
    world.equal("and nobody has connected to that address", world.kube.logs(NAME, "inside"), "")
    world.kube.patch("", "source", INSIDE, {"spec": {"allowedCIDRs": [f"{address}/32"]}})
    until("a source that names the address leads there", 120, lambda: "url:" in world.kube.logs(NAME, "inside"), lambda: _ready(world))
    world.check("once the source names the address, it is connected to", True)
    scene.remove("lured", "inside")


def _ready(world: World) -> dict:
    """The condition; a source that was not examined yet has none."""
    return world.kube.condition("", "source", INSIDE, "Ready") or {"status": "", "reason": "", "message": ""}


def _without_the_store(world: World, scene: Scene) -> None:
    cached, uncached = scene.add_model("cached"), scene.add_model("uncached")
    scene.add(claim(NAME, "cached", NAME, "cached"))
    scene.start(pod(NAME, "before", claimed("cached")))
    world.store.stop_server()
    try:
        scene.start(pod(NAME, "during", claimed("cached")), seconds=30)
        world.equal("a model that is cached is mounted while the store is away", scene.sums("during"), cached.sums)
        scene.add(scene.inline_pod("waiting", "uncached"))
        refusal = scene.refusal("waiting", 150)
        world.check("a model that is not cached is answered with Unavailable", refusal.code == "Unavailable", refusal)
        world.check("and with one sentence", refusal.is_one_sentence, refusal)
        print(f"      “{refusal.sentence}”")
    finally:
        world.store.start_server()
    scene.wait_until_running("waiting", seconds=120)
    world.equal("that pod goes on by itself when the store is back", scene.sums("waiting"), uncached.sums)


def _without_the_api_server(world: World, scene: Scene) -> None:
    scene.start(pod(NAME, "reader", inline(NAME, "cached"), READ))
    uid = world.kube.get(NAME, "pod", "reader")["metadata"]["uid"]
    log = STATE / "log/pods" / f"{NAME}_reader_{uid}" / "reader/0.log"
    restarts = world.driver.node_restarts()
    world.cluster.kill_component("kube-apiserver")
    try:
        began = _passes(log)
        time.sleep(AWAY)
        passes = _passes(log) - began
    finally:
        world.cluster.start_component("kube-apiserver")
        world.cluster.wait_for_api()
    world.check(f"a pod read {passes} times in {AWAY} s without the API server", passes > AWAY / 2)
    until("the node is Ready again", 90, lambda: _is_ready(world))
    reader = scene.wait_until_running("reader")
    world.equal("it is the same container as before", (reader["metadata"]["uid"], reader["status"]["containerStatuses"][0]["restartCount"]), (uid, 0))
    world.driver.wait_until_ready()
    world.equal("the driver's node service was not restarted for it", world.driver.node_restarts(), restarts)
    scene.start(scene.inline_pod("after", "cached"))
    world.check("a new pod gets its volume", True)


def _passes(log: Path) -> int:
    return len(log.read_text().splitlines())


def _is_ready(world: World) -> bool:
    conditions = world.kube.get("", "node", "node1")["status"]["conditions"]
    return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)
