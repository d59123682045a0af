"""How long from asking for a pod until it has read the last byte of its model: with our volume, with an init container that copies
with s5cmd or rclone, and with an image volume; the first pod, the second, and ten at once. Times are shown; bytes and sums are checked."""

import json
import random
import time
from dataclasses import dataclass, replace
from types import ModuleType

from .. import contenders, manifests, registry
from ..cluster import KUBELET
from ..contenders import IMAGE_VOLUME, OURS, PEERS, Contender, Place
from ..model import MIB, Model
from ..outcome import until
from ..paths import INSIDE, STATE
from ..registry import Registry
from ..results import Files, Row, machine
from ..scene import Scene
from ..stopwatch import Moments, moments
from ..store import BUCKET, COUNTED, DIRECT, Store
from ..world import World

NAME = "cold-start"
TIMED = f"{NAME}-timed"
"""The same place of the store, past the wire that counts: its pace is not what is measured."""
SMALL = 256 * MIB
"""Most of a model of which bytes are counted: the wire that counts is slow."""
SHARD = 128 * MIB
CROWD = 10
IMAGES = "/var/lib/containerd"
"""Where the runtime keeps layers and what it unpacks from them."""
CACHE = INSIDE / NAME
"""On kubelet's file system, so that our cache and an emptyDir are the same disk. A node that serves models has another one for it."""


@dataclass(frozen=True)
class Kept:
    """A model in the store, and the sum of all words of it."""

    place: Place
    model: Model
    total: int


@dataclass(frozen=True)
class Stage:
    """What every pod of the scenario needs."""

    world: World
    scene: Scene
    bench: ModuleType
    """Means of `benches/`."""
    counted: Kept
    timed: Kept
    registry: Registry | None
    """None where the cluster has no image volumes."""

    @property
    def contenders(self) -> list[Contender]:
        return [OURS, *PEERS, *([IMAGE_VOLUME] if self.registry else [])]

    def server(self, contender: Contender) -> Store:
        """Whom a contender has its bytes from."""
        return self.registry if self.registry and contender.is_image else self.world.store

    def pods(self, contender: Contender, kept: Kept, *names: str) -> list[Moments]:
        """Makes pods at once, waits until they have read everything, and removes nothing."""
        asked = time.time()
        self.scene.add(*(contender.pod(NAME, name, kept.place) for name in names))
        patience = 120 + len(names) * kept.model.size // (20 * MIB)
        done = "--for=jsonpath={.status.phase}=Succeeded"
        self.world.kube("wait", f"--namespace={NAME}", done, *(f"pod/{name}" for name in names), f"--timeout={patience}s", seconds=patience + 10)
        found = [moments(self.world.kube, NAME, name, asked, self._made(contender, name)) for name in names]
        wanted = [(kept.model.size, kept.total)] * len(names)
        self.world.equal(f"{contender.name}: {', '.join(names)} read what the generator wrote", [(it.bytes, it.total) for it in found], wanted)
        return found

    def _made(self, contender: Contender, name: str) -> str:
        """Nobody tells of the mount of an image but the container that is made with it."""
        return contenders.made(self.world.cluster, self.world.kube, NAME, name) if contender.is_image else ""

    def condition(self) -> None:
        """An empty cache and no image, nothing dirty, the servers' files and memory warm: `docs/performance.md`, Rules."""
        until("the cache is empty", 60, self._emptied, lambda: self.world.driver.tonnage("cache", "du"))
        if self.registry:
            self.registry.forget()
        self.world.cluster.inside("sync")
        self.bench.warm(STATE / "store/data" / BUCKET / NAME)
        if self.registry:
            self.bench.warm(self.registry.blobs)
        # An image is there twice: its layer, and what is unpacked from it.
        self.bench.heat(self.timed.model.size * (5 if self.registry else 3) // 2 + 512 * MIB)

    def _emptied(self) -> bool:
        self.world.driver.tonnage("cache", "gc", "--all")
        return self.world.driver.usage()["objects"]["files"] == 0


def run(world: World) -> None:
    tools = contenders.install()
    bench = machine()
    contenders.load(world.cluster, bench.BENCH)
    world.afterwards(lambda: contenders.unload(world.cluster))
    disk = _same_disk(world)
    if absent := contenders.why_no_image_volume(world.kube):
        print(f"      no image volume beside the others: {absent}", flush=True)
    stage = _staged(world, bench, None if absent else _registry(world))
    sent = {it.name: _bytes(stage, it) for it in stage.contenders}
    _ten_cost_one(stage)
    rows = {(it.name, f"{which} pod"): Row(it.name, f"{which} pod", verifies=it.verifies) for which in ("first", "second") for it in stage.contenders}
    rows[OURS.name, "ten pods"] = Row(OURS.name, "ten pods", verifies=True)
    loads: list[dict] = []
    dice = world.dice(NAME)
    for rep in range(world.measure.reps):
        _turn(stage, rep, dice, rows, loads)
    for name, ratio in sent.items():
        rows[name, "first pod"].figures["sent ×"] = [ratio]
    images = f"no image volume beside the others: {absent}" if absent else f"image volume: {contenders.runtime(world.kube)}, one uncompressed layer"
    _tell(world, tools, rows, loads, [f"the cache, emptyDirs and images lie on the same file system ({disk})", images])


def _registry(world: World) -> Registry:
    Registry.build()
    made = Registry(world.cluster)
    world.afterwards(made.stop)
    made.start()
    world.afterwards(made.forget)
    return made


def _same_disk(world: World) -> str:
    """Moves the driver's cache to where emptyDirs and images are; says which disk that is."""
    world.afterwards(lambda: world.cluster.inside("sh", "-c", f"umount {CACHE} && rm -rf {CACHE}"))
    # Containers may have a directory of the node propagated to them from shared mounts only.
    world.cluster.inside("sh", "-c", f"mkdir -p {CACHE} && mount --bind {CACHE} {CACHE} && mount --make-shared {CACHE}")
    world.afterwards(world.driver.uninstall)
    world.driver.upgrade({"nodeGroups": [{"name": "default", "cacheDir": str(CACHE), "forceRootFilesystem": True}]})
    world.driver.wait_until_ready()
    devices = world.cluster.inside("stat", "--format=%d", KUBELET, IMAGES, CACHE).split()
    world.check("the cache, emptyDirs and images lie on the same file system", len(set(devices)) == 1, devices)
    return " ".join(world.cluster.inside("df", "--output=fstype,source", CACHE).splitlines()[1].split())


def _staged(world: World, bench: ModuleType, images: Registry | None) -> Stage:
    """Two sources lead to one bucket: over the wire that counts, to a model that is not large, and past it."""
    scene = world.scene(NAME, endpoint=COUNTED)
    timed = manifests.source(NAME, DIRECT, [manifests.consumer(NAME)])
    timed["metadata"]["name"] = TIMED
    scene.add(timed)
    size = world.measure.size
    counted = _kept(scene, COUNTED, NAME, min(size, SMALL))
    timed = _kept(scene, DIRECT, TIMED, size)
    if images:
        counted, timed = _in_image(counted, images, registry.COUNTED), _in_image(timed, images, registry.DIRECT)
    return Stage(world, scene, bench, counted, timed, images)


def _kept(scene: Scene, endpoint: str, source: str, size: int) -> Kept:
    shards = -(-size // SHARD)
    model = scene.add_model(source, shards=shards, shard_size=size // shards)
    return Kept(Place(endpoint, source, f"{NAME}/{source}", source), model, _total(model))


def _in_image(kept: Kept, images: Registry, endpoint: str) -> Kept:
    """The same, and in the registry as well."""
    return replace(kept, place=replace(kept.place, image=images.push(kept.model.directory, kept.place.source, endpoint)))


def _total(model: Model) -> int:
    """What `tonnage-bench read` adds up: 64-bit words, and what is left of a file byte by byte."""
    total = 0
    for name, size in model.sizes.items():
        content = memoryview((model.directory / name).read_bytes())
        words = size // 8 * 8
        total += sum(content[:words].cast("Q")) + sum(content[words:])
    return total % (1 << 64)


def _bytes(stage: Stage, contender: Contender) -> float:
    """Untimed, over the wire that counts: what the first pod and the second one cost. Content sent for the first ÷ model."""
    stage.condition()
    server = stage.server(contender)
    mark = server.mark()
    names = [f"{_slug(contender)}-counted-{number}" for number in (1, 2)]
    stage.pods(contender, stage.counted, names[0])
    first = server.since(mark)
    stage.world.check(f"{contender.name}: the first pod costs one download", first.is_one_of(stage.counted.model.size), first)
    mark = server.mark()
    stage.pods(contender, stage.counted, names[1])
    second = server.since(mark)
    if contender.stays:
        stage.world.equal(f"{contender.name}: the second pod costs none", second.content, 0)
    else:
        stage.world.check(f"{contender.name}: the second pod costs another one", second.is_one_of(stage.counted.model.size), second)
    stage.scene.remove(*names)
    return first.content / stage.counted.model.size


def _slug(contender: Contender) -> str:
    """Pods of different contenders have different names, and so have their events."""
    return contender.name.replace(" ", "-")


def _ten_cost_one(stage: Stage) -> None:
    stage.condition()
    names = [f"of-ten-{number}" for number in range(1, CROWD + 1)]
    mark = stage.world.store.mark()
    stage.pods(OURS, stage.counted, *names)
    traffic = stage.world.store.since(mark)
    stage.world.check(f"{OURS.name}: {CROWD} pods at once cost one download", traffic.is_one_of(stage.counted.model.size), traffic)
    stage.scene.remove(*names, seconds=120)


def _turn(stage: Stage, rep: int, dice: random.Random, rows: dict[tuple[str, str], Row], loads: list[dict]) -> None:
    """Everybody once, in an order that the seed decides anew for every turn."""
    order: list[tuple[Contender, bool]] = [(it, False) for it in stage.contenders] + [(OURS, True)]
    dice.shuffle(order)
    for contender, is_crowd in order:
        stage.condition()
        if is_crowd:
            names = [f"of-ten-{rep}-{number}" for number in range(1, CROWD + 1)]
            # The slowest decides.
            found = {"ten pods": max(stage.pods(contender, stage.timed, *names), key=lambda it: it.ended)}
        else:
            names = [f"{_slug(contender)}-{rep}-{which}" for which in ("first", "second")]
            found = {f"{which} pod": stage.pods(contender, stage.timed, name)[0] for which, name in zip(("first", "second"), names)}
            loads += _phases(stage, names[0]) if contender.is_ours else []
        for lane, seen in found.items():
            rows[contender.name, lane].add(seen.phases)
            print(f"      {contender.name:<14} {lane:<10} {seen.phases['in memory s']:6.2f} s", flush=True)
        stage.scene.remove(*names, seconds=120)


def _phases(stage: Stage, pod: str) -> list[dict]:
    """Seconds of the phases of a pod's load, as the driver accounts for them."""
    recent = json.loads(stage.world.driver.tonnage("loads", "--json"))
    return [{phase: nanos / 1e9 for phase, nanos in it["phases"]} for it in recent if (it.get("pod") or {}).get("name") == pod]


def _tell(world: World, tools: contenders.Tools, rows: dict[tuple[str, str], Row], loads: list[dict], where: list[str]) -> None:
    """`where` are notes on the disk and on images."""
    files = Files(NAME)
    size = f"{world.measure.size >> 20} MiB"
    notes = [
        f"{size} in files of at most {SHARD >> 20} MiB; memory hot",
        *where,
        "asked: kubectl is started; scheduled: the event's time; there: the volume is mounted, the init container has ended, or the "
        "container with the image volume is made",
        "the pod's container maps all files and adds up every byte (tonnage-bench read --lane mmap)",
        "ten pods: the slowest; their model is not cached when they are asked for",
    ]
    if loads:
        middle = {phase: sorted(it.get(phase, 0.0) for it in loads)[len(loads) // 2] for phase in dict.fromkeys(key for it in loads for key in it)}
        notes.append("our first load, medians by phase: " + ", ".join(f"{phase} {seconds:.3f} s" for phase, seconds in middle.items()))
    about = {"machine": machine().description(), "versions": tools.versions, "reps": world.measure.reps, "size": world.measure.size, "loads": loads}
    files.write(about, " ".join(__doc__.split(": ", 1)[0].split()) + "?", list(rows.values()), notes)
    print(files.draw(tools.python), flush=True)
    print(f"      figures are in {files.json}, a chart is {files.chart}", flush=True)
    if world.measure.write:
        print(f"      the chart is also {files.publish()}", flush=True)
