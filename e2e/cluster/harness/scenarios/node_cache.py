"""The node's `NodeCache` tells of a load within a minute or so, in figures and in columns; the driver of a node writes its own object and,
whatever its role would let it do, no other's."""

import json

from ..bearer import Bearer
from ..cluster import FIRST
from ..kubectl import Kubectl
from ..manifests import GROUP, SYSTEM
from ..model import Model
from ..outcome import until
from ..store import COUNTED
from ..world import World

NAME = "node-cache"
PATH = "told"
POD = "reader"
TOLD = 120
"""Seconds until a `NodeCache` has to tell of a load: it is written at most once a minute."""
OTHER = "elsewhere"
"""Name of a node that there is not, and of its object."""
AGENT = f"--as=system:serviceaccount:{SYSTEM}:tonnage-node"
MOST = 16 << 10


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED)
    model = scene.add_model(PATH)
    scene.start(scene.inline_pod(POD, PATH))
    _tells_of_the_load(world, model)
    _is_the_node_s(world)
    _has_columns(world)
    scene.add(_node_cache(OTHER))
    _writes_its_own_only(world)
    _makes_its_own_only(world)


def _tells_of_the_load(world: World, model: Model) -> None:
    def told() -> dict | None:
        status = (world.kube.find("", "nodecache", FIRST) or {}).get("status", {})
        return status if _load(status) and _content(status) else None

    status = until(f"the NodeCache of {FIRST} tells of the load", TOLD, told, lambda: _seen(world.kube))
    load, content = _load(status), _content(status)
    origins = load.get("bytesByOrigin", {})
    world.equal("the load shows the source, the path and the bytes of the volume", (load["source"], load["path"], load["bytes"]), (NAME, PATH, model.size))
    world.check(f"and where they came from, {origins}, in {load['milliseconds']} ms", sum(origins.values()) >= model.size and load["milliseconds"] > 0)
    shown = (content["bytes"], content["files"], content["volumes"])
    world.equal("the content is listed with its bytes, its files and the one volume that shows it", shown, (model.size, len(model.sizes), 1))
    used, capacity, objects = status["usedBytes"], status["capacityBytes"], status["objects"]
    world.check(f"{objects} files use {used} of {capacity} bytes", model.size <= used <= capacity and objects > 0)
    world.check("nothing is negative", all(status[it] >= 0 for it in ("savedBytes", "freeBytes", "reservedBytes")), status)
    conditions = {it["type"]: it["status"] for it in status["conditions"]}
    world.equal("the cache is ready and sound", (conditions["Ready"], conditions["Damaged"]), ("True", "False"))


def _load(status: dict) -> dict | None:
    return next((it for it in status.get("loads", []) if (it.get("namespace"), it.get("pod")) == (NAME, POD)), None)


def _content(status: dict) -> dict | None:
    """The model among what is stored; one of an earlier run has no volume any more."""
    return next((it for it in status.get("manifests", []) if (it.get("source"), it.get("path")) == (NAME, PATH) and it["volumes"]), None)


def _seen(kube: Kubectl) -> str:
    return kube.attempt("get", "nodecaches", "--output=yaml").out


def _is_the_node_s(world: World) -> None:
    owners = world.kube.get("", "nodecache", FIRST)["metadata"]["ownerReferences"]
    uid = world.kube.get("", "node", FIRST)["metadata"]["uid"]
    world.equal("the object is owned by its Node, so that it goes with it", [(it["kind"], it["name"], it["uid"]) for it in owners], [("Node", FIRST, uid)])
    whole = json.loads(world.kube("get", "nodecache", FIRST, "--output=json", "--show-managed-fields"))
    size = len(json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode())
    world.check(f"it has {size} bytes, which is at most 16 KiB", size <= MOST)


def _has_columns(world: World) -> None:
    printed = world.kube("get", "nodecaches").splitlines()
    world.equal("kubectl get has columns for people", printed[0].split(), ["NAME", "CAPACITY", "USED", "SAVED", "VOLUMES", "READY", "AGE"])
    for line in printed:
        print(f"      {line}")


def _writes_its_own_only(world: World) -> None:
    pod = until("the driver's node pod is there", 60, world.driver.node_pod)
    bearer = Bearer(world.cluster, world.kube, pod)
    version = world.kube.get("", "nodecache", FIRST)["status"]["driverVersion"]
    change = {"status": {"driverVersion": version}}
    done = bearer.patch(f"{_path(FIRST)}/status", change)
    world.check("the token of the node's driver may write the status of its own NodeCache", done.is_done, done)
    for what, refused in (
        ("status", bearer.patch(f"{_path(OTHER)}/status", change)),
        ("metadata", bearer.patch(_path(OTHER), {"metadata": {"labels": {"written-by": FIRST}}})),
    ):
        world.check(f"and not the {what} of another node's: an admission policy refuses it", refused.is_denied_by_policy, refused)
        print(f"      “{refused.message}”")


def _makes_its_own_only(world: World) -> None:
    """The API server takes a user's extra fields from the token; here an administrator states them."""
    bound = f"--as-user-extra=authentication.kubernetes.io/node-name={FIRST}"
    for who, flags in (("with a token of this node", [AGENT, bound]), ("with a token that is bound to no pod", [AGENT])):
        text = json.dumps(_node_cache(f"{OTHER}-too"))
        ended = world.kube.attempt("create", "--dry-run=server", *flags, "-f", "-", text=text)
        refused = ended.code != 0 and "ValidatingAdmissionPolicy 'node-objects.tonnage.dev'" in ended.err
        world.check(f"the driver, {who}, cannot make the NodeCache of another node", refused, ended)
    ended = world.kube.attempt("delete", "nodecache", FIRST, "--dry-run=server", AGENT, bound)
    world.check("its role does not let it delete any", ended.code != 0 and "is forbidden" in ended.err, ended)


def _node_cache(name: str) -> dict:
    return {"apiVersion": GROUP, "kind": "NodeCache", "metadata": {"name": name}, "spec": {}}


def _path(name: str) -> str:
    return f"/apis/{GROUP}/nodecaches/{name}"
