"""Two namespaces spend one budget and together never more than it has; who comes too late is told which budget, and not who else spent it.
A policy that only watches counts and tells what it would have denied, and refuses nothing. A budget of calendar days says when its day
ends, and where digests are required, only a volume that names one mounts."""

import json
import time
from datetime import datetime, timedelta, timezone

from ..audit import NODE, AuditLog, named, who
from ..cluster import FIRST
from ..manifests import consumer, inline, pod
from ..model import MIB, Model
from ..outcome import until
from ..rules import Rules, budget, policy
from ..scene import Refusal, Scene
from ..store import COUNTED
from ..tables import rows, size
from ..world import World

NAME = "budgets"
OTHER, PINNED, WATCHED = (f"{NAME}-{it}" for it in ("other", "pinned", "watched"))
SHARED = f"{NAME}-shared"
"""The policy of the first two namespaces; the other two have policies of their names."""
MONTH = f"{SHARED}.month"
"""The ledger that they share."""
LIMIT = 28 * MIB
"""Bytes of a budget that has enough for a model of 16 MiB and one of 8, and not for another."""
OFFSET = timedelta(hours=5, minutes=30)
"""Of the time zone in which the days of a budget begin."""
SOON = 5
"""Seconds in which a refusal by a rule has to be there."""
TOLD = 30
"""Seconds until what was spent is told: a node writes every 5 s, the controller at a policy every 10 s."""


def run(world: World) -> None:
    everybody = (NAME, OTHER, PINNED, WATCHED)
    scene = world.scene(NAME, endpoint=COUNTED, consumers=[consumer(it) for it in everybody])
    for namespace in everybody[1:]:
        scene.add_namespace(namespace)
    rules = Rules(world.kube)
    world.afterwards(rules.remove)
    log = AuditLog(world.kube)
    rules.apply(*_policies())
    _ends(world)
    first = _shared(world, scene, rules)
    _pinned(world, scene, first)
    _watched(world, scene, rules, log)


def _policies() -> list[dict]:
    shared = policy(SHARED, NAME, allow=[{}], budgets=[{**budget("month", f"{LIMIT}"), "scope": "Shared"}])
    shared["spec"]["namespaces"]["names"] = [NAME, OTHER]
    day = {"name": "day", "bytes": "1Gi", "window": {"calendar": "Daily", "timeZone": "+05:30"}}
    allow = [{"sources": [NAME], "prefixes": [f"{NAME}/elsewhere"]}]
    # One that suffices, and one that does not: neither may refuse.
    counted = [budget("plenty", "1Gi"), budget("tiny", "1Mi")]
    return [shared, policy(PINNED, PINNED, allow=[{}], budgets=[day], requireDigest=True), policy(WATCHED, WATCHED, mode="Audit", allow=allow, budgets=counted)]


def _ends(world: World) -> None:
    """A day may end while one looks."""
    ends, printed = _midnight(), world.kube("get", "egresspolicy", PINNED)
    print("".join(f"      {line}\n" for line in printed.splitlines()), end="")
    (row,) = rows(printed)
    seen = {key: row.get(key) for key in ("NAME", "MODE", "BUDGET", "USED", "LEFT")}
    world.equal("`kubectl get egresspolicy` has columns for a day's budget", seen, {"NAME": PINNED, "MODE": "Enforce", "BUDGET": "day", "USED": "0 B of 1.0 GiB", "LEFT": "1.0 GiB"})
    world.check(f"and the day of its time zone ends at {row['WINDOW END']}", row["WINDOW END"] in (ends, _midnight()), ends)
    told = next(it for it in _egress(world) if it["policy"] == PINNED)["budgets"][0]
    world.check("and `tonnage egress` says so too", told["windowEnd"] in (ends, _midnight()) and told["window"] == "Daily +05:30", told)


def _midnight() -> str:
    """The next one in that time zone, as Kubernetes writes times."""
    today = datetime.now(timezone(OFFSET)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (today + timedelta(days=1)).astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _egress(world: World, *arguments: str) -> list[dict]:
    ended = world.driver.attempt_on_node("egress", *arguments, "--output=json")
    world.check(f"`{' '.join(('tonnage egress', *arguments))}` answers", ended.code == 0, ended)
    return json.loads(ended.out)


def _shared(world: World, scene: Scene, rules: Rules) -> Model:
    first, second = scene.add_model("first", shards=2), scene.add_model("second", shards=1)
    scene.add_model("third", shards=1)
    mark = world.store.mark()
    scene.start(pod(OTHER, "first", inline(NAME, "first")))
    scene.start(scene.inline_pod("second", "second"))
    world.equal("two namespaces load what their one budget has", (scene.sums("first", namespace=OTHER), scene.sums("second")), (first.sums, second.sums))
    late = world.store.mark()
    scene.add(scene.inline_pod("late", "third"))
    refusal = until("the pod that comes too late is told that the budget is used up", 60, lambda: _exhausted(scene, "late"), lambda: scene.refusals("late"))
    named = f"budget month of EgressPolicy {SHARED} for all its namespaces together has {size(LIMIT - first.size - second.size)} of {size(LIMIT)} left: "
    world.check("in one sentence that names policy and budget, and what is left of it", refusal.is_one_sentence and refusal.sentence.startswith(named), refusal)
    world.check("and not who else has spent it", OTHER not in refusal.sentence, refusal)
    print(f"      “{refusal.sentence}”")
    world.equal("and nothing was fetched for it", world.store.since(late).content, 0)
    sent = world.store.since(mark).content
    world.check(f"the wire saw {sent} bytes of both, and the budget has {LIMIT}", first.size + second.size <= sent <= LIMIT)
    ledger = rules.ledger(MONTH)
    world.check(f"and its one ledger has them: {ledger}", sent <= sum(ledger.values()) <= LIMIT)
    _who_spent(world, {OTHER: first.size, NAME: second.size})
    return first


def _exhausted(scene: Scene, name: str) -> Refusal | None:
    """How far a load is can come before."""
    return next((it for it in scene.refusals(name) if it.code == "ResourceExhausted"), None)


def _who_spent(world: World, spent: dict[str, int]) -> None:
    """Along with the report of each grant; that of the last one came with the demand that was refused."""

    def told() -> bool:
        used = {it["namespace"]: it["bytes"] for row in rows_of() for it in row["budgets"][0]["usedMost"]}
        return used == spent

    def rows_of() -> list[dict]:
        return [it for it in json.loads(world.driver.attempt_on_node("egress", "--output=json").out) if it["policy"] == SHARED]

    until("it is told who spent the budget", TOLD, told, rows_of)
    world.check(f"administrators are told who spent how much of it: {spent}", True)
    for namespace in spent:
        budgets = [(it["policy"], it["budgets"][0]["budget"], it["budgets"][0]["shared"]) for it in _egress(world, "--namespace", namespace)]
        world.equal(f"and that it is what {namespace} is charged to", budgets, [(SHARED, "month", True)])


def _pinned(world: World, scene: Scene, model: Model) -> None:
    mark, began = world.store.mark(), time.monotonic()
    scene.add(pod(PINNED, "loose", inline(NAME, "first")))
    refusal = scene.refusal("loose", SOON * 2, PINNED)
    took = time.monotonic() - began
    world.check(f"a volume without a digest is refused in {took:.1f} s, where a policy requires them", took < SOON and refusal.code == "PermissionDenied", refusal)
    sentence = f"EgressPolicy {PINNED} requires pods of namespace {PINNED} to name the digest of what they load: set the volume's attribute digest"
    world.equal(f"“{sentence}”", refusal.sentence, sentence)
    world.equal("for which no object was asked for", world.store.since(mark).objects, [])
    digest = next(it["digest"] for it in world.driver.loads() if (it["source"], it["path"]) == (NAME, "first"))
    scene.start(pod(PINNED, "pinned", inline(NAME, "first", digest=digest)))
    world.equal(f"with the digest {digest[:16]}… it mounts", scene.sums("pinned", namespace=PINNED), model.sums)


def _watched(world: World, scene: Scene, rules: Rules, log: AuditLog) -> None:
    model, mark = scene.add_model("watched", shards=1), world.store.mark()
    scene.start(pod(WATCHED, "watched", inline(NAME, "watched")))
    world.equal("what a policy that only watches would deny is loaded", scene.sums("watched", namespace=WATCHED), model.sums)
    traffic = world.store.since(mark)
    world.check(f"all of it and once, though it has a budget of 1 MiB: {traffic}", traffic.is_one_of(model.size), f"the model has {model.size} bytes")
    sentence = (
        f'service account {WATCHED}/default may not load this from source "{NAME}": no entry of spec.allow of EgressPolicy {WATCHED} names it '
        f'(allow[0] of {WATCHED} comes closest and does not name path "{NAME}/watched"); ask an administrator to add it'
    )
    question = ["--namespace", WATCHED, "--source", NAME, "--path", "watched"]
    ended = world.driver.attempt_on_node("policy", "explain", *question, "--output=json")
    answer = json.loads(ended.out)
    seen = (ended.code, answer["allowed"], answer["audited"], [it["enforced"] for it in answer["budgets"]])
    world.equal("`tonnage policy explain` tells what it would deny, and that its budgets are counted only", seen, (0, True, sentence, [False, False]))
    ledger = f"{WATCHED}.plenty.{WATCHED}"
    until("the bytes are counted", TOLD, lambda: sum(rules.ledger(ledger).values()) >= traffic.content, lambda: rules.ledger(ledger))
    world.check(f"the budget that suffices has counted at least the {traffic.content} bytes that the wire saw: {rules.ledger(ledger)}", True)

    def row() -> dict:
        return next(it for it in json.loads(world.driver.attempt_on_node("egress", "--output=json").out) if it["policy"] == WATCHED)

    until("`tonnage egress` tells of them", TOLD, lambda: row()["budgets"][0].get("usedBytes", 0) >= traffic.content, row)
    world.equal("`tonnage egress` tells of them, that the policy only watches, and that it has denied nothing", (row()["mode"], row()["denied"]), ("Audit", 0))
    # Last: whatever else was to be said of it has been said by now.
    _is_audited(world, log, sentence)


def _is_audited(world: World, log: AuditLog, sentence: str) -> None:
    found = until("the audit log has what would have been denied", 20, lambda: _would_deny(log), lambda: log.lines(NODE))
    wanted = {
        "who": who(world.kube, WATCHED, "watched"),
        "policies": [named(world.kube, WATCHED)],
        "rule": "unnamed",
        "reason": sentence,
        "node": FIRST,
    }
    seen = [({key: it.get(key) for key in wanted}, it["what"]["path"]) for it in found]
    world.equal("what would have been denied stands once in the audit log, with the policy that would have denied it", seen, [(wanted, f"{NAME}/watched")])


def _would_deny(log: AuditLog) -> list[dict]:
    """Lines of the namespace that is only watched."""
    return [it for it in log.entries(NODE, "WouldDeny") if it["who"]["namespace"] == WATCHED]
