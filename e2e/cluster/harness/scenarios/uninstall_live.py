"""An uninstall while pods use volumes is refused in one sentence that names them, and nothing happens to them or to the driver; who
overrides it strands what is deleted then, and gets it back with a new installation; pods that are going already are waited for."""

import re
import time

from ..manifests import claim, claimed, inline
from ..outcome import until
from ..reader import never_noticed, reader
from ..scene import Scene
from ..store import COUNTED
from ..world import World

NAME = "uninstall-live"
READERS = ("inline", "claimed")
SENTENCE = re.compile(r'tonnage: uninstall: [^"\\\n]+')
"""What the chart's hook says, within what helm makes of it."""
STRANDED = 10
"""Seconds for which a pod is seen to be Terminating without the driver."""


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED)
    model = scene.add_model("live")
    scene.add(claim(NAME, "claim", NAME, "live"))
    volumes = (inline(NAME, "live"), claimed("claim"))
    scene.start(*(reader(scene, name, volume, model) for name, volume in zip(READERS, volumes)))
    _refused(world, scene)
    try:
        _overridden(world, scene)
        _waits_for_what_goes(world)
    finally:
        world.driver.ensure()


def _refused(world: World, scene: Scene) -> None:
    before = world.driver.node_pod()["metadata"]["uid"]
    ended = world.driver.attempt_uninstall()
    said = (SENTENCE.findall(ended.out + ended.err) or [""])[0]
    named = all(f"{NAME}/{name}" in said for name in READERS)
    world.check("an uninstall while pods use volumes fails, with a sentence that names them", ended.code != 0 and named, ended)
    print(f"      “{said}”")
    world.check("the driver is the one that it was", world.driver.is_ready() and world.driver.node_pod()["metadata"]["uid"] == before)
    never_noticed(world, scene, *READERS)
    scene.start(scene.inline_pod("new", "live"))
    world.check("and a new pod gets its volume", True)
    scene.remove("new")
    _kept(world)


def _kept(world: World) -> None:
    """helm notes that it has begun to uninstall before it asks whether it may."""
    latest = world.driver.revisions()[-1]
    world.equal("helm calls the release", latest["status"], "uninstalling")
    world.driver.roll_back(latest["revision"])
    world.equal("until it is rolled back to that revision", world.driver.revisions()[-1]["status"], "deployed")
    world.driver.upgrade()
    world.check("then it can be upgraded", True)


def _overridden(world: World, scene: Scene) -> None:
    world.driver.uninstall("--no-hooks")
    until("kubelet forgets the driver", 60, lambda: not world.driver.is_registered())
    never_noticed(world, scene, *READERS)
    world.kube.delete(NAME, "pods", "inline")
    time.sleep(STRANDED)
    pod = world.kube.find(NAME, "pod", "inline")
    world.check("without the driver a deleted pod stays Terminating", pod and "deletionTimestamp" in pod["metadata"], pod)
    world.driver.ensure()
    until("the stranded pod goes", 130, lambda: not world.kube.find(NAME, "pod", "inline"))
    world.check("and goes by itself when the driver is installed again", True)
    never_noticed(world, scene, "claimed")


def _waits_for_what_goes(world: World) -> None:
    world.kube.delete(NAME, "pods", "claimed")
    world.driver.uninstall()
    world.equal("an uninstall waits for pods that are being deleted", world.kube.find(NAME, "pod", "claimed"), None)
    world.equal("and leaves no mount of a volume", world.cluster.volume_mounts(), [])
