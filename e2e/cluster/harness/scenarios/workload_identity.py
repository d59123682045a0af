"""A pod reads as whom its service account is in the cloud: its token is taken for keys of 15 minutes by a real STS that trusts the
cluster as issuer; another service account is refused by the role's trust policy, though the source's consumers would let it, and gets no
byte; a role that trusts every service account is warned about."""

from .. import model
from ..manifests import as_service_account, consumer, inline, pod, service_account, source
from ..outcome import until
from ..scene import Scene
from ..seaweed import AUDIENCE, COUNTED, Seaweed, as_role, discovery, exchanges, role_arn
from ..world import World

NAME = "workload-identity"
PATH = "private"
STRICT, LAX = "strict", "lax"
"""Roles, and sources that read as them: one trusts the service account `reader` alone, the other whoever the cluster vouches for."""


def run(world: World) -> None:
    seaweed = _store(world)
    scene = world.scene(NAME)
    scene.add(discovery(), *(service_account(NAME, name) for name in ("reader", "stranger")))
    consumers = [consumer(NAME, "reader", "stranger")]
    scene.add(*(source(_name(role), COUNTED, consumers, as_role(role), NAME) for role in (STRICT, LAX)))
    made = model.generate(scene.place(PATH), f"{world.seed}/{NAME}")
    seaweed.put(made.directory, f"{NAME}/{PATH}")
    mark = seaweed.mark()
    _without_audience(world, scene)
    _allowed(world, scene, seaweed, made, mark)
    _refused(world, scene, seaweed)
    _warned(world)


def _store(world: World) -> Seaweed:
    Seaweed.build()
    seaweed = Seaweed(world.cluster, {STRICT: f"system:serviceaccount:{NAME}:reader", LAX: None})
    world.afterwards(seaweed.stop)
    seaweed.start()
    return seaweed


def _name(role: str) -> str:
    return f"{NAME}-{role}"


def _pod(name: str, account: str, role: str = STRICT) -> dict:
    return as_service_account(pod(NAME, name, inline(_name(role), PATH)), account)


def _without_audience(world: World, scene: Scene) -> None:
    scene.add(_pod("reader-1", "reader"))
    refusal = scene.refusal("reader-1", 15)
    world.check("without a token for the cloud a pod is told in one sentence which value of the chart brings one", refusal.is_one_sentence and "csiDriver.tokenAudiences" in refusal.sentence, refusal)
    world.equal("and the code is Unauthenticated", refusal.code, "Unauthenticated")
    print(f"      “{refusal.sentence}”")
    world.afterwards(world.driver.upgrade)
    world.driver.upgrade(changed={"csiDriver": {"tokenAudiences": [AUDIENCE]}})
    world.driver.wait_until_ready()


def _allowed(world: World, scene: Scene, seaweed: Seaweed, made: model.Model, mark: int) -> None:
    scene.wait_until_running("reader-1", seconds=150)
    traffic = seaweed.since(mark)
    world.equal("the service account that the role trusts reads the model", scene.sums("reader-1"), made.sums)
    world.check("it was downloaded once", traffic.is_one_of(made.size), traffic)
    # The controller tries each source once, as itself.
    asked = exchanges(traffic)
    world.check("with keys that were asked for once", 1 <= asked <= 3, asked)
    mark = seaweed.mark()
    scene.start(_pod("reader-2", "reader"))
    again = seaweed.since(mark)
    world.equal("another pod of that service account reads the model", scene.sums("reader-2"), made.sums)
    world.equal("without a byte of content, and with the same keys", (again.content, exchanges(again)), (0, 0))


def _refused(world: World, scene: Scene, seaweed: Seaweed) -> None:
    mark = seaweed.mark()
    scene.add(_pod("stranger-1", "stranger"))
    refusal = scene.refusal("stranger-1", 15)
    world.equal("another service account, which consumers would let, is refused by the role", refusal.code, "PermissionDenied")
    world.check("in one sentence that names the role and its trust policy", refusal.is_one_sentence and role_arn(STRICT) in refusal.sentence and "trust policy" in refusal.sentence, refusal)
    print(f"      “{refusal.sentence}”")
    world.equal("for which no object was asked for", seaweed.since(mark).objects, [])
    world.equal("and the pod does not start", world.kube.get(NAME, "pod", "stranger-1")["status"]["phase"], "Pending")


def _warned(world: World) -> None:
    lax = until("a role that every service account may assume is warned about", 90, lambda: _trust(world, LAX))
    world.equal("a role that trusts every service account is warned about", (lax["status"], lax["reason"]), ("True", "AnyServiceAccount"))
    print(f"      “{lax['message']}”")
    strict = until("a role that does not is found out to be restricted", 90, lambda: _trust(world, STRICT))
    world.equal("one that trusts some is not", strict["status"], "False")


def _trust(world: World, role: str) -> dict:
    return world.kube.condition("", "source", _name(role), "TrustNotRestricted")
