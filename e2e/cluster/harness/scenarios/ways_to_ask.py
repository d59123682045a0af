"""Inline, claim, static volume and generic ephemeral volume show a pod the model byte for byte, and no pod can change it; also in a
namespace of the restricted Pod Security level, and in a user namespace where the container runtime has those."""

import re

from ..cluster import KUBELET
from ..manifests import (
    RESTRICTED,
    MOUNT,
    claim,
    claimed,
    consumer,
    ephemeral,
    in_user_namespace,
    inline,
    pod,
    restricted,
    source,
    static_volume,
    without_volume,
)
from ..model import Model
from ..outcome import until
from ..scene import Scene
from ..store import DIRECT
from ..world import World

NAME = "ways-to-ask"
STRICT = f"{NAME}-restricted"
PATH = "llama/3.1"
TOLD = "told"
TOOK = r"(\d+ ms|\d+\.\d\d s|\d+ min \d+ s)"
SPEED = r"\d+\.\d [MG]B/s"
RUNS = "Running"
CHANGES = {
    "a new file": f"echo x > {MOUNT}/new",
    "a write to a file": f"echo x >> {MOUNT}/config.json",
    "a removal": f"rm -f {MOUNT}/config.json",
    "a rename": f"mv {MOUNT}/config.json {MOUNT}/new",
    "a change of mode": f"chmod 666 {MOUNT}/config.json",
}
"""What the container's root, which may write what it does not own, tries."""


def run(world: World) -> None:
    scene = world.scene(NAME)
    model = scene.add_model(PATH)
    pods = _pods(scene)
    scene.start(*pods.values())
    for way, manifest in pods.items():
        _shows_the_model(world, scene, manifest["metadata"]["name"], way, model)
    _is_ready(world)
    _says_how_it_went(world, scene)
    _restricted(world, scene, model)
    _user_namespace(world, scene, model)


def _pods(scene: Scene) -> dict[str, dict]:
    """A pod for each way. Only the API of inline volumes demands readOnly, and the last cannot be given it."""
    scene.add(claim(NAME, "claim", NAME, PATH), *static_volume(NAME, "static", {"source": NAME, "path": PATH}))
    return {
        "an inline volume": scene.inline_pod("inline", PATH),
        "a claim": pod(NAME, "claimed", claimed("claim", readOnly=True)),
        "a static volume": pod(NAME, "static", claimed("static", readOnly=True)),
        "a claim that is not asked for as read-only": pod(NAME, "asked", claimed("claim")),
        "a generic ephemeral volume": pod(NAME, "ephemeral", ephemeral(NAME, PATH)),
    }


def _shows_the_model(world: World, scene: Scene, name: str, way: str, model: Model) -> None:
    world.equal(f"{way}: the checksums in the pod are those of the generator", scene.sums(name), model.sums)
    uid = world.kube.get(NAME, "pod", name)["metadata"]["uid"]
    mounts = [it for it in world.cluster.volume_mounts() if it.point.startswith(f"{KUBELET}/pods/{uid}/")]
    options = mounts[0].options if len(mounts) == 1 else frozenset()
    world.check(f"{way}: the node has one mount for it, and that is ro,nosuid,nodev", {"ro", "nosuid", "nodev"} <= options, mounts)
    # runc gives a mount that is asked to be read-only that flag and no other; from 1.2 on it takes all flags off one that is not.
    inside = world.kube.run(NAME, name, "cat", "/proc/self/mountinfo").splitlines()
    seen = next(it for it in inside if it.split()[4] == MOUNT).split()[5].split(",")
    guarded = "idmapped" in seen
    world.check(f"{way}: in the pod the mount is {'idmapped, so that nobody owns its files' if guarded else 'ro'}", guarded or "ro" in seen, seen)
    why = ("Permission denied", "Value too large", "Read-only file system") if guarded else ("Read-only file system",)
    for what, script in CHANGES.items():
        ended = world.kube.execute(NAME, name, "sh", "-c", script)
        world.check(f"{way}: {what} fails{'' if guarded else ' with EROFS'}", ended.code != 0 and any(it in ended.err for it in why), ended)
    world.equal(f"{way}: after that the checksums are still right", scene.sums(name), model.sums)


def _is_ready(world: World) -> None:
    def ready() -> bool:
        return world.kube.condition("", "source", NAME, "Ready").get("status") == "True"

    until("the source's status says that it is ready", 60, ready, lambda: world.kube.get("", "source", NAME).get("status"))
    world.check("the source's status says that it is ready", True)


def _says_how_it_went(world: World, scene: Scene) -> None:
    """A model that two pods load one after the other: at the same time, either could wait for a part of the other's load."""
    model = scene.add_model(TOLD, shards=1)
    for name, what, words in (("fetches", "is fetched", f"from the source at {SPEED}"), ("finds", "is cached", "were cached")):
        scene.start(scene.inline_pod(name, TOLD))
        sentence = _told(world, scene, name, what)
        wanted = rf"Mounted {NAME}/{TOLD} in {TOOK}: {re.escape(_mib(model.size))} {words}"
        world.check(f"it says how long that took, how many bytes, and from where: “{sentence}”", re.fullmatch(wanted, sentence), wanted)


def _told(world: World, scene: Scene, name: str, what: str) -> str:
    def loaded() -> list:
        return [event for event in world.kube.events(scene.name, name) if event.reason == "Loaded"]

    events = until("the pod's events say how the load went", 20, loaded)
    world.check(f"the load of a model that {what} is told in one Normal event", len(events) == 1 and events[0].kind == "Normal", events)
    return events[0].message


def _mib(size: int) -> str:
    """Bytes as the driver shows them: tenths, and none that is not full."""
    tenths = size * 10 >> 20
    return f"{tenths // 10}.{tenths % 10} MiB"


def _restricted(world: World, scene: Scene, model: Model) -> None:
    scene.add_namespace(STRICT, RESTRICTED)
    scene.add(source(NAME, DIRECT, [consumer(NAME), consumer(STRICT)]), claim(STRICT, "claim", NAME, PATH))
    part = pod(STRICT, "part", inline(NAME, PATH))
    part["spec"]["containers"][0]["volumeMounts"] = [{"name": "model", "mountPath": MOUNT, "subPath": "weights", "readOnly": True}]
    whole = pod(STRICT, "whole", claimed("claim", readOnly=True))
    scene.start(restricted(whole), restricted(part))
    world.equal("restricted: the pod is nobody's root", world.kube.run(STRICT, "whole", "id", "-u").strip(), "1234")
    world.equal("restricted: the checksums are right, with an fsGroup that no volume here follows", scene.sums("whole", namespace=STRICT), model.sums)
    weights = {name.removeprefix("weights/"): digest for name, digest in model.sums.items() if name.startswith("weights/")}
    world.equal("restricted: a subPath shows its part of the model", scene.sums("part", namespace=STRICT), weights)


def _user_namespace(world: World, scene: Scene, model: Model) -> None:
    """Whether the runtime has user namespaces is asked of it with a pod that mounts nothing."""
    scene.add(in_user_namespace(without_volume(scene.inline_pod("nobody", PATH))))
    answer = until("a pod with hostUsers: false runs or is told why not", 60, lambda: _runs_or_why(world, "nobody"))
    if answer != RUNS:
        print(f"  not judged  hostUsers: false: {answer}")
        return
    scene.start(in_user_namespace(scene.inline_pod("mapped", PATH)))
    mapping = world.kube.run(NAME, "mapped", "cat", "/proc/self/uid_map").split()
    world.check("hostUsers: false: root of the pod is nobody's root on the node", mapping[1] != "0", mapping)
    world.equal("hostUsers: false: the checksums in the pod are those of the generator", scene.sums("mapped"), model.sums)


def _runs_or_why(world: World, name: str) -> str:
    if world.kube.get(NAME, "pod", name)["status"]["phase"] == RUNS:
        return RUNS
    return next((event.message for event in world.kube.events(NAME, name) if event.reason.startswith("Failed")), "")
