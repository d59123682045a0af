"""A stage longer than two of kubelet's deadlines is one download: the events of its pods say how far it is, one of two pods that wait for
it is deleted in the middle and does not disturb the other, and that one has its volume within two seconds of the last byte."""

import re
import time
from dataclasses import dataclass

from ..outcome import until
from ..scene import Scene
from ..wire import Wire
from ..world import World

NAME = "deadline"
PATH = "slow"
SHARDS, SHARD_SIZE = 4, 64 << 20
RATE = 1 << 20
"""Bytes per second of the wire. With these sizes the stage takes 256 s, and ends in the middle of kubelet's third attempt."""
PORT = 7072
"""Of the wire, which is this scenario's own: others run meanwhile."""
LEAST = 250
"""Seconds of a stage at that pace: nothing makes it shorter."""
DEADLINE = 120
"""Seconds after which kubelet gives a call up."""
SOON = 2
"""Seconds in which the driver has to have mounted what it has."""
PROGRESS = re.compile(r"staging (\d+) % \([\d.]+ of [\d.]+ MiB\), [\d.]+ MB/s")


@dataclass(frozen=True)
class Most:
    """Seconds that what is not the driver's alone may take: processors, kubelet and the wire have others to serve as well, if there are any."""

    stage: float
    deletion: float
    start: float


ALONE, CROWDED = Most(stage=270, deletion=DEADLINE + 5, start=2), Most(stage=340, deletion=DEADLINE + 12, start=6)
"""In both cases the stage ends in the middle of the third attempt."""


def run(world: World) -> None:
    most = ALONE if world.is_alone else CROWDED
    wire = Wire(world.cluster, NAME, PORT)
    world.afterwards(wire.stop)
    wire.start()
    scene = world.scene(NAME, endpoint=wire.endpoint)
    model = scene.add_model(PATH, shards=SHARDS, shard_size=SHARD_SIZE)
    wire.limit(RATE)
    mark = wire.mark()
    scene.add(scene.inline_pod("stays", PATH), scene.inline_pod("goes", PATH))
    _tells(world, scene, ("stays", "goes"), 1)
    _deleted_in_the_middle(world, scene, most)
    _tells(world, scene, ("stays",), 2)
    stays = scene.wait_until_running("stays", seconds=most.stage)
    traffic = wire.since(mark)
    took = traffic.last_byte - traffic.began
    world.check(f"the stage took {took:.0f} s, more than two deadlines of {DEADLINE} s", LEAST < took < most.stage)
    world.check(f"it was one download: {traffic}", traffic.is_one_of(model.size), f"the model has {model.size} bytes")
    # Both clocks are the machine's. The report's has milliseconds.
    mounted = world.driver.load_of(stays)["ended_millis"] / 1000 - traffic.last_byte
    world.check(f"the driver has mounted it {mounted:.2f} s after the last byte, which is less than {SOON} s", abs(mounted) < SOON)
    late = scene.started("stays") - traffic.last_byte
    world.check(f"the pod's first instruction ran {late:.2f} s after that byte, which is less than {most.start} s", mounted < late < most.start)
    world.equal("it reads what the generator wrote", scene.sums("stays"), model.sums)


def _tells(world: World, scene: Scene, names: tuple[str, ...], times: int) -> None:
    """Each deadline that passes is answered with how far the stage is."""
    for name in names:
        until(f"{name} is told {times} times how far the stage is", DEADLINE + 15, lambda: len(scene.refusals(name)) >= times)
        answers = scene.refusals(name)
        found = [PROGRESS.fullmatch(it.sentence) for it in answers if it.code == "Aborted"]
        percents = [int(match[1]) for match in found if match]
        rising = percents == sorted(set(percents)) and 0 < percents[0] and percents[-1] < 100 if percents else False
        world.check(f"the events of {name} say how far it is: {percents} %", len(percents) == len(answers) and rising, answers)
    print(f"      “{answers[-1].sentence}”")


def _deleted_in_the_middle(world: World, scene: Scene, most: Most) -> None:
    """While the next call for it is under way: kubelet unmounts only when that has been answered."""
    time.sleep(3)
    began = time.monotonic()
    scene.remove("goes", seconds=most.deletion)
    took = time.monotonic() - began
    world.check(f"a pod that is deleted in the middle is gone after {took:.0f} s, within one deadline", took < most.deletion)
    world.check("the other one waits on", world.kube.get(NAME, "pod", "stays")["status"]["phase"] == "Pending")
