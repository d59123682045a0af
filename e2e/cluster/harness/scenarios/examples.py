"""Examples of deploy/examples run as they are written, but for what a reader replaces: their pods read the model byte for byte, and what the
DaemonSet has brought to a node is downloaded for none of them and stays when it goes. `helm test` examines the node and reads a source, and
fails where there is nothing to read. Examples that need a GPU, an operator or a cloud that is not here are only looked at, by `lint`."""

import json
import re
import uuid
from functools import partial

from .. import image, model
from ..cluster import FIRST
from ..command import Ended
from ..install import RELEASE
from ..manifests import MOUNT, RESTRICTED, SYSTEM, consumer
from ..model import MIB, Model
from ..outcome import Failure, until
from ..paths import REPOSITORY
from ..scene import Scene
from ..store import ACCESS_KEY, ADDRESS, BUCKET, COUNTED, SECRET_KEY
from ..world import World

NAME = "examples"
STRICT = f"{NAME}-restricted"
WHERE = "default"
"""Namespace of the examples' pods, which name none."""
EXAMPLES = REPOSITORY / "deploy/examples"
SOURCE, PREFETCH, INLINE, OWN_KEYS = "source-shared-secret.yaml", "prefetch-daemonset.yaml", "inline.yaml", "source-pod-secret.yaml"
READERS = {
    INLINE: ("inline",),
    "storageclass-pvc.yaml": ("claim-reader-1", "claim-reader-2"),
    "static-pv.yaml": ("static-reader",),
    "generic-ephemeral.yaml": ("generic-ephemeral",),
}
"""Pods that read the source of the first example."""
RUN = (SOURCE, PREFETCH, *READERS, OWN_KEYS)
NOT_RUN = {
    "egress-rules.yaml": "what such rules do is shown by governance, budgets and quota",
    "kueue-leaderworkerset.yaml": "it needs two operators, and GPUs",
    "source-anonymous.yaml": "it needs a bucket that everybody may read; what it does is shown by auth-modes",
    "source-node.yaml": "it needs a cloud's metadata service; what it does is shown by auth-modes",
    "source-workload-identity-azure.yaml": "it needs Azure",
    "source-workload-identity-gcp.yaml": "it needs Google Cloud",
    "source-workload-identity.yaml": "it needs AWS; what it does is shown by workload-identity",
    "vllm.yaml": "it needs a GPU, and an image of many GiB",
}
PATH = "llama-3.1-8b"
LEFT_OUT = ("original/params.json", "original/consolidated.00.pth", "pytorch_model.pth")
"""Files of the model that inline.yaml excludes."""
YOURS = {
    "s3://models/prod": f"s3://{BUCKET}/{NAME}",
    "s3://models/private": f"s3://{BUCKET}/{NAME}",
    # The store is at the API server's address, which no Source may lead to without saying so.
    "https://s3.example.com": f"{COUNTED}\n  allowedCIDRs: [{ADDRESS}/32]",
    "accessKeyId: change-me": f"accessKeyId: {ACCESS_KEY}",
    "secretAccessKey: change-me": f"secretAccessKey: {SECRET_KEY}",
    # A node remembers which revision a handle stood for.
    "volumeHandle: llama-static": f"volumeHandle: llama-static-{uuid.uuid4()}",
}
"""What a reader replaces, and by what here."""
STAND_INS = {"busybox": image.BUSYBOX, "pause": image.PAUSE}
"""Images for those that the examples name, without their tags: there is no registry."""
POOL = "example.com/pool"
PREFETCHER = "prefetch-llama"
PIN = f"pin:retain:models/{PATH}@{WHERE}."
"""How `tonnage cache ls` begins to name what keeps the content that the DaemonSet retains."""
TESTS = "app.kubernetes.io/component=test"
TEST = "tonnage-test-volume"
NOWHERE = "not-there"


def run(world: World) -> None:
    _all_are_known(world)
    for example in RUN:
        world.equal(f"{example}: nothing of it is there before", _found(world, example), "")
    scene = world.scene(NAME, endpoint=COUNTED, consumers=[consumer(SYSTEM)])
    made = _model(world, scene)
    _name_images(world)
    _apply(world, SOURCE)
    world.afterwards(partial(_wait_until_gone, world))
    _prefetches(world, scene, made)
    _fits_restricted(world, scene)
    _read(world, scene, made)
    _reads_with_own_keys(world, scene, made)
    _go(world)
    _helm_test(world, made)
    _helm_test_fails(world, scene)


def _all_are_known(world: World) -> None:
    names = {it.name for it in EXAMPLES.glob("*.yaml")}
    world.equal("every example is run here, or said not to be", names, {*RUN, *NOT_RUN})
    for example, reason in NOT_RUN.items():
        print(f"  not run  {example}: {reason}")


def _filled_in(example: str) -> str:
    """The example as a reader applies it."""
    text = (EXAMPLES / example).read_text()
    for theirs, ours in YOURS.items():
        text = text.replace(theirs, ours)
    return text


def _found(world: World, example: str) -> str:
    return world.kube("get", "--ignore-not-found", "--output=name", "--filename=-", text=_filled_in(example)).strip()


def _apply(world: World, example: str) -> None:
    world.afterwards(partial(_delete, world, example))
    world.kube("apply", "--filename=-", text=_filled_in(example))


def _delete(world: World, example: str) -> None:
    """Waits until its objects are gone. A shell that has become `sleep` does not hear that it is to end."""
    flags = ["--ignore-not-found", "--grace-period=1", "--timeout=90s"]
    world.kube("delete", *flags, "--filename=-", text=_filled_in(example))


def _model(world: World, scene: Scene) -> Model:
    """Has weights in another format beside those that are wanted, as many have."""
    place = scene.place(PATH)
    model.generate(place, f"{world.seed}/{NAME}/{PATH}")
    dice = world.dice(NAME)
    for name in LEFT_OUT:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(dice.randbytes(MIB))
    scene.store.put(place, f"{NAME}/{PATH}")
    return model.read(place)


def _name_images(world: World) -> None:
    """Gives images that are here the names that the examples ask for."""
    names = {name for example in RUN for name in re.findall(r"(?m)^ *image: (\S+)$", _filled_in(example))}
    for name in sorted(names):
        program = name.rpartition("/")[2].partition(":")[0]
        if program not in STAND_INS:
            raise Failure(f"an example names the image {name}, and nothing here stands in for it")
        world.afterwards(partial(image.remove_name, world.cluster, name))
        image.add_name(world.cluster, STAND_INS[program], name)


def _prefetches(world: World, scene: Scene, made: Model) -> None:
    world.afterwards(lambda: _let_go(world))
    mark = world.store.mark()
    _apply(world, PREFETCH)
    status = until("the DaemonSet's controller has seen it", 30, lambda: _status(world).get("observedGeneration") and _status(world))
    world.equal(f"{PREFETCH}: a node that is not in the pool gets no pod", status["desiredNumberScheduled"], 0)
    world.afterwards(lambda: world.kube("label", "node", FIRST, f"{POOL}-"))
    world.kube("label", "node", FIRST, f"{POOL}=gpu")
    pods = until("a node of the pool gets a pod", 30, lambda: world.kube.all(WHERE, "pods", f"app={PREFETCHER}"), lambda: _status(world))
    pod = pods[0]["metadata"]["name"]
    scene.wait_until_running(pod, namespace=WHERE)
    traffic = world.store.since(mark)
    world.check(f"{PREFETCH}: a node of the pool downloads the model once", traffic.is_one_of(made.size), f"{traffic}, the model has {made.size} bytes")
    # The real image of the pod has no shell to look with.
    world.equal(f"{PREFETCH}: and its pod sees what the generator wrote", scene.sums(pod, namespace=WHERE), made.sums)


def _status(world: World) -> dict:
    return world.kube.get(WHERE, "daemonset", PREFETCHER).get("status", {})


def _fits_restricted(world: World, scene: Scene) -> None:
    scene.add_namespace(STRICT, RESTRICTED)
    flags = [f"--namespace={STRICT}", "--dry-run=server"]
    ended = world.kube.attempt("apply", *flags, "--filename=-", text=_filled_in(INLINE))
    world.check(f"{INLINE}: a namespace of the restricted Pod Security level admits it", ended.code == 0, ended)


def _read(world: World, scene: Scene, made: Model) -> None:
    mark = world.store.mark()
    for example, pods in READERS.items():
        _apply(world, example)
        for pod in pods:
            _prints(world, scene, example, pod, _without_excluded(made) if example == INLINE else made.sums)
    world.equal("of what was prefetched, no byte is downloaded for them", world.store.since(mark).content, 0)


def _without_excluded(made: Model) -> dict[str, str]:
    return {name: digest for name, digest in made.sums.items() if name not in LEFT_OUT}


def _reads_with_own_keys(world: World, scene: Scene, made: Model) -> None:
    """By a source of its own."""
    _apply(world, OWN_KEYS)
    _prints(world, scene, OWN_KEYS, "pod-secret", made.sums)


def _prints(world: World, scene: Scene, example: str, pod: str, wanted: dict[str, str]) -> None:
    scene.wait_until_running(pod, namespace=WHERE)

    def has_read() -> bool:
        return world.kube.run(WHERE, pod, "cat", "/proc/1/cmdline").startswith("sleep")

    until(f"pod {pod} has read everything and sleeps", 60, has_read, lambda: world.kube.logs(WHERE, pod))
    lines = (line.partition("  ") for line in world.kube.logs(WHERE, pod).splitlines())
    printed = {name.removeprefix(f"{MOUNT}/"): digest for digest, _, name in lines}
    world.equal(f"{example}: the checksums that {pod} prints are those of the generator", printed, wanted)


def _go(world: World) -> None:
    """The source goes last: the others were applied after it."""
    for example in reversed(RUN[1:]):
        _delete(world, example)
    _wait_until_gone(world)
    world.equal("when the DaemonSet is deleted, a pin keeps what it has brought", len(_pins(world)), 1)
    _let_go(world)
    world.equal("which `tonnage cache unpin` lets go", _pins(world), [])
    _delete(world, SOURCE)
    world.equal("deleted as they were applied, the examples leave no object", [_found(world, it) for it in RUN], [""] * len(RUN))


def _wait_until_gone(world: World) -> None:
    """What others delete after the examples: pods of the DaemonSet, the claim of a pod, and volumes that were provisioned."""
    until(f"nothing of the examples is left in namespace {WHERE}", 90, lambda: not _left(world), lambda: _left(world))


def _left(world: World) -> list[str]:
    inside = world.kube.all(WHERE, "pods,persistentvolumeclaims")
    volumes = [it for it in world.kube.all("", "persistentvolumes") if it["spec"].get("claimRef", {}).get("namespace") == WHERE]
    records = [it for it in world.kube.all("", "volumes.tonnage.dev") if it["spec"].get("claim", {}).get("namespace") == WHERE]
    return [f"{it['kind']}/{it['metadata']['name']}" for it in (*inside, *volumes, *records)]


def _pins(world: World) -> list[str]:
    contents = json.loads(world.driver.tonnage("cache", "ls", "--json"))
    return [keeper.removeprefix("pin:") for it in contents for keeper in it["kept_by"] if keeper.startswith(PIN)]


def _let_go(world: World) -> None:
    for pin in _pins(world):
        world.driver.tonnage("cache", "unpin", pin)


def _helm_test(world: World, made: Model) -> None:
    """The scene's own source lets pods of the driver's namespace read."""
    world.afterwards(world.driver.upgrade)
    world.afterwards(partial(_remove_tests, world))
    ended = _tested(world, PATH, "2m")
    world.check("helm test finds the node fit and reads a volume", ended.code == 0, ended)
    report = f'"files":{len(made.sums)},"bytes":{made.size},'
    world.check("its log has that all of the model was read", report in ended.out, ended.out)
    until("the tests' pods are gone", 30, lambda: not _tests(world), lambda: _tests(world))
    world.check("and it leaves no pod", True)


def _helm_test_fails(world: World, scene: Scene) -> None:
    ended = _tested(world, NOWHERE, "45s")
    world.check("of a path that does not exist, helm test fails", ended.code != 0, ended)
    world.check("and the pod that could not read stays", TEST in _tests(world), _tests(world))
    refusal = scene.refusal(TEST, 10, namespace=SYSTEM)
    world.check("and its events say in one sentence which path that is", refusal.is_one_sentence and NOWHERE in refusal.sentence, refusal)
    world.equal("and the code is NotFound", refusal.code, "NotFound")
    print(f"      “{refusal.sentence}”")


def _tested(world: World, path: str, patience: str) -> Ended:
    """`helm test` with the scene's source, as the operator's manual has it. `patience` is for each of the tests."""
    world.driver.upgrade({"test": {"source": NAME, "path": path}})
    where = f"--namespace={SYSTEM}"
    return world.cluster.attempt("helm", "test", RELEASE, where, "--logs", f"--timeout={patience}", seconds=300)


def _tests(world: World) -> list[str]:
    return [it["metadata"]["name"] for it in world.kube.all(SYSTEM, "pods", TESTS)]


def _remove_tests(world: World) -> None:
    """One that has failed stays, so that it can be asked why."""
    world.kube.delete(SYSTEM, "pods", *_tests(world))
    until("the tests' pods are gone", 60, lambda: not _tests(world), lambda: _tests(world))
