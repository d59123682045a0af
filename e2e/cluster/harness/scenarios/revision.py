"""A claim is one revision: when the source has changed and the claim's content is no longer on the node, its next pod is refused and told
both revisions, an inline volume shows the new one, and the refused pods start by themselves when the old bytes are back."""

from ..manifests import claim, claimed, pod, static_volume
from ..model import Model
from ..outcome import until
from ..scene import Scene
from ..store import COUNTED
from ..world import World

NAME = "revision"
PATH = "changing"
CHANGED = "weights/model-00002-of-00003.safetensors"
CLAIMS = {"provisioned": "a claim whose revision the controller has found out", "static": "a static volume whose first pod has chosen it"}


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED)
    old = scene.add_model(PATH)
    scene.add(claim(NAME, "provisioned", NAME, PATH), *static_volume(NAME, "static", {"source": NAME, "path": PATH}))
    scene.start(*_pods("first"))
    new = scene.replace(old, PATH, CHANGED)
    _cached(world, scene, old)
    scene.remove(*_names("first"), *_names("second"))
    world.driver.tonnage("cache", "gc", "--all")
    revisions = _revision_of(world, "provisioned"), _new_revision(world, scene)
    world.check("the source shows another revision than the claim's", revisions[0] != revisions[1], revisions)
    for name in CLAIMS:
        _refused(world, scene, name, revisions)
    scene.start(scene.inline_pod("inline", PATH))
    world.equal("an inline volume shows the new revision", scene.sums("inline"), new.sums)
    _restored(world, scene, old)


def _names(turn: str) -> list[str]:
    return [f"{name}-{turn}" for name in CLAIMS]


def _pods(turn: str) -> list[dict]:
    return [pod(NAME, f"{name}-{turn}", claimed(name)) for name in CLAIMS]


def _cached(world: World, scene: Scene, old: Model) -> None:
    mark = world.store.mark()
    scene.start(*_pods("second"))
    seen = [scene.sums(name) for name in _names("second")]
    world.equal("while its content is here, a claim shows its own revision, whatever the source shows", seen, [old.sums] * len(CLAIMS))
    world.equal("and fetches nothing", world.store.since(mark).content, 0)


def _revision_of(world: World, name: str) -> str:
    def bound() -> str:
        return world.kube.get(NAME, "persistentvolumeclaim", name)["spec"].get("volumeName", "")

    volume = until(f"claim {name} is bound", 60, bound)
    return world.kube.get("", "persistentvolume", volume)["spec"]["csi"]["volumeAttributes"]["revision"]


def _new_revision(world: World, scene: Scene) -> str:
    """What a claim is bound to that is made now."""
    scene.add(claim(NAME, "new", NAME, PATH))
    return _revision_of(world, "new")


def _refused(world: World, scene: Scene, name: str, revisions: tuple[str, str]) -> None:
    mark = world.store.mark()
    scene.add(pod(NAME, f"{name}-third", claimed(name)))
    refusal = scene.refusal(f"{name}-third", 30)
    world.equal(f"{CLAIMS[name]}: its next pod is refused", refusal.code, "FailedPrecondition")
    world.check("in one sentence that names both revisions", refusal.is_one_sentence and all(it in refusal.sentence for it in revisions), refusal)
    print(f"      “{refusal.sentence}”")
    world.equal("and no byte of content is fetched for it", world.store.since(mark).content, 0)


def _restored(world: World, scene: Scene, old: Model) -> None:
    mark = world.store.mark()
    scene.restore(old, PATH, CHANGED)
    for name in _names("third"):
        scene.wait_until_running(name, seconds=130)
        world.equal(f"{name} starts by itself when the old bytes are back", scene.sums(name), old.sums)
    traffic = world.store.since(mark)
    world.equal("of which only the file that had changed is fetched", list(traffic.bytes_by_key), [f"{NAME}/{PATH}/{CHANGED}"])
    world.check("and that once", traffic.is_one_of(old.sizes[CHANGED]), traffic)
