"""Two pods of one model cost one download, ten pods at once too; a new revision fetches what has changed; models that share files store
them once. What was downloaded is counted at the server."""

from ..manifests import claim, claimed, pod
from ..scene import Scene
from ..store import COUNTED
from ..world import World

NAME = "sharing"
CHANGED = "config.json"
SHARD = "weights/model-00002-of-00003.safetensors"
CROWD = 10


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED)
    _two_pods(world, scene)
    _ten_pods(world, scene)
    _new_revision(world, scene)
    _shared_files(world, scene)


def _two_pods(world: World, scene: Scene) -> None:
    model = scene.add_model("pair")
    mark = world.store.mark()
    scene.start(scene.inline_pod("pair-1", "pair"))
    first = world.store.since(mark)
    world.check("the first pod costs one download", first.is_one_of(model.size), f"{first}, the model has {model.size} bytes")
    mark = world.store.mark()
    scene.start(scene.inline_pod("pair-2", "pair"))
    second, took = world.store.since(mark), scene.seconds_to_start("pair-2")
    world.equal("the second pod of a model downloads nothing", second.content, 0)
    world.check(f"its container runs {took:.2f} s after it was scheduled, which is less than a second", took < 1)
    world.equal("both read what the generator wrote", (scene.sums("pair-1"), scene.sums("pair-2")), (model.sums, model.sums))


def _ten_pods(world: World, scene: Scene) -> None:
    model = scene.add_model("crowd")
    names = [f"crowd-{number}" for number in range(CROWD)]
    mark = world.store.mark()
    scene.start(*(scene.inline_pod(name, "crowd") for name in names), seconds=120)
    traffic = world.store.since(mark)
    world.check(f"{CROWD} pods at once cost one download", traffic.is_one_of(model.size), f"{traffic}, the model has {model.size} bytes")
    world.equal(f"all {CROWD} read what the generator wrote", [scene.sums(name) for name in names], [model.sums] * CROWD)
    scene.remove(*names, seconds=120)


def _new_revision(world: World, scene: Scene) -> None:
    old = scene.add_model("moving")
    scene.start(pod(NAME, "old", _claimed(scene, "old")))
    new = scene.replace(old, "moving", SHARD)
    mark = world.store.mark()
    scene.start(pod(NAME, "new", _claimed(scene, "new")))
    traffic = world.store.since(mark)
    world.equal("a new revision fetches the file that has changed", list(traffic.bytes_by_key), [f"{NAME}/moving/{SHARD}"])
    world.check("and fetches it once", traffic.is_one_of(new.sizes[SHARD]), traffic)
    world.equal("a new claim shows the new revision", scene.sums("new"), new.sums)
    world.equal("the pod of the old claim still reads the old one", scene.sums("old"), old.sums)


def _claimed(scene: Scene, name: str) -> dict:
    scene.add(claim(NAME, name, NAME, "moving"))
    return claimed(name)


def _shared_files(world: World, scene: Scene) -> None:
    base = scene.add_model("base")
    tuned = scene.add_variant(base, "tuned", CHANGED)
    before = world.driver.usage()["objects"]
    scene.start(scene.inline_pod("base", "base"), scene.inline_pod("tuned", "tuned"))
    after = world.driver.usage()["objects"]
    contents = set(base.sums.values()) | set(tuned.sums.values())
    world.equal("two models with all files but one in common add each content once", after["files"] - before["files"], len(contents))
    grown = after["bytes"] - before["bytes"]
    world.check("and the disk grows by one of them", grown < base.size * 1.1, f"it grew by {grown} bytes, one model has {base.size}")
    world.equal("both are shown as they are", (scene.sums("base"), scene.sums("tuned")), (base.sums, tuned.sums))
