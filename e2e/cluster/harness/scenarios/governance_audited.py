"""The audit log has a line for everything that is decided: allowed, denied, reserved, granted, settled and overruled, by which version of
which policy, about whom, what and how many bytes. Its figures are the ledger's and the server's, and `tonnage policy simulate` decides it
all again by other policies."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..audit import CONTROLLER, NODE, AuditLog, is_plain, named, who
from ..cluster import FIRST
from ..manifests import as_service_account, claim, claimed, consumer, inline, pod, service_account
from ..model import MIB
from ..outcome import until
from ..paths import INSIDE, STATE
from ..rules import Rules, budget, in_time, policy
from ..scene import Refusal, Scene
from ..store import ADDRESS, BUCKET, COUNTED
from ..world import World

NAME = "governance-audited"
OTHER = f"{NAME}-other"
CLOSED = f"{NAME}-closed"
DAILY = f"{NAME}.daily.{NAME}"
"""The ledger."""
READER = "reader"
REASON = "incident 4711: mirror is down"
PATIENCE = 150
"""Seconds in which a denied pod has to start once it may: kubelet asks ever more seldom, and at last every two minutes."""
TOLD = 30
"""Seconds until what happened is told: a node writes every 5 s, the controller at a policy every 10 s."""
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
GRANTED = re.compile(r"of (\d+) bytes granted; .*")
PLACE, SEEN = STATE / NAME, INSIDE / NAME
"""Of files that commands are given, and what processes of the cluster call it."""


@dataclass(frozen=True)
class Loads:
    """What happened."""

    sent: dict[str, tuple[str, int]]
    """By the names of pods of the namespace: a path, and the bytes that the server sent for it."""
    refusal: Refusal
    """What the pod of the other namespace was told."""

    @property
    def bytes(self) -> int:
        return sum(count for _, count in self.sent.values())


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED, consumers=[consumer(NAME), consumer(OTHER)])
    scene.add_namespace(OTHER, {"tier": "research"})
    scene.add(service_account(NAME, READER))
    rules = Rules(world.kube)
    world.afterwards(rules.remove)
    PLACE.mkdir(exist_ok=True)
    world.afterwards(lambda: shutil.rmtree(PLACE))
    log = AuditLog(world.kube)
    rules.apply(*_policies())
    loads = _decided(world, scene, rules)
    _is_audited(world, log, loads)
    _adds_up(world, rules, log, loads.bytes)
    _simulated(world, log, loads)


def _policies(prefix: str = "public", closed: str = "elsewhere", size: str = "1Gi") -> list[dict]:
    """Those in force, or others to decide again by."""
    allow = {name: [{"sources": [NAME], "prefixes": [f"{NAME}/{it}"]}] for name, it in ((NAME, prefix), (CLOSED, closed))}
    return [policy(NAME, NAME, allow=allow[NAME], budgets=[budget("daily", size)]), policy(CLOSED, OTHER, allow=allow[CLOSED])]


def _decided(world: World, scene: Scene, rules: Rules) -> Loads:
    """Something of every kind. A claim has a revision when it is let in, an inline volume once it is listed."""
    for path in ("first", "second"):
        scene.add_model(f"public/{path}", shards=1)
    scene.add(claim(NAME, "claim", NAME, "public/first"), pod(OTHER, "denied", inline(NAME, "public/first")))
    refusal = scene.refusal("denied", 10, OTHER)
    volumes = {"claimed": ("public/first", claimed("claim")), "inline": ("public/second", inline(NAME, "public/second"))}
    sent = {}
    for name, (path, volume) in volumes.items():
        mark = world.store.mark()
        scene.start(as_service_account(pod(NAME, name, volume), READER))
        sent[name] = (path, world.store.since(mark).content)
    world.equal("an override is admitted", rules.annotate(CLOSED, until=in_time(1), reason=REASON).code, 0)
    scene.wait_until_running("denied", PATIENCE, OTHER)
    world.equal("with what is cached, the denied pod runs by itself", scene.sums("denied", namespace=OTHER), scene.sums("claimed"))
    return Loads(sent, refusal)


def _is_audited(world: World, log: AuditLog, loads: Loads) -> None:
    found = until("the audit log has both settlements", 20, lambda: _settled(log, len(loads.sent)), lambda: log.lines(NODE))
    lines = log.lines(NODE) + log.lines(CONTROLLER)
    world.check(f"{len(lines)} lines of the audit log are short, of plain letters, right about their time, and all", all(map(is_plain, lines)), lines)
    for name, (path, sent) in loads.sent.items():
        about = {"who": who(world.kube, NAME, name), "what": _what(world, name, path), "policies": [named(world.kube, NAME)], "node": FIRST}
        mine = _of(found, about["who"]["podUid"])
        decided = {**about, "rule": f"{NAME} allow[0]"}
        _has(world, f"{name}: allowed, by which rule of which policy", mine, "Allow", {**decided, "bytes": 0})
        found_out = {**decided, "what": {"revision": _revision(world, name, mine), **about["what"]}}
        _has(world, f"{name}: settled with the {sent} bytes that the server sent", mine, "Settle", {**found_out, "bytes": sent})
        reserved = [it["what"] for it in mine if it["event"] == "Reserve"]
        world.check(f"{name}: what was set aside is of that revision", reserved and all(it == found_out["what"] for it in reserved), reserved)
    _other_is(world, log, found, loads.refusal)


def _settled(log: AuditLog, count: int) -> list[dict]:
    """All lines of the node, once so many loads are settled."""
    entries = log.entries(NODE)
    settled = [it for it in entries if it.get("event") == "Settle" and it["who"]["namespace"] == NAME]
    return entries if len(settled) >= count else []


def _of(entries: list[dict], uid: str) -> list[dict]:
    return [it for it in entries if it.get("who", {}).get("podUid") == uid]


def _what(world: World, name: str, path: str) -> dict:
    """A claim is one revision, which its volume names."""
    what = {"source": NAME, "host": ADDRESS, "bucket": BUCKET, "path": f"{NAME}/{path}", "hasDigest": False}
    if name != "claimed":
        return what
    volume = world.kube.get(NAME, "persistentvolumeclaim", "claim")["spec"]["volumeName"]
    attributes = world.kube.get("", "persistentvolume", volume)["spec"]["csi"]["volumeAttributes"]
    return {**what, "revision": attributes["revision"]}


def _revision(world: World, name: str, mine: list[dict]) -> str:
    """The one revision that a load has settled: of an inline volume whatever was listed."""
    seen = {it["what"].get("revision", "") for it in mine if it["event"] == "Settle"}
    world.check(f"{name}: one revision was settled, by its fingerprint", len(seen) == 1 and all(map(FINGERPRINT.fullmatch, seen)), seen)
    return next(iter(seen), "")


def _has(world: World, sentence: str, entries: list[dict], event: str, wanted: dict) -> None:
    """One line of an event, or several that say the same."""
    seen = [{key: it.get(key) for key in wanted} for it in entries if it["event"] == event]
    world.check(f"the audit log has of {sentence}", seen and all(it == wanted for it in seen), f"seen {seen!r}, wanted {wanted!r}")


def _other_is(world: World, log: AuditLog, found: list[dict], refusal: Refusal) -> None:
    """The pod of the other namespace was denied by a rule, and let in by an override."""
    closed = [named(world.kube, CLOSED)]
    about = {"who": who(world.kube, OTHER, "denied"), "what": _what(world, "denied", "public/first"), "node": FIRST, "bytes": 0}
    mine = _of(found, about["who"]["podUid"])
    denied = {**about, "policies": closed, "rule": "unnamed", "reason": refusal.sentence}
    _has(world, "the pod that was denied, in the words that it was told", mine, "Deny", denied)
    _has(world, "the same pod, that the default let it in", mine, "Allow", {**about, "rule": "default"})
    _has(world, "the override by which it did, and its reason", mine, "Override", {**about, "policies": closed, "reason": REASON})
    _has(world, "what would have been denied without", mine, "WouldDeny", denied)

    def overruled() -> list[dict]:
        return [it for it in log.entries(CONTROLLER, "Override") if it["policies"] == closed and it["reason"].endswith(REASON)]

    until("the controller's audit log has the override", TOLD, overruled, lambda: log.lines(CONTROLLER))
    world.check("the controller's audit log has the override as well", True)


def _adds_up(world: World, rules: Rules, log: AuditLog, sent: int) -> None:
    """What the node has asked for and was answered, what the controllers have granted and settled, and their ledger. Lines about a budget
    are about demands, of which there are fewer than loads."""
    by = named(world.kube, NAME)
    account = {"policy": by["uid"], "budget": "daily", "namespace": NAME}

    def told(component: str, event: str) -> list[dict]:
        return [it for it in log.entries(component, event) if it.get("account") == account]

    def booked() -> dict:
        settled = told(CONTROLLER, "Settle")
        ended = sum(int(GRANTED.fullmatch(it["reason"])[1]) for it in settled)
        return {"settled": _sum(settled), "outstanding": _sum(told(CONTROLLER, "Grant")) - ended}

    until("grants and settlements of the audit log are the ledger's", TOLD, lambda: booked() == rules.ledger(DAILY), lambda: (booked(), rules.ledger(DAILY)))
    world.check(f"grants and settlements of the controllers' audit log add up to the ledger: {booked()}", True)
    reserved, received, granted = told(NODE, "Reserve"), told(NODE, "Grant"), told(CONTROLLER, "Grant")
    lines = (*reserved, *received, *granted, *told(CONTROLLER, "Settle"))
    world.check("all of them name the policy and the node", all(it["policies"] == [by] and it["node"] == FIRST for it in lines), lines)
    world.check(f"the node has reserved {_sum(reserved)} bytes, and the server sent {sent}", _sum(reserved) >= sent, reserved)
    world.equal("and was granted what the controllers say", _sum(received), _sum(granted))


def _sum(entries: list[dict]) -> int:
    return sum(it["bytes"] for it in entries)


def _simulated(world: World, log: AuditLog, loads: Loads) -> None:
    """The node's own lines, decided again by policies that allow something else, and by one with less in its budget."""
    # Those about pods of other namespaces would be decided by policies that are not among the files.
    lines = [it for it in log.lines(NODE) if json.loads(it).get("who", {"namespace": NAME})["namespace"] in (NAME, OTHER)]
    (PLACE / "audit.log").write_text("".join(f"{it}\n" for it in lines))
    entries = [it for it in map(json.loads, lines) if "who" in it]

    def count(event: str, *namespaces: str) -> int:
        return len([it for it in entries if it["event"] == event and it["who"]["namespace"] in namespaces])

    all_of_it = (count("Allow", NAME, OTHER), count("Deny", NAME, OTHER), loads.bytes)
    closes = ("wouldDeny", NAME, NAME, NAME, count("Allow", NAME), len(loads.sent), loads.bytes)
    opens = ("wouldAllow", OTHER, NAME, f"{CLOSED} allow[0]", count("Deny", OTHER), 1, 0)
    _replay(world, "by policies that allow the other namespace what they allow this one", _policies("elsewhere", "public"), (*all_of_it, [closes, opens]))
    rest = loads.bytes - 4 * MIB
    small = ("wouldDeny", NAME, NAME, f"budget {NAME}/daily", len(loads.sent), len(loads.sent), rest)
    _replay(world, "by a budget of 4 MiB", _policies(size="4Mi"), (*all_of_it, [small, _overruled(entries)]))


def _overruled(entries: list[dict]) -> tuple:
    """What an override let in is denied without it: the files have none."""
    let_in = [it for it in entries if it["event"] == "Allow" and it["who"]["namespace"] == OTHER]
    return ("wouldDeny", OTHER, NAME, CLOSED, len(let_in), 1, 0)


def _write(policies: list[dict]) -> Path:
    """A file of policies that are not applied."""
    (PLACE / "others.yaml").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": policies}))
    return SEEN / "others.yaml"


def _replay(world: World, how: str, policies: list[dict], wanted: tuple) -> None:
    arguments = ("policy", "simulate", f"--audit={SEEN}/audit.log", f"--file={_write(policies)}")
    ended = world.driver.attempt_on_node(*arguments, "--output=json")
    world.check(f"`tonnage policy simulate` decides it all again {how}", ended.code == 0, ended)
    outcome = json.loads(ended.out)
    keys = ("change", "namespace", "source", "by", "decisions", "pods", "bytes")
    changes = [tuple(it[key] for key in keys) for it in outcome["changes"]]
    world.equal("with the server's bytes, and what would be different", (outcome["allowed"], outcome["denied"], outcome["spentBytes"], changes), wanted)
    for line in world.driver.attempt_on_node(*arguments).out.splitlines():
        print(f"      {line}")
