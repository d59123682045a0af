"""Whoever asks is told the same figures everywhere: `tonnage egress` and `tonnage policy explain`, also as a plugin of kubectl, agree to
the byte with the ledger and to the word with what a pod was told, and say as well what policies that are not applied yet would answer."""

import json
import shutil
from pathlib import Path

from ..command import Ended
from ..manifests import consumer, inline, pod
from ..outcome import until
from ..paths import INSIDE, STATE
from ..rules import Rules, budget, policy
from ..scene import Scene
from ..store import COUNTED
from ..tables import rows, size
from ..world import World

NAME = "governance-told"
OTHER = f"{NAME}-other"
CLOSED = f"{NAME}-closed"
DAILY = f"{NAME}.daily.{NAME}"
"""The ledger."""
LIMIT, PRICE = 1 << 30, 90
"""Bytes of the budget, and what as many cost: so much that a small model costs something."""
TOLD = 30
"""Seconds until what happened is told: a node writes every 5 s, the controller at a policy every 10 s."""
DENIED = 77
"""How a command ends that says no."""
PLACE, SEEN = STATE / NAME, INSIDE / NAME
"""Of files that commands are given, and what processes of the cluster call it."""


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED, consumers=[consumer(NAME), consumer(OTHER)])
    scene.add_namespace(OTHER)
    rules = Rules(world.kube)
    world.afterwards(rules.remove)
    PLACE.mkdir(exist_ok=True)
    world.afterwards(lambda: shutil.rmtree(PLACE))
    price = {"amount": f"{PRICE}", "currency": "EUR"}
    allow = [{"sources": [NAME], "prefixes": [f"{NAME}/public"]}]
    rules.apply(policy(NAME, NAME, allow=allow, budgets=[budget("daily", f"{LIMIT}")], pricePerGiB=price), _closed("elsewhere"))
    used = _loaded(world, scene, rules)
    _left(world, used)
    _egress(world, rules, used)


def _closed(prefix: str) -> dict:
    """The other namespace's policy, in force or only asked about."""
    return policy(CLOSED, OTHER, allow=[{"sources": [NAME], "prefixes": [f"{NAME}/{prefix}"]}])


def _loaded(world: World, scene: Scene, rules: Rules) -> int:
    """What is used of the budget, once a second load has settled the first."""
    for path in ("public/first", "public/second"):
        scene.add_model(path, shards=1)
    # The denial comes first, because it is told along with the next demand.
    scene.add(pod(OTHER, "denied", inline(NAME, "public/first")))
    refusal = scene.refusal("denied", 10, OTHER)
    _explained(world, OTHER, (DENIED, False, refusal.sentence, []))
    mark = world.store.mark()
    for path in ("first", "second"):
        scene.start(scene.inline_pod(path, f"public/{path}"))
    sent = world.store.since(mark).content
    ledger = until("the ledger has settled the first load", TOLD, lambda: (it := rules.ledger(DAILY))["settled"] and it, lambda: rules.ledger(DAILY))
    used = sum(ledger.values())
    world.check(f"the ledger has {used} bytes, and the wire saw {sent}", sent <= used <= 1.5 * sent, ledger)
    return used


def _ask(world: World, *words: str) -> Ended:
    return world.driver.attempt_on_node(*words, "--output=json")


def _explained(world: World, namespace: str, wanted: tuple, *more: str) -> None:
    """How the command ends, whether it may, why, and what budgets have left."""
    question = ["--namespace", namespace, "--as", "default", "--source", NAME, "--path", "public/first", *more]
    ended = _ask(world, "policy", "explain", *question)
    world.check(f"`tonnage policy explain {' '.join(question)}` answers", ended.out.startswith("{"), ended)
    answer = json.loads(ended.out)
    budgets = [(it["budget"], it["namespace"], it["limitBytes"], it["leftBytes"], it["suffices"]) for it in answer["budgets"]]
    world.equal(f"“{wanted[2]}”", (ended.code, answer["allowed"], answer["reason"], budgets), wanted)


def _left(world: World, used: int) -> None:
    left, rule = LIMIT - used, f"EgressPolicy {NAME}, spec.allow[0]"
    mine = (f"{NAME}/daily", NAME, LIMIT, left)
    _explained(world, NAME, (0, True, rule, [(*mine, True)]))
    words = f"budget {NAME}/daily has {size(left)} left of the {size(2 * LIMIT)} that the download has: bytes come back as they leave the window"
    _explained(world, NAME, (DENIED, False, f"{words}; it can be raised in spec.budgets", [(*mine, False)]), "--bytes=2GiB")
    changed = _write(_closed("public"))
    _explained(world, OTHER, (0, True, f"EgressPolicy {CLOSED}, spec.allow[0]", []), f"--file={changed}")


def _write(manifest: dict) -> Path:
    """A file with a policy that is not applied."""
    (PLACE / "changed.yaml").write_text(json.dumps(manifest))
    return SEEN / "changed.yaml"


def _egress(world: World, rules: Rules, used: int) -> None:
    cents = (rules.ledger(DAILY)["settled"] * PRICE * 100 + (1 << 29)) >> 30
    wanted = {"mode": "Enforce", "cost": f"{cents // 100}.{cents % 100:02} EUR", "denied": 0, "changedBy": rules.author(NAME)}
    mine = {"budget": "daily", "shared": False, "limitBytes": LIMIT, "usedBytes": used, "leftBytes": LIMIT - used}
    most = [{"namespace": NAME, "bytes": used}]

    def seen() -> tuple[dict, dict]:
        row = next(it for it in json.loads(_ask(world, "egress").out) if it["policy"] == NAME)
        return {key: row.get(key) for key in wanted}, {key: row["budgets"][0].get(key) for key in (*mine, "usedMost")}

    until("`tonnage egress` tells what is used", TOLD, lambda: seen() == (wanted, {**mine, "usedMost": most}), seen)
    world.check(f"`tonnage egress` tells {used} bytes used by {NAME}, {LIMIT - used} left, and {wanted['cost']}", True)
    status = until("the other policy tells what it has denied", TOLD, lambda: rules.status(CLOSED).get("denied"), lambda: rules.status(CLOSED))
    closed = next(it for it in json.loads(_ask(world, "egress").out) if it["policy"] == CLOSED)
    world.check(f"and of the other policy that it has denied {status['count']} times, and why", closed["denied"] >= status["count"] > 0 and CLOSED in closed["lastDenied"], closed)
    answer = _ask(world, "egress", "--namespace", NAME).out
    charged = [(it["policy"], {key: it["budgets"][0].get(key) for key in mine}) for it in json.loads(answer)]
    world.equal("`tonnage egress --namespace` reads the same from the ledger", charged, [(NAME, mine)])
    others = [(it["policy"], it["budgets"]) for it in json.loads(_ask(world, "egress", "--namespace", OTHER).out)]
    world.equal("and that nothing is charged to the namespace that was denied", others, [(CLOSED, [])])
    printed = world.driver.attempt_on_node("egress", "--namespace", NAME).out
    print("".join(f"      {line}\n" for line in printed.splitlines()), end="")
    columns = [(it["POLICY"], it["BUDGET"], it["USED"], it["LEFT"]) for it in rows(printed)]
    world.equal("its table has the same in words", columns, [(NAME, "daily", f"{size(used)} of {size(LIMIT)}", size(LIMIT - used))])
    world.equal("`kubectl tonnage` is the same program", _as_plugin(world, "egress", "--namespace", NAME, "--output=json"), answer)


def _as_plugin(world: World, *words: str) -> str:
    """kubectl finds its plugins by their names in PATH. The program lies where it was copied to for the commands before."""
    link = PLACE / "kubectl-tonnage"
    link.unlink(missing_ok=True)
    link.symlink_to("../tonnage")
    return world.cluster.inside("sh", "-c", f'PATH={SEEN}:$PATH exec kubectl tonnage "$@"', "plugin", *words)
