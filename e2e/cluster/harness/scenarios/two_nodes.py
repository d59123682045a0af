"""The driver runs on a node that joins, also where each node is in a group of its own with its own place for the cache; one claim mounts on
both nodes, and each node downloads the model once and for itself; each tells of its cache in a `NodeCache` that the driver of the other
cannot write; of what a quota allows in the cluster, no byte goes to both; a node that is taken out again leaves nothing behind."""

from ..bearer import Bearer
from ..cluster import FIRST, SECOND
from ..install import CACHE, NODE_PODS, takes_volumes
from ..manifests import GROUP, SYSTEM, claim, claimed, pod
from ..model import Model
from ..outcome import until
from ..scene import Scene
from ..second_node import SecondNode, on_node
from ..store import COUNTED
from ..world import World

NAME = "two-nodes"
GROUPED = f"{NAME}-grouped"
NODES = (FIRST, SECOND)
PATH, MORE = "shared", "more"
QUOTA = "room"
DEFAULT = "default"
"""The group that the driver is installed with."""
TOLD = 120
"""Seconds until a `NodeCache` has to tell of a load: it is written at most once a minute."""
PATIENCE = 150
"""Seconds in which a refused pod has to start once there is room: kubelet asks ever more seldom, and at last every two minutes."""


def run(world: World) -> None:
    second = SecondNode(world.cluster, world.kube)
    world.afterwards(second.remove)
    second.add()
    _driver_on_both(world)
    _grouped(world, second)
    scene = world.scene(NAME, endpoint=COUNTED)
    model = scene.add_model(PATH)
    scene.add(claim(NAME, PATH, NAME, PATH))
    for node in NODES:
        _downloads_once(world, scene, node, model)
    _each_mounts_its_own(world, second)
    for node in NODES:
        _is_told(world, node, model)
    _writes_its_own_only(world, second)
    _one_of_two_has_room(world, scene, model)
    _leaves_nothing(world, second)


def _driver_on_both(world: World) -> None:
    status = world.kube.get(SYSTEM, "daemonset", "tonnage-node-default")["status"]
    seen = (status["desiredNumberScheduled"], status["numberReady"])
    world.equal("the DaemonSet wants a pod on each of two nodes, and both are ready", seen, (2, 2))


def _grouped(world: World, second: SecondNode) -> None:
    """Before there is any volume: those of one group are nothing to the driver of another."""
    groups = [{"name": node, "nodeSelector": {"kubernetes.io/hostname": node}, "cacheDir": _cache(node)} for node in NODES]
    try:
        world.driver.upgrade({"nodeGroups": groups})
        _served_by(world, {node: (node, _cache(node)) for node in NODES})
        world.check("of two node groups by hostname each serves its own node, with its own place for the cache", True)
        _mounts_by_group(world, second)
    finally:
        world.driver.upgrade()
        _served_by(world, dict.fromkeys(NODES, (DEFAULT, CACHE)))
        # The second node's disk goes with the node.
        world.cluster.inside("rm", "--recursive", "--force", "--one-file-system", _cache(FIRST))
    world.check("afterwards the one group serves both again", True)


def _cache(group: str) -> str:
    """On the disk that a node has for caches."""
    return f"{CACHE}/group-{group}"


def _served_by(world: World, wanted: dict[str, tuple[str, str]]) -> None:
    """Waits until each node has one driver, and that is of this group and has this cache. The next one on a node restarts until the one
    before it is gone."""
    drivers = sorted((node, group, cache, True) for node, (group, cache) in wanted.items())
    until(f"the drivers of {', '.join(wanted)} are of the groups that are wanted", 120, lambda: _drivers(world) == drivers, lambda: _drivers(world))


def _drivers(world: World) -> list[tuple[str, str, str, bool]]:
    """Of each node pod its node, its group and its cache, and whether it takes volumes."""
    return sorted(_driver(it) for it in world.kube.all(SYSTEM, "pods", NODE_PODS))


def _driver(it: dict) -> tuple[str, str, str, bool]:
    group = it["metadata"]["ownerReferences"][0]["name"].removeprefix("tonnage-node-")
    cache = next(volume["hostPath"]["path"] for volume in it["spec"]["volumes"] if volume["name"] == "cache")
    return it["spec"].get("nodeName", ""), group, cache, takes_volumes(it)


def _mounts_by_group(world: World, second: SecondNode) -> None:
    scene = world.scene(GROUPED, endpoint=COUNTED)
    model = scene.add_model(PATH)
    scene.add(claim(GROUPED, PATH, GROUPED, PATH))
    mark = world.store.mark()
    scene.start(*(on_node(node, pod(GROUPED, node, claimed(PATH))) for node in NODES), seconds=PATIENCE)
    world.equal("a claim mounts on the nodes of both groups", [scene.sums(node) for node in NODES], [model.sums] * 2)
    traffic = world.store.since(mark)
    world.check("for one download each", traffic.is_one_of(len(NODES) * model.size), traffic)
    for node, there in ((FIRST, world.cluster), (SECOND, second.here)):
        seen = there.files(f"{_cache(node)}/views", "-type", "f", "-printf", "%s\\n")
        world.equal(f"{node}: the model's files are in the cache of its group", {int(it) for it in seen}, set(model.sizes.values()))
    scene.remove(*NODES)


def _names(node: str) -> list[str]:
    return [f"{node}-{number}" for number in (1, 2)]


def _downloads_once(world: World, scene: Scene, node: str, model: Model) -> None:
    first, later = _names(node)
    mark = world.store.mark()
    scene.start(on_node(node, pod(NAME, first, claimed(PATH))))
    traffic = world.store.since(mark)
    world.check(f"{node}: the first pod of the claim costs one download", traffic.is_one_of(model.size), traffic)
    mark = world.store.mark()
    scene.start(on_node(node, pod(NAME, later, claimed(PATH))))
    world.equal(f"{node}: the second pod downloads nothing", world.store.since(mark).content, 0)
    world.equal(f"{node}: both read what the generator wrote", [scene.sums(name) for name in (first, later)], [model.sums] * 2)


def _each_mounts_its_own(world: World, second: SecondNode) -> None:
    for node, there in ((FIRST, world.cluster), (SECOND, second.here)):
        uids = {world.kube.get(NAME, "pod", name)["metadata"]["uid"] for name in _names(node)}
        mounted = {it.point.split("/pods/")[1].split("/")[0] for it in there.volume_mounts()}
        world.equal(f"{node}: the volumes of its own pods are mounted, and no other's", mounted, uids)


def _is_told(world: World, node: str, model: Model) -> None:
    def told() -> dict | None:
        status = (world.kube.find("", "nodecaches.tonnage.dev", node) or {}).get("status", {})
        loads = [it for it in status.get("loads", []) if it.get("namespace") == NAME]
        return status if {it.get("pod") for it in loads} == set(_names(node)) and _shown(status) else None

    def seen() -> object:
        return world.kube.attempt("get", "nodecaches.tonnage.dev", "--output=yaml").out

    status = until(f"the NodeCache of {node} tells of the loads of its own pods", TOLD, told, seen)
    world.check(f"the NodeCache of {node} tells of the loads of its own pods, and of no other's", True)
    shown = _shown(status)
    world.equal("it shows the model: bytes, files, volumes", (shown["bytes"], shown["files"], shown["volumes"]), (model.size, len(model.sizes), 2))
    used, capacity = status["usedBytes"], status["capacityBytes"]
    world.check(f"it says that {used} of {capacity} bytes are used", model.size <= used <= capacity)


def _shown(status: dict) -> dict | None:
    """The model among the contents that a node tells of. One of an earlier run has no volumes any more."""
    return next((it for it in status.get("manifests", []) if (it.get("source"), it.get("path")) == (NAME, PATH) and it["volumes"]), None)


def _writes_its_own_only(world: World, second: SecondNode) -> None:
    pods = second.driver_pods()
    for mine, other in (NODES, NODES[::-1]):
        bearer = Bearer(world.cluster, world.kube, pods[mine])
        done = bearer.patch(f"{_path(mine)}/status", _same(world, mine))
        world.check(f"the token of the driver on {mine} may write the status of NodeCache {mine}", done.is_done, done)
        for what, refused in (
            ("status", bearer.patch(f"{_path(other)}/status", _same(world, other))),
            ("metadata", bearer.patch(_path(other), {"metadata": {"labels": {"written-by": mine}}})),
        ):
            world.check(f"and not the {what} of NodeCache {other}: an admission policy refuses it", refused.is_denied_by_policy, refused)
            print(f"      “{refused.message}”")


def _path(node: str) -> str:
    return f"/apis/{GROUP}/nodecaches/{node}"


def _same(world: World, node: str) -> dict:
    """A change of a node's status that says what it says already."""
    status = world.kube.get("", "nodecaches.tonnage.dev", node)["status"]
    return {"status": {"driverVersion": status["driverVersion"]}}


def _one_of_two_has_room(world: World, scene: Scene, model: Model) -> None:
    """A limit in the cluster with room for one volume more, by its bytes and by its number."""
    more = scene.add_model(MORE, shards=1)
    _contested(world, scene, "bytes", {"logicalBytes": len(NODES) * model.size + more.size}, model.size)
    _contested(world, scene, "volumes", {"volumes": len(NODES) + 1}, 1)


def _contested(world: World, scene: Scene, what: str, most: dict[str, int], there: int) -> None:
    """A pod on each node asks for the last room at the same moment, and `there` is what each has already."""
    limit, = most.values()
    scene.add({"apiVersion": GROUP, "kind": "CacheQuota", "metadata": {"namespace": NAME, "name": QUOTA}, "spec": {"cluster": most}})
    before = dict.fromkeys(NODES, there)
    until(f"the {what} that are there are set aside for both nodes", TOLD, lambda: _set_aside(world, what) == before, lambda: _set_aside(world, what))
    names = {node: f"{node}-{MORE}" for node in NODES}
    scene.add(*(on_node(node, scene.inline_pod(name, MORE)) for node, name in names.items()))

    def decided() -> tuple[list[str], list[str]] | None:
        running = [it for it in names.values() if world.kube.get(NAME, "pod", it)["status"]["phase"] == "Running"]
        refused = [it for it in names.values() if any(no.code == "ResourceExhausted" for no in scene.refusals(it))]
        return (running, refused) if running and refused else None

    running, refused = until("one pod runs and one is refused", 60, decided, lambda: [scene.refusals(it) for it in names.values()])
    world.equal(f"of two pods on two nodes that ask for the last room in the cluster, by {what}, one runs", sorted(running + refused), sorted(names.values()))
    sentence = scene.refusals(refused[0])[-1].sentence
    world.check(f"and one is refused: “{sentence}”", f"CacheQuota {QUOTA} allows" in sentence and "in the cluster" in sentence)
    world.equal("all that is set aside is the limit", sum(_set_aside(world, what).values()), limit)
    scene.remove(*running)
    scene.wait_until_running(refused[0], seconds=PATIENCE)
    world.check("once the first has gone, the second runs by itself", sum(_set_aside(world, what).values()) <= limit)
    scene.remove(*refused)


def _set_aside(world: World, what: str) -> dict[str, int]:
    """Bytes or volumes, by node."""
    rows = world.kube.get(NAME, "cachequota", QUOTA).get("status", {}).get("reserved") or []
    return {it["node"]: it[what] for it in rows}


def _leaves_nothing(world: World, second: SecondNode) -> None:
    """Its pods are still there: they are drained."""
    second.remove()
    left = {it["metadata"]["name"] for it in world.kube.all(NAME, "pods")}
    world.equal("a drained node's pods go, and those of the other node stay", left, set(_names(FIRST)))
    until(f"no trace of {SECOND} is left", 90, lambda: not second.traces(), second.traces)
    world.check("no object, pod, process, interface, loop device, cgroup or directory of the node is left", True)
    world.driver.wait_until_ready()
    world.check("the driver serves the other node as before", True)
