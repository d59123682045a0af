"""A namespace may have so much content on each node and in the cluster: a volume beyond that is refused in one sentence before a byte is
fetched, whether a pod or a claim asks for it, and starts by itself when there is room. A limit that is lowered disturbs nobody who runs,
nor does the driver's restart, and everybody can see what is used and, in the audit log, who was refused."""

import json
import time

from ..audit import NODE, AuditLog, who
from ..cluster import FIRST
from ..manifests import GROUP, claim, claimed, consumer, inline, pod
from ..model import MIB, Model
from ..outcome import until
from ..reader import never_noticed, reader
from ..scene import Scene
from ..store import COUNTED
from ..tables import rows, size
from ..world import World

NAME = "quota"
OTHER = f"{NAME}-other"
LIMITS = "limits"
"""The quota."""
PIN = f"pin:retain:{NAME}/kept"
"""How `tonnage cache ls` begins to name what keeps retained content."""
ELSEWHERE, THERE = "elsewhere", 512 * MIB
"""Name of a node that there is not, and what the namespace is said to have there."""
MANY = 40
"""Volumes that there may be in the cluster, where it is not about them."""
SOON = 5
"""Seconds in which a refusal has to be there."""
TOLD = 60
"""Seconds until the quota has to tell what is used: the node and the controller write each at most once in about 12 s."""
PATIENCE = 150
"""Seconds in which a refused pod has to start once there is room: kubelet asks ever more seldom, and at last every two minutes."""
READERS = ("claimed-1", "claimed-2", "inline")
"""Two pods of one claim, and one of its own, all of one model: two volumes."""


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED, consumers=[consumer(NAME), consumer(OTHER)])
    scene.add_namespace(OTHER)
    _limit(world, volumes=4, node="40Mi")
    _malformed(world)
    small, large, more = scene.add_model("small", shards=1), scene.add_model("large", shards=4), scene.add_model("more", shards=1)
    scene.add(claim(NAME, "shared", NAME, "small"), claim(NAME, "large", NAME, "large"))
    until("both claims are bound", 60, lambda: _are_bound(world, "shared", "large"))
    volumes = (claimed("shared"), claimed("shared"), inline(NAME, "small"))
    scene.start(*(reader(scene, name, volume, small) for name, volume in zip(READERS, volumes)), pod(OTHER, "neighbour", inline(NAME, "small")))
    _too_large(world, scene, small, large)
    _raised(world, scene, large)
    here = 2 * small.size + large.size
    _told(world, scene, here, small, large)
    _in_the_cluster(world, scene, here + THERE, more)
    _retained(world, scene)
    _lowered(world, scene, small)


def _quota(name: str, spec: dict) -> dict:
    return {"apiVersion": GROUP, "kind": "CacheQuota", "metadata": {"namespace": NAME, "name": name}, "spec": spec}


def _limit(world: World, volumes: int, node: str, cluster: str = "1Gi", everywhere: int = MANY) -> None:
    """Makes or changes the quota. Nodes watch it: a pod that is made afterwards takes longer to come to one than the change does. There is
    always a limit in the cluster, because where there is one, nodes tell soon what they have."""
    manifest = _quota(LIMITS, {"perNode": {"logicalBytes": node, "volumes": volumes}, "cluster": {"logicalBytes": cluster, "volumes": everywhere}})
    ended = []

    def applied() -> bool:
        """Where the kind is seconds old, the API server asks to come again."""
        ended[:] = [world.kube.attempt("apply", "--server-side", "--force-conflicts", "-f", "-", text=json.dumps(manifest))]
        return ended[0].code == 0

    until("the API server takes the quota", 20, applied, lambda: ended[0].err)


def _malformed(world: World) -> None:
    for what, spec, words in (
        ("without a limit", {}, "a CacheQuota must limit something: set logicalBytes or volumes of perNode or of cluster"),
        ("with places and no limit", {"perNode": {}, "cluster": {}}, "a CacheQuota must limit something"),
        ("of 50GB on a node", {"perNode": {"logicalBytes": "50GB"}}, "perNode.logicalBytes must be a whole number of bytes such as 500Gi"),
        ("of half a byte in the cluster", {"cluster": {"logicalBytes": "0.5"}}, "cluster.logicalBytes must be a whole number of bytes such as 10Ti"),
        ("of less than no volume", {"perNode": {"volumes": -1}}, "spec.perNode.volumes in body should be greater than or equal to 0"),
        ("of less than none in the cluster", {"cluster": {"volumes": -1}}, "spec.cluster.volumes in body should be greater than or equal to 0"),
        ("with a word that nobody knows", {"perNode": {"bytes": "1Gi"}}, 'unknown field "spec.perNode.bytes"'),
    ):
        ended = world.kube.try_to_create(_quota("malformed", spec))
        world.check(f"a quota {what} is not admitted: {words}", ended.code != 0 and words in ended.err, ended)


def _are_bound(world: World, *claims: str) -> bool:
    return all(world.kube.get(NAME, "persistentvolumeclaim", it)["status"].get("phase") == "Bound" for it in claims)


def _too_large(world: World, scene: Scene, small: Model, large: Model) -> None:
    """What two pods of a claim show counts once, and what an inline volume of the same model shows counts again."""
    sentence = _beyond(large.size, "on this node", 2 * small.size, 40 * MIB, "perNode")
    for what, manifest in (("an inline volume", scene.inline_pod("large", "large")), ("a claim", pod(NAME, "claimed-large", claimed("large")))):
        _refused(world, scene, f"{what} for which there is no room", manifest, sentence)
    scene.remove("claimed-large")


def _beyond(new: int, where: str, others: int, limit: int, field: str) -> str:
    """The sentence about bytes."""
    more = f"the volume has {size(new)} and the namespace's others {where} have {size(others)}, together more than the {size(limit)} that"
    return f"{more} CacheQuota {LIMITS} allows: delete pods or retained content, or ask an administrator to raise spec.{field}.logicalBytes"


def _too_many(count: int, limit: int, where: str = "on this node", field: str = "perNode") -> str:
    """The sentence about volumes."""
    many = f"the namespace has {count} volumes {where} and CacheQuota {LIMITS} allows {limit}"
    return f"{many}: delete pods or retained content, or ask an administrator to raise spec.{field}.volumes"


def _refused(world: World, scene: Scene, what: str, manifest: dict, sentence: str) -> None:
    name = manifest["metadata"]["name"]
    stored, mark, began = _stored(world), world.store.mark(), time.monotonic()
    log = AuditLog(world.kube)
    scene.add(manifest)
    refusal = scene.refusal(name, SOON * 2)
    took = time.monotonic() - began
    world.check(f"{what} is refused with ResourceExhausted in {took:.1f} s", took < SOON and refusal.code == "ResourceExhausted", refusal)
    world.check("in one sentence", refusal.is_one_sentence, refusal)
    world.equal(f"“{sentence}”", refusal.sentence, sentence)
    world.equal("for which no byte of content was fetched", world.store.since(mark).content, 0)
    found = world.kube.get(NAME, "pod", name)
    mounts = [it.point for it in world.cluster.volume_mounts() if it.pod == found["metadata"]["uid"]]
    world.equal("and of which nothing is left, neither a mount nor a file", (mounts, _stored(world)), ([], stored))
    world.equal("and the pod does not start", found["status"]["phase"], "Pending")
    asked = who(world.kube, NAME, name)
    denied = until("the audit log has the refusal", 10, lambda: [it for it in log.entries(NODE, "Deny") if it.get("who") == asked])[0]
    seen = tuple(denied.get(it) for it in ("rule", "quota", "reason", "node", "policies"))
    world.equal("and the audit log has who was refused by which quota, in the same words", seen, ("quota", LIMITS, sentence, FIRST, None))


def _stored(world: World) -> tuple[dict, set[str]]:
    """What the cache holds, whole and half done."""
    half_done = world.cluster.files("/var/lib/tonnage/partial", "/var/lib/tonnage/tmp", "-type", "f")
    return world.driver.usage()["objects"], set(half_done)


def _raised(world: World, scene: Scene, large: Model) -> None:
    mark = world.store.mark()
    _limit(world, volumes=4, node="64Mi")
    scene.wait_until_running("large", seconds=PATIENCE)
    world.equal("the refused pod runs by itself once the limit is raised", scene.sums("large"), large.sums)
    traffic = world.store.since(mark)
    world.check(f"with one download: {traffic}", traffic.is_one_of(large.size), f"the model has {large.size} bytes")


def _told(world: World, scene: Scene, here: int, small: Model, large: Model) -> None:
    _say_elsewhere(world, scene)
    # A further file counts once on the disk, and the neighbour's model is shared with another namespace.
    own = {"node": FIRST, "logicalBytes": here, "volumes": 3, "physicalBytes": small.size + large.size, "sharedBytes": small.size}
    other = {"node": ELSEWHERE, "logicalBytes": THERE, "volumes": 1, "physicalBytes": THERE, "sharedBytes": 0}

    def told() -> dict | None:
        status = world.kube.get(NAME, "cachequota", LIMITS).get("status", {})
        return status if status.get("nodes") == [other, own] else None

    status = until(f"the quota tells what {FIRST} and {ELSEWHERE} have", TOLD, told, lambda: world.kube.get(NAME, "cachequota", LIMITS).get("status"))
    world.check(f"the quota tells of 3 volumes of {here} bytes, which take {own['physicalBytes']} on the disk, {small.size} of them shared", True)
    used, fullest = f"{size(here + THERE)} in 4 volumes on 2 nodes", f"{ELSEWHERE} {size(THERE)} of 64.0 MiB"
    rows = {it["node"]: (it["bytes"], it["volumes"]) for it in status["reserved"]}
    world.equal("as much is set aside for each of them in the cluster", rows, {ELSEWHERE: (THERE, 1), FIRST: (here, 3)})
    seen = (status["logicalBytes"], status["volumes"], status["used"], status["fullest"])
    world.equal("and what all nodes have together, and where the least room is", seen, (here + THERE, 4, used, fullest))
    printed = world.kube("get", "cachequotas", f"--namespace={NAME}")
    columns = {"NAME": LIMITS, "PER NODE": "64Mi", "VOLUMES": "4", "CLUSTER": "1Gi", "USED": used, "FULLEST": fullest}
    _shows(world, "`kubectl get cachequotas` has columns for people", printed, columns)
    printed = world.driver.attempt_on_node("quota", "--namespace", NAME).out
    columns = {"NAMESPACE": NAME, "QUOTA": LIMITS, "PER NODE": "64.0 MiB", "VOLUMES": "4", "CLUSTER": "1.0 GiB", "CLUSTER VOLUMES": f"{MANY}", "USED": used, "FULLEST NODE": fullest, "READY": "True"}
    _shows(world, "`tonnage quota` says the same", printed, columns)
    answer = json.loads(world.driver.attempt_on_node("quota", "--namespace", NAME, "--output=json").out)
    world.equal("and in numbers what the status has", [it["status"]["nodes"] for it in answer], [[other, own]])


def _say_elsewhere(world: World, scene: Scene) -> None:
    """As the driver of another node would."""
    scene.add({"apiVersion": GROUP, "kind": "NodeCache", "metadata": {"name": ELSEWHERE}, "spec": {}})
    line = {"namespace": NAME, "logicalBytes": THERE, "volumes": 1, "physicalBytes": THERE, "sharedBytes": 0}
    change = json.dumps({"status": {"namespaces": [line]}})
    world.kube("patch", "nodecache", ELSEWHERE, "--subresource=status", "--type=merge", "--patch", change)


def _shows(world: World, sentence: str, printed: str, columns: dict[str, str]) -> None:
    print("".join(f"      {line}\n" for line in printed.splitlines()), end="")
    seen = [{key: row.get(key) for key in columns} for row in rows(printed)]
    world.equal(sentence, seen, [columns])


def _in_the_cluster(world: World, scene: Scene, used: int, more: Model) -> None:
    """Bytes and volumes of another node count, as the quota's status has them."""
    limit = used + more.size // 2
    _limit(world, volumes=4, node="64Mi", cluster=f"{limit}")
    sentence = _beyond(more.size, "in the cluster", used, limit, "cluster")
    _refused(world, scene, "a volume that is too large beside what another node has", scene.inline_pod("more", "more"), sentence)
    _limit(world, volumes=4, node="64Mi", everywhere=4)
    sentence = _too_many(4, 4, "in the cluster", "cluster")
    _refused(world, scene, "one that is too many beside that", scene.inline_pod("many", "more"), sentence)
    scene.remove("many")
    _limit(world, volumes=4, node="64Mi")
    scene.wait_until_running("more", seconds=PATIENCE)
    world.equal("it runs by itself once the limit of the cluster is raised", scene.sums("more"), more.sums)


def _retained(world: World, scene: Scene) -> None:
    scene.remove("large", "more")
    scene.add_model("kept", shards=1)
    world.afterwards(lambda: _let_go(world))
    scene.start(scene.inline_pod("kept", "kept", retain="true"))
    scene.remove("kept")
    _limit(world, volumes=3, node="64Mi")
    _refused(world, scene, "a volume beside two that are shown and one that is retained", scene.inline_pod("waits", "more"), _too_many(3, 3))
    world.equal("one pin keeps it", _let_go(world), 1)
    scene.wait_until_running("waits", seconds=PATIENCE)
    world.check("it runs by itself once the retained content is let go", True)


def _let_go(world: World) -> int:
    """Lets all that is retained for the scenario go; how many pins that were."""
    contents = json.loads(world.driver.tonnage("cache", "ls", "--json"))
    pins = [keeper.removeprefix("pin:") for it in contents for keeper in it["kept_by"] if keeper.startswith(PIN)]
    for pin in pins:
        world.driver.tonnage("cache", "unpin", pin)
    return len(pins)


def _lowered(world: World, scene: Scene, small: Model) -> None:
    _limit(world, volumes=1, node="1Mi")
    _refused(world, scene, "a new volume where the limit was lowered below what is used", scene.inline_pod("late", "small"), _too_many(3, 1))
    never_noticed(world, scene, *READERS)
    scene.start(reader(scene, "claimed-3", claimed("shared"), small))
    world.check("one more pod of a claim that is shown here already is let in", True)
    before = world.driver.node_restarts()
    world.driver.kill_node_process()
    until("the driver's node service was started again", 90, lambda: world.driver.node_restarts() > before)
    world.driver.wait_until_ready()
    never_noticed(world, scene, *READERS, "claimed-3")
    scene.add(scene.inline_pod("later", "small"))

    def refused() -> bool:
        """A service that starts may answer first that it has not read the quotas yet."""
        return any((it.code, it.sentence) == ("ResourceExhausted", _too_many(3, 1)) for it in scene.refusals("later"))

    until("a new volume is refused", 30, refused, lambda: scene.refusals("later"))
    world.check("and after the driver's restart a new volume is refused in the same words", True)
