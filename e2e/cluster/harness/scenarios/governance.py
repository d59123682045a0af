"""Ten lines of YAML say what a namespace may load, how much of it and at which price: what they do not name gets no byte and one sentence,
a budget that is too small or a rule that is tightened stops a load in the middle, which goes on by itself without fetching anything twice,
and the ledger has at least what the wire saw. An exception needs a reason and an end; whoever changes a rule is written down, and nobody
but the controller writes ledgers."""

import json
import time

from ..bearer import Bearer
from ..cluster import FIRST
from ..manifests import GROUP, SYSTEM, consumer, inline, pod
from ..outcome import until
from ..rules import AUTHOR, Rules, budget, in_time, policy
from ..scene import Refusal, Scene
from ..store import COUNTED
from ..world import World

NAME = "governance"
OTHER = f"{NAME}-other"
CLOSED = f"{NAME}-closed"
ELSEWHERE = "elsewhere"
"""Name of a node that there is not, and of its lease."""
TEN_LINES = f"""\
apiVersion: {GROUP}
kind: EgressPolicy
metadata:
  name: {NAME}
spec:
  namespaces: {{names: [{NAME}]}}
  allow: [{{sources: [{NAME}], prefixes: [{NAME}/public]}}]
  budgets: [{{name: daily, bytes: 1Gi, window: {{rolling: 24h}}}}]
  pricePerGiB: {{amount: "0.09", currency: EUR}}
  maxStalenessSeconds: 600
"""
MIB, GIB = 1 << 20, 1 << 30
REFUSED = 77
"""How a command ends that says no."""
SOON = 5
"""Seconds in which a refusal has to be there."""
SMALL = 96 * MIB
"""A budget of half a large model. The last 64 MiB of one are for those who need no more."""
DAILY = f"{NAME}.daily.{NAME}"
"""The ledger."""


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED, consumers=[consumer(NAME), consumer(OTHER)])
    scene.add_namespace(OTHER)
    rules = Rules(world.kube)
    world.afterwards(rules.remove)
    mark = world.store.mark()
    world.equal("a policy is ten lines of YAML", len(TEN_LINES.splitlines()), 10)
    rules.write([NAME], TEN_LINES)
    rules.apply(policy(CLOSED, OTHER, allow=[{"sources": [NAME], "prefixes": [f"{NAME}/elsewhere"]}]))
    _allowed(world, scene)
    _denied(world, scene)
    _explained(world, rules)
    _overruled(world, scene, rules)
    _exhausted(world, scene, rules)
    _tightened(world, scene, rules)
    _settled(world, rules, world.store.since(mark).content)
    _authors(world, rules)
    _others_write_nothing(world)
    _told(world, rules)


def _allowed(world: World, scene: Scene) -> None:
    model = scene.add_model("public/small")
    mark = world.store.mark()
    scene.start(scene.inline_pod("allowed", "public/small"))
    world.equal("a pod reads what the policy allows", scene.sums("allowed"), model.sums)
    traffic = world.store.since(mark)
    world.check(f"which was downloaded once: {traffic}", traffic.is_one_of(model.size), f"the model has {model.size} bytes")


def _denied(world: World, scene: Scene) -> None:
    mark, began = world.store.mark(), time.monotonic()
    scene.add(pod(OTHER, "denied", inline(NAME, "public/small")))
    refusal = scene.refusal("denied", SOON * 2, OTHER)
    took = time.monotonic() - began
    world.check(f"a pod of another namespace is refused in {took:.1f} s, though the source would let it", took < SOON and refusal.code == "PermissionDenied", refusal)
    world.check("in one sentence", refusal.is_one_sentence, refusal)
    world.equal(f"“{refusal.sentence}”", refusal.sentence, _unnamed(OTHER, CLOSED, "public/small"))
    world.equal("for which no object was asked for", world.store.since(mark).objects, [])
    world.equal("and the pod does not start", world.kube.get(OTHER, "pod", "denied")["status"]["phase"], "Pending")


def _explained(world: World, rules: Rules) -> None:
    """The command line asks the API server, as an administrator, and fetches nothing."""
    left = GIB - sum(rules.ledger(DAILY).values())
    budgets = [(f"{NAME}/daily", NAME, GIB, left)]
    for namespace, path, wanted in (
        (NAME, "public/small", (0, True, f"EgressPolicy {NAME}, spec.allow[0]", budgets)),
        (OTHER, "public/small", (REFUSED, False, _unnamed(OTHER, CLOSED, "public/small"), [])),
        (NAME, "secret", (REFUSED, False, _unnamed(NAME, NAME, "secret"), [])),
    ):
        question = ["policy", "explain", "--namespace", namespace, "--as", "default", "--source", NAME, "--path", path]
        ended = world.driver.attempt_on_node(*question, "--output=json")
        world.check(f"`tonnage policy explain` answers for {namespace} and {path}", ended.out.startswith("{"), ended)
        answer = json.loads(ended.out)
        seen = [(it["budget"], it["namespace"], it["limitBytes"], it["leftBytes"]) for it in answer["budgets"]]
        verdict = f"{'allowed' if wanted[1] else 'denied'}, by which rule, and with what left: {[it[-1] for it in wanted[3]]}"
        world.equal(verdict, (ended.code, answer["allowed"], answer["reason"], seen), wanted)
        print("".join(f"      {line}\n" for line in world.driver.attempt_on_node(*question).out.splitlines()), end="")


def _unnamed(namespace: str, by: str, path: str) -> str:
    """What a pod is told whose path no entry names."""
    who = f'service account {namespace}/default may not load this from source "{NAME}": no entry of spec.allow of EgressPolicy {by} names it'
    return f'{who} (allow[0] of {by} comes closest and does not name path "{NAME}/{path}"); ask an administrator to add it'


def _overruled(world: World, scene: Scene, rules: Rules) -> None:
    for what, annotations, word in (
        ("without a reason", {"until": in_time(1)}, "override-reason"),
        ("without an end", {"reason": "incident 4711"}, "override-until"),
        ("that has ended", {"until": in_time(-1), "reason": "incident 4711"}, "has passed"),
        ("of eight days", {"until": in_time(8 * 24), "reason": "incident 4711"}, "more than 7 days"),
        ("until some time", {"until": "tomorrow", "reason": "incident 4711"}, "override-until"),
    ):
        ended = rules.annotate(CLOSED, **annotations)
        world.check(f"an override {what} is not admitted", ended.code != 0 and word in ended.err and "ValidatingAdmissionPolicy" in ended.err, ended)
    ended = rules.annotate(CLOSED, until=in_time(1), reason="incident 4711: mirror is down")
    world.check("one with a reason and an end is", ended.code == 0, ended)
    mark = world.store.mark()
    scene.wait_until_running("denied", 60, OTHER)
    world.equal("the pod that was denied runs by itself", sorted(scene.sums("denied", namespace=OTHER)), sorted(scene.sums("allowed")))
    world.equal("with what is cached", world.store.since(mark).content, 0)
    world.equal("and without it the rule is in force again", rules.annotate(CLOSED, until=None, reason=None).code, 0)


def _exhausted(world: World, scene: Scene, rules: Rules) -> None:
    model = scene.add_model("public/big", shards=6, shard_size=32 * MIB)
    rules.change(NAME, budgets=[budget("daily", "1Gi"), budget("small", f"{SMALL}")])
    mark = world.store.mark()
    scene.add(scene.inline_pod("hungry", "public/big"))
    refusal = _refused(scene, "hungry", "ResourceExhausted", 60)
    sent = world.store.since(mark).content
    world.check(f"a budget of {SMALL} bytes stops a load of {model.size} after {sent}", 0 < sent <= SMALL)
    world.check("and the event says which budget", refusal.is_one_sentence and "small" in refusal.sentence, refusal)
    print(f"      “{refusal.sentence}”")
    rules.change(NAME, budgets=[budget("daily", "1Gi"), budget("small", "1Gi")])
    scene.wait_until_running("hungry", seconds=90)
    traffic = world.store.since(mark)
    world.equal("the same pod runs by itself once the limit is raised", scene.sums("hungry"), model.sums)
    world.check(f"and nothing was sent twice: {traffic}", traffic.is_one_of(model.size), f"the model has {model.size} bytes")


def _tightened(world: World, scene: Scene, rules: Rules) -> None:
    model = scene.add_model("public/slow", shards=6)
    allowed = [{"sources": [NAME], "prefixes": [f"{NAME}/public"]}]
    # What has been asked for may come: so slow a load has little of it.
    rules.change(NAME, rate={"bytesPerSecondPerNode": "4M", "connectionsPerNode": 2})
    mark = world.store.mark()
    scene.add(scene.inline_pod("slow", "public/slow"))
    until("the slow load has begun", 30, lambda: world.store.so_far(mark).content > 0)
    rules.change(NAME, allow=[{"sources": [NAME], "prefixes": [f"{NAME}/elsewhere"]}])
    refusal = _refused(scene, "slow", "PermissionDenied", 60)
    sent = world.store.since(mark).content
    world.check(f"a rule that is tightened stops a load of {model.size} bytes after {sent}", 0 < sent < model.size / 2)
    world.check("and the event says which rule", refusal.is_one_sentence and NAME in refusal.sentence, refusal)
    rules.change(NAME, allow=allowed, rate=None)
    scene.wait_until_running("slow", seconds=90)
    traffic = world.store.since(mark)
    world.equal("the same pod runs by itself once it is allowed again", scene.sums("slow"), model.sums)
    world.check(f"and nothing was sent twice: {traffic}", traffic.is_one_of(model.size), f"the model has {model.size} bytes")


def _refused(scene: Scene, name: str, code: str, seconds: float) -> Refusal:
    """The first answer with that code: how far a load is can come before."""

    def found() -> Refusal | None:
        return next((it for it in scene.refusals(name) if it.code == code), None)

    return until(f"pod {name} is told {code}", seconds, found, lambda: scene.refusals(name))


def _settled(world: World, rules: Rules, sent: int) -> None:
    # A grant that is spent to its last byte is held until its time is over: there is nothing to give back.
    ledger = rules.ledger(DAILY)
    spent = ledger["settled"] + ledger["outstanding"]
    world.check(f"the ledger has {spent} bytes, and the wire saw {sent}", sent <= spent <= 1.5 * sent, ledger)
    for kind in ("egresspolicies", "egressbudgets"):
        table = world.kube("get", kind)
        print("".join(f"      {line}\n" for line in table.splitlines()), end="")
        # kubectl shows a moment to come so, in a column of dates.
        world.check(f"`kubectl get {kind}` has a word for everything", "<invalid>" not in table)


def _authors(world: World, rules: Rules) -> None:
    admin = json.loads(world.kube("auth", "whoami", "--output=json"))["status"]["userInfo"]["username"]
    world.equal("who made the policy is written at it", rules.author(NAME), admin)
    forged = {"metadata": {"annotations": {AUTHOR: "mallory"}}, "spec": {"maxStalenessSeconds": 700}}
    ada = ["--as=ada@example.com", "--as-group=system:masters"]
    world.kube("patch", "egresspolicy", NAME, "--type=merge", "--patch", json.dumps(forged), *ada)
    world.equal("and who changes it, whatever he writes himself", rules.author(NAME), "ada@example.com")
    world.equal("one can write the annotation alone", rules.annotate(NAME, author="mallory").code, 0)
    world.equal("which changes nothing", rules.author(NAME), "ada@example.com")
    quota = {"apiVersion": GROUP, "kind": "CacheQuota", "metadata": {"name": "all", "namespace": NAME, "annotations": {AUTHOR: "mallory"}}, "spec": {"perNode": {"volumes": 1000}}}
    world.kube.apply(quota)
    world.equal("who makes a quota is written at it too", world.kube.get(NAME, "cachequota", "all")["metadata"]["annotations"][AUTHOR], admin)


def _others_write_nothing(world: World) -> None:
    driver = until("the driver's node pod is there", 60, world.driver.node_pod)
    bearer = Bearer(world.cluster, world.kube, driver)

    def own() -> bool:
        """The driver writes as well."""
        return bearer.replace(_path("egressleases", FIRST), world.kube.get("", "egresslease", FIRST)).is_done

    until("the token of the node's driver may write its own lease", 20, own)
    world.check("the token of the node's driver may write its own lease", True)
    _make_lease_of_another(world)
    refused = bearer.replace(_path("egressleases", ELSEWHERE), world.kube.get("", "egresslease", ELSEWHERE))
    world.check("and not another node's: an admission policy refuses it", refused.is_denied_by_policy, refused)
    print(f"      “{refused.message}”")
    ledger = world.kube.get("", "egressbudget", DAILY)
    for path, what in ((_path("egressbudgets", DAILY), "a ledger"), (f"{_path('egressbudgets', DAILY)}/status", "what a ledger says")):
        refused = bearer.replace(path, ledger)
        world.check(f"nor {what}", refused.code == 403, refused)
    change = json.dumps({"status": {"asOf": 0, "settled": []}})
    ended = world.kube.attempt("patch", "egressbudget", DAILY, "--subresource=status", "--type=merge", "--patch", change)
    world.check("an administrator cannot write a ledger either", ended.code != 0 and "egress-ledgers.tonnage.dev" in ended.err, ended)
    print(f"      “{ended.err.strip()}”")


def _make_lease_of_another(world: World) -> None:
    """As that node's driver would. The API server takes a user's extra fields from the token; here an administrator states them."""
    lease = {"apiVersion": GROUP, "kind": "EgressLease", "metadata": {"name": ELSEWHERE}, "spec": {"incarnation": "0123456789abcdef"}}
    flags = [f"--as=system:serviceaccount:{SYSTEM}:tonnage-node", f"--as-user-extra=authentication.kubernetes.io/node-name={ELSEWHERE}"]
    world.kube("create", *flags, "-f", "-", text=json.dumps(lease))
    world.afterwards(lambda: world.kube.delete("", "egressleases", ELSEWHERE))


def _told(world: World, rules: Rules) -> None:
    """What was denied is told with the next demand, or within a minute or so."""
    denied = until("the policy tells what it denied", 90, lambda: rules.status(CLOSED).get("denied"))
    told = denied["count"] > 0 and denied.get("lastNamespace") == OTHER and CLOSED in denied.get("lastReason", "")
    world.check(f"the policy tells how often it denied, {denied['count']} times, whom and why", told, denied)
    text = world.driver.metrics()
    for metric in (f'tonnage_egress_bytes_total{{source="{NAME}",namespace="{NAME}"}}', f'tonnage_egress_cost_total{{source="{NAME}",namespace="{NAME}",currency="EUR"}}'):
        world.check(f"Prometheus is told {metric}", metric in text)


def _path(kind: str, name: str) -> str:
    return f"/apis/{GROUP}/{kind}/{name}"
