"""A pod reads what its own service account may read, cached or not, whatever it says about itself: others are refused in one sentence
within five seconds, and no byte is fetched for them."""

import json
import time

from .. import emulator
from ..manifests import DRIVER, as_service_account, claimed, consumer, inline, pod, service_account, static_volume
from ..scene import REFUSED, Scene
from ..store import COUNTED
from ..world import World

NAME = "identity"
OTHER = f"{NAME}-other"
PATH = "private"
SOON = 5
"""Seconds in which a refusal has to be there: all pods of a claim on a node share kubelet's queue."""


def run(world: World) -> None:
    emulator.install()
    scene = world.scene(NAME, endpoint=COUNTED, consumers=[consumer(NAME, "reader")])
    scene.add_namespace(OTHER)
    scene.add(*(service_account(NAME, name) for name in ("reader", "stranger")), service_account(OTHER, "reader"))
    model = scene.add_model(PATH)
    _refused(world, scene, "nothing is cached", _pod("stranger-1", "stranger"))
    scene.start(_pod("reader-1", "reader"))
    world.equal("the service account that the source names reads the model", scene.sums("reader-1"), model.sums)
    _refused(world, scene, "the model is cached", _pod("stranger-2", "stranger"))
    _refused(world, scene, "it is of another namespace, with the same service account name", _pod("reader-3", "reader", OTHER))
    _forged(world, scene)
    _someone_elses_token(world, scene)
    _revoked(world, scene)


def _pod(name: str, account: str, namespace: str = NAME, volume: dict | None = None) -> dict:
    return as_service_account(pod(namespace, name, volume or inline(NAME, PATH)), account)


def _refused(world: World, scene: Scene, when: str, manifest: dict) -> None:
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    mark, began = world.store.mark(), time.monotonic()
    scene.add(manifest)
    refusal = scene.refusal(name, SOON * 2, namespace)
    took = time.monotonic() - began
    world.check(f"refused in {took:.1f} s, where {when}", took < SOON and refusal.code == "PermissionDenied", refusal)
    world.check("in one sentence that names the source", refusal.is_one_sentence and NAME in refusal.sentence, refusal)
    print(f"      “{refusal.sentence}”")
    world.equal("for which no byte of content was fetched", world.store.since(mark).bytes_by_key, {})
    phase = world.kube.get(namespace, "pod", name)["status"]["phase"]
    world.equal("and the pod does not start", phase, "Pending")


def _forged(world: World, scene: Scene) -> None:
    """Attributes that say who the pod is come from kubelet, whoever else writes them."""
    lies = {"csi.storage.k8s.io/pod.namespace": NAME, "csi.storage.k8s.io/serviceAccount.name": "reader"}
    ended = world.kube.try_to_create(_pod("liar", "reader", OTHER, inline(NAME, PATH, **lies)))
    world.check("an inline volume with a forged pod.namespace is not admitted", ended.code != 0 and "unknown attribute" in ended.err, ended)
    scene.add(*static_volume(OTHER, "forged", {"source": NAME, "path": PATH, **lies}))
    _refused(world, scene, "a static volume forges pod.namespace and serviceAccount.name", _pod("forger", "reader", OTHER, claimed("forged")))


def _someone_elses_token(world: World, scene: Scene) -> None:
    bound = ["--bound-object-kind=Pod", "--bound-object-name=reader-1"]
    token = world.kube("create", "token", "reader", f"--namespace={NAME}", f"--audience={DRIVER}", *bound).strip()
    tokens = json.dumps({DRIVER: {"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}})
    stolen = {"source": NAME, "path": PATH, "csi.storage.k8s.io/serviceAccount.tokens": tokens}
    scene.add(*static_volume(NAME, "stolen", stolen))
    _refused(world, scene, "the volume carries the token of a pod that may", _pod("thief", "stranger", volume=claimed("stolen")))
    _said_to_the_socket(world, tokens)


def _said_to_the_socket(world: World, tokens: str) -> None:
    """No kubelet is in between that would send the thief's own token: only the driver can refuse."""
    thief, robbed = (world.kube.get(NAME, "pod", name) for name in ("thief", "reader-1"))
    mark, uid = world.store.mark(), thief["metadata"]["uid"]
    ended = emulator.publish(world.cluster, thief, NAME, PATH, tokens, SOON)
    match = REFUSED.search(ended.err)
    world.check("the driver's socket refuses the token of a pod that may with the target of another", ended.code != 0 and match, ended)
    wanted = f'the token is that of pod "reader-1" with uid "{robbed["metadata"]["uid"]}", but the volume is mounted for the pod with uid "{uid}"'
    world.check(f"it says why: “{match[2].strip()}”", match[1] == "Unauthenticated" and wanted in match[2], ended)
    world.equal("for which no byte of content was fetched either", world.store.since(mark).bytes_by_key, {})
    world.equal("and nothing is mounted for the other pod", [it for it in world.cluster.volume_mounts() if it.pod == uid], [])


def _revoked(world: World, scene: Scene) -> None:
    world.kube.patch("", "source", NAME, {"spec": {"consumers": [consumer(NAME, "somebody-else")]}})
    _refused(world, scene, "the source no longer names the service account", _pod("reader-2", "reader"))
    ended = world.kube.execute(NAME, "reader-1", "sha256sum", "/model/config.json")
    world.equal("a pod that runs already is not disturbed by that", ended.code, 0)
    world.kube.patch("", "source", NAME, {"spec": {"consumers": [consumer(NAME, "reader")]}})
    scene.wait_until_running("reader-2", seconds=90)
    world.check("the refused pod starts by itself when it may again", True)
