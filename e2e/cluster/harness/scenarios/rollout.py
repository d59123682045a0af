"""Upgrades and a rollback of the driver, and a reboot of its node: pods that read do not notice the former and come back after the latter,
their mounts stay or are made again, and no byte is fetched for any of it. An upgrade brings fields that its kinds did not have before, and
what there is of them stays."""

import json
import re
from collections.abc import Callable

from .. import image
from ..command import Ended
from ..install import CACHE, crds
from ..manifests import SYSTEM, claim, claimed, consumer, inline, source
from ..model import Model
from ..outcome import Failure, until
from ..reader import never_noticed, reader
from ..scene import Scene
from ..store import COUNTED
from ..world import World

NAME = "rollout"
READERS = ("inline", "claimed")
FIELD = "region"
"""A field that a Source may have, and that the scenario's own does not have."""
UNKNOWN = f'unknown field "spec.{FIELD}"'


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED)
    model = scene.add_model("steady")
    scene.add(claim(NAME, "claim", NAME, "steady"))
    volumes = (inline(NAME, "steady"), claimed("claim"))
    mark = world.store.mark()
    scene.start(*(reader(scene, name, volume, model) for name, volume in zip(READERS, volumes)))
    world.check("pods that come first have their model listed", scene.listings(world.store.since(mark), "steady"))
    scene.start(scene.inline_pod("leaves", "steady"))
    world.driver.usage()
    image.add_name(world.cluster, image.DRIVER, image.NEXT)
    first = world.driver.revisions()[-1]["revision"]
    try:
        annotated, renamed = {"node": {"podAnnotations": {"turn": "1"}}}, {"image": {"tag": image.NEXT.split(":")[1]}}
        _forget_field(world)
        known = _objects(world)
        _undisturbed(world, scene, "an upgrade of the pods' annotations", lambda: world.driver.upgrade(annotated))
        _knows_field(world)
        world.equal("and the source and the claim's volume are the ones that they were", _objects(world), known)
        _undisturbed(world, scene, "an upgrade to another image", lambda: world.driver.upgrade(renamed))
        world.equal("the node pod runs that image", _image(world), image.NEXT)
        scene.remove("leaves")
        world.check("it takes away a volume that the first one had published", True)
        _serves(world, scene, "after-upgrade")
        _undisturbed(world, scene, "a rollback", lambda: world.driver.roll_back(first))
        world.equal("the node pod runs the first image again", _image(world), image.DRIVER)
        _serves(world, scene, "after-rollback")
    finally:
        # Changes nothing where the rollback has.
        world.driver.upgrade()
        image.remove_name(world.cluster, image.NEXT)
    _reboot(world, scene, model)


def _forget_field(world: World) -> None:
    """Upgrades to the kinds of a chart that is older than the field."""
    world.driver.upgrade(kinds=_older())
    until(f"the API server forgets {FIELD}", 30, lambda: UNKNOWN in _asked(world).err, lambda: _asked(world))
    world.check(f"by the kinds of an older chart a Source with {FIELD} is refused: {UNKNOWN}", True)


def _knows_field(world: World) -> None:
    """The API server takes the new definition over a moment after it has it."""
    until(f"the API server knows {FIELD}", 30, lambda: _asked(world).code == 0, lambda: _asked(world))
    world.check(f"it brings the kinds of now: a Source with {FIELD} is taken", True)


def _older() -> str:
    """The chart's definitions without the lines that are the field's."""
    older, count = re.subn(rf"(?m)^( +){FIELD}:\n(?:\1 .*\n)+", "", crds())
    if count != 1:
        raise Failure(f"{count} fields of the chart's kinds are called {FIELD}: one is needed")
    return older


def _asked(world: World) -> Ended:
    """What the API server says of a new Source that has the field; none is made."""
    plain = source(f"{NAME}-{FIELD}", COUNTED, [consumer(NAME)])
    manifest = {**plain, "spec": {**plain["spec"], FIELD: "us-east-1"}}
    return world.kube.attempt("create", "--dry-run=server", "-f", "-", text=json.dumps(manifest))


def _objects(world: World) -> list[tuple[str, dict]]:
    """Who they are, and what is written in them."""
    volume = world.kube.get(NAME, "persistentvolumeclaim", "claim")["spec"]["volumeName"]
    handle = world.kube.get("", "persistentvolume", volume)["spec"]["csi"]["volumeHandle"]
    found = (world.kube.get("", "source", NAME), world.kube.get("", "volumes.tonnage.dev", handle))
    return [(it["metadata"]["uid"], it["spec"]) for it in found]


def _undisturbed(world: World, scene: Scene, what: str, change: Callable[[], None]) -> None:
    """A change that replaces the node pod, and nothing else that a pod could see."""
    mounts, before, mark = _mounts(world), world.driver.node_pod()["metadata"]["uid"], world.store.mark()
    change()
    world.driver.wait_until_ready()
    world.check(f"{what} replaces the node pod", world.driver.node_pod()["metadata"]["uid"] != before)
    world.equal("every mount is the one that it was", _mounts(world), mounts)
    never_noticed(world, scene, *READERS)
    traffic = world.store.since(mark)
    world.equal("and the store is asked for no object and no listing of the model", (traffic.objects, scene.listings(traffic, "steady")), ([], []))


def _mounts(world: World) -> set[tuple[str, str]]:
    return {(it.number, it.point) for it in world.cluster.volume_mounts()}


def _image(world: World) -> str:
    return world.driver.node_pod()["spec"]["containers"][0]["image"]


def _serves(world: World, scene: Scene, name: str) -> None:
    """A volume is published, and taken away again, by the node pod of now."""
    model = scene.add_model(name)
    scene.start(scene.inline_pod(name, name))
    world.equal(f"{name}: a new pod reads a new model", scene.sums(name), model.sums)
    scene.remove(name)


def _reboot(world: World, scene: Scene, model: Model) -> None:
    mark = world.store.mark()
    world.cluster.take_down()
    world.equal("a node that is down has no mount of a volume", world.cluster.volume_mounts(), [])
    boot_id = world.cluster.boot()
    try:
        _comes_back(world, scene, boot_id)
        never_noticed(world, scene, *READERS, restarts=1)
        world.equal("both read what the generator wrote", [scene.sums(name) for name in READERS], [model.sums] * 2)
        world.equal("and no byte of it was fetched again", world.store.since(mark).content, 0)
        scene.remove(*READERS)
    finally:
        world.cluster.return_to_machine()
        # A driver whose containers saw another boot would take the next start of one for a reboot.
        world.kube("delete", f"--namespace={SYSTEM}", "pods", "--all", "--wait=true")
        world.driver.wait_until_ready()


def _comes_back(world: World, scene: Scene, boot_id: str) -> None:
    def known() -> bool:
        return world.kube.get("", "node", "node1")["status"]["nodeInfo"]["bootID"] == boot_id

    until("kubelet says that the node was rebooted", 90, known)
    world.check(f"kubelet says that the node was rebooted: {boot_id}", True)
    for name in READERS:
        until(f"{name} runs again", 120, lambda: _restarts(world, name) > 0)
        scene.wait_until_running(name)
    world.driver.wait_until_ready()
    boots = world.cluster.files(f"{CACHE}/fresh", "-mindepth", "1", "-maxdepth", "1")
    world.equal("and so does the driver", boots, [f"{CACHE}/fresh/{boot_id}"])
    world.check("the pods run again, with mounts of their volumes", len(_mounts(world)) == len(READERS), _mounts(world))


def _restarts(world: World, name: str) -> int:
    return world.kube.get(NAME, "pod", name)["status"]["containerStatuses"][0]["restartCount"]
