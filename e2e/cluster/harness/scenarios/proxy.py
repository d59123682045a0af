"""A store whose name only a proxy knows is read through that proxy, and every connection to it is a tunnel. What the proxy refuses is told
in one sentence that names it, and goes on by itself once it is let; what is cached is mounted without it."""

import json
import shutil

from ..manifests import claim, claimed, consumer, inline, pod, source
from ..outcome import until
from ..paths import INSIDE, STATE
from ..scene import Scene
from ..store import ADDRESS, DIRECT, place
from ..world import World

NAME = "proxy"
COMPONENT = "connect-proxy"
"""Of the proxy (`../../node/connect.py`), and of its directory."""
LISTENS = f"{ADDRESS}:7098"
HOST = "store.example:7070"
"""What the proxy calls the store. No name service has it."""
UNPROXIED = f"{NAME}-without"
"""A source like the scene's, without the proxy."""
FORBIDDEN = "403"
DIRECTORY = STATE / COMPONENT


def run(world: World) -> None:
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir(parents=True)
    world.afterwards(lambda: _stop(world))
    _start(world)
    endpoint = f"http://{HOST}"
    scene = world.scene(NAME, endpoint=endpoint)
    world.kube.patch("", "source", NAME, {"spec": {"proxy": f"http://{LISTENS}"}})
    scene.add(source(UNPROXIED, endpoint, [consumer(NAME)], below=NAME))
    _reads(world, scene)
    _without_the_proxy(world, scene)


def _reads(world: World, scene: Scene) -> None:
    model = scene.add_model("read")
    _becomes(world, NAME, "True")
    world.check("the source is Ready", True)
    scene.start(scene.inline_pod("inline", "read"))
    world.equal("the checksums in a pod are those of the generator", scene.sums("inline"), model.sums)
    connects = _connects()
    world.equal(f"the proxy was asked for {HOST} and for nothing else", {it["host"] for it in connects}, {HOST})
    world.equal(f"and has made {len(connects)} tunnels", {it["status"] for it in connects}, {200})
    _becomes(world, UNPROXIED, "False")
    world.check("a source that does not name the proxy is not Ready: it cannot find the store", True)


def _without_the_proxy(world: World, scene: Scene) -> None:
    """Tunnels that are there are not asked for again, so that a proxy which changes its mind is a new one."""
    cached, refused = scene.add_model("cached"), scene.add_model("refused")
    scene.add(claim(NAME, "cached", NAME, "cached"))
    scene.start(pod(NAME, "before", claimed("cached")))
    _stop(world)
    try:
        scene.start(pod(NAME, "during", claimed("cached")), seconds=30)
        world.equal("a model that is cached is mounted while the proxy is away", scene.sums("during"), cached.sums)
        (DIRECTORY / "status").write_text(FORBIDDEN)
    finally:
        _start(world)
    scene.add(pod(NAME, "waiting", inline(NAME, "refused")))
    refusal = scene.refusal("waiting", 150)
    world.check("a proxy that refuses is named in one sentence", refusal.is_one_sentence and LISTENS in refusal.sentence, refusal)
    print(f"      “{refusal.sentence}”")
    world.equal("it has refused every tunnel", {it["status"] for it in _connects()} - {200}, {int(FORBIDDEN)})
    (DIRECTORY / "status").unlink()
    scene.wait_until_running("waiting", seconds=150)
    world.equal("that pod goes on by itself when the proxy lets it", scene.sums("waiting"), refused.sums)


def _start(world: World) -> None:
    command = ["python3", "-B", "/var/lib/conf/connect.py", LISTENS, HOST, place(DIRECT), INSIDE / COMPONENT]
    world.cluster.start_component(COMPONENT, *command)
    host, _, port = LISTENS.rpartition(":")
    ask = f"import socket; socket.create_connection(('{host}', {port}), 2)"
    until("the proxy listens", 20, lambda: world.cluster.attempt("python3", "-c", ask).code == 0)


def _stop(world: World) -> None:
    world.cluster.kill_component(COMPONENT)


def _connects() -> list[dict]:
    """What the proxy was asked for, and its answers; its last line may not be there yet."""
    log = (DIRECTORY / "connects.jsonl").read_text()
    return [json.loads(line) for line in log.splitlines(keepends=True) if line.endswith("\n")]


def _becomes(world: World, name: str, status: str) -> None:
    def condition() -> dict:
        return world.kube.condition("", "source", name, "Ready")

    until(f"source {name} is Ready or not: {status}", 90, lambda: condition().get("status") == status, condition)
