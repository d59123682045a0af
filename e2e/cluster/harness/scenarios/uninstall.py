"""When the pods are gone and the release is uninstalled, nothing of the driver is left on the node but the cache's directory, which the
command line still reads; what an operator wrote, the sources, stays; and a new installation serves from that cache."""

import json

from ..install import CACHE, OURS
from ..manifests import DRIVER, SYSTEM
from ..outcome import until
from ..store import COUNTED
from ..world import World

NAME = "uninstall"
GENERATED = "daemonsets,deployments,jobs,pods,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,configmaps"
CLUSTER_WIDE = (
    "csidrivers,clusterroles,clusterrolebindings,priorityclasses,validatingadmissionpolicies,validatingadmissionpolicybindings,"
    "mutatingadmissionpolicies,mutatingadmissionpolicybindings"
)


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED)
    model = scene.add_model("kept")
    scene.start(scene.inline_pod("user", "kept"))
    world.equal("a pod reads the model", scene.sums("user"), model.sums)
    scene.remove("user")
    world.driver.uninstall()
    _nothing_in_kubernetes(world)
    _nothing_on_the_node(world)
    _cache_can_be_read(world, model.size)
    world.driver.ensure()
    mark = world.store.mark()
    scene.start(scene.inline_pod("again", "kept"))
    world.equal("a new installation reads the model", scene.sums("again"), model.sums)
    world.equal("and fetches nothing of it", world.store.since(mark).content, 0)


def _nothing_in_kubernetes(world: World) -> None:
    def left() -> list[str]:
        namespaced = world.kube.all(SYSTEM, GENERATED, OURS)
        return [f"{it['kind']}/{it['metadata']['name']}" for it in namespaced + world.kube.all("", CLUSTER_WIDE, OURS)]

    until("the release's objects are gone", 60, lambda: not left(), left)
    world.check("no object of the release is left but the custom resource definitions", True)
    world.check("the sources stay", world.kube.find("", "source", NAME))


def _nothing_on_the_node(world: World) -> None:
    """A socket that stays in kubelet's plugins_registry keeps the driver in CSINode for ever."""
    until("kubelet forgets the driver", 60, lambda: not world.driver.is_registered())
    world.check("kubelet has forgotten the driver", True)
    world.equal("no socket or directory of it is left below kubelet's", world.driver.leftovers(), [])
    world.equal("no volume is mounted", world.cluster.volume_mounts(), [])
    mounts = [it.point for it in world.cluster.mounts() if it.point.startswith(CACHE) or DRIVER in it.point]
    world.equal("the only mount that has to do with it is the cache's own disk", mounts, [CACHE])
    processes = world.cluster.inside("ps", "-eo", "args").splitlines()
    world.equal("no process of it runs", [it for it in processes if it.startswith("/tonnage ")], [])


def _cache_can_be_read(world: World, size: int) -> None:
    ended = world.driver.attempt_on_node("cache", "ls", "--json", "--cache-dir", CACHE)
    contents = json.loads(ended.out) if ended.code == 0 else []
    world.check("`tonnage cache ls` reads what is left", any(it["bytes"] == size for it in contents), ended)
