"""A real Prometheus scrapes the driver, takes the chart's rules, and has an answer to what the dashboards ask: who loaded how many bytes, what
they cost, what was saved, and what is used of budgets, to the byte and from the controller that leads; an alert waits for one that is nearly spent.
TONNAGE_DRAW_DASHBOARDS=DIRECTORY has what the dashboards show drawn there."""

import os
from pathlib import Path

from .. import dashboards, monitoring
from ..model import MIB
from ..outcome import until
from ..prometheus import Prometheus
from ..rules import Rules, budget, policy
from ..scene import Scene
from ..store import COUNTED
from ..world import World

NAME = "monitoring"
PATH = "priced"
PRICE = 0.09
GIB = 1 << 30
REPLICAS = 2
LEDGER = f"{NAME}.daily.{NAME}"
NEARLY = "TonnageEgressBudgetNearlySpent"
USED, LIMIT = (f'tonnage_egress_budget_{which}_bytes{{policy="{NAME}",budget="daily",namespace="{NAME}"}}' for which in ("used", "limit"))
WITHOUT = ("tonnage_gpu_wait_seconds_total", "code!=", "code=~", "> 0)")
"""What need have no answer here: no pod has a GPU, no call need have failed, and what is used of a budget may fall as nodes give back."""
NEVER = "0001-01-01T00:00:00Z"
"""When a rule that was not evaluated yet was evaluated last."""


def run(world: World) -> None:
    scene = world.scene(NAME, endpoint=COUNTED)
    rules = Rules(world.kube)
    world.afterwards(rules.remove)
    rules.apply(policy(NAME, NAME, allow=[{}], budgets=[budget("daily", "1Gi")], pricePerGiB={"amount": f"{PRICE}", "currency": "EUR"}))
    prometheus = Prometheus(world.cluster, world.kube)
    world.afterwards(prometheus.stop)
    prometheus.start()
    until("Prometheus scrapes all pods", 30, lambda: prometheus.value("sum(up)") == len(prometheus.pods()), lambda: prometheus.ask("up"))
    world.check(f"Prometheus scrapes the {len(prometheus.pods())} pods of the driver", True)
    leader = _leads(world, prometheus)
    _counts(world, scene, prometheus)
    _tells_budget(world, scene, rules, prometheus, leader)
    _takes_rules(world, prometheus)
    _alerts(world, rules, prometheus)
    _answers_dashboards(world, prometheus)
    if directory := os.environ.get("TONNAGE_DRAW_DASHBOARDS"):
        _draws(world, prometheus, Path(directory))


def _leads(world: World, prometheus: Prometheus) -> str:
    until("Prometheus knows who leads", 30, lambda: prometheus.value("sum(tonnage_leading)") == 1, lambda: prometheus.ask("tonnage_leading"))
    world.equal(f"of {REPLICAS} controllers that tell whether they lead one does", prometheus.value("count(tonnage_leading)"), REPLICAS)
    leader = prometheus.ask("tonnage_leading == 1")[0]["metric"]["pod"]
    world.equal("it is the one that holds the lease", leader, world.driver.leader())
    return leader


def _counts(world: World, scene: Scene, prometheus: Prometheus) -> None:
    model = scene.add_model(PATH)
    mark = world.store.mark()
    scene.start(scene.inline_pod("first", PATH))
    sent = world.store.since(mark).content
    scene.start(scene.inline_pod("second", PATH))
    mine = f'{{namespace="{NAME}",source="{NAME}"}}'
    # Bytes, like requests, are counted a moment after the pod has them.
    until("Prometheus knows the bytes", 30, lambda: (prometheus.value(f"sum(tonnage_egress_bytes_total{mine})") or 0) >= sent, lambda: prometheus.ask("tonnage_egress_bytes_total"))
    counted = int(prometheus.value(f"sum(tonnage_egress_bytes_total{mine})") or 0)
    world.check(f"it counts {counted} bytes of the namespace that loads, and the wire saw {sent}", sent <= counted <= 1.05 * sent, prometheus.ask("tonnage_egress_bytes_total"))
    saved = until("Prometheus knows what was saved", 30, lambda: prometheus.value(f'tonnage_egress_saved_bytes_total{{namespace="{NAME}",by="cache"}}'))
    world.equal("the second pod saved the bytes of the model", int(saved), model.size)
    cost = prometheus.value(f"sum(tonnage_egress_cost_total{mine})") or 0
    world.check(f"the bytes cost {cost:.6f} EUR", abs(cost - counted / GIB * PRICE) < 0.00001)


def _tells_budget(world: World, scene: Scene, rules: Rules, prometheus: Prometheus, leader: str) -> None:
    first = _used(rules, prometheus, 0)
    world.check(f"the controller tells that {first} bytes of the budget are used, as its EgressBudget does", first > 0)
    scene.add_model("more", shards=6, shard_size=32 * MIB)
    scene.start(scene.inline_pod("third", "more"))
    later = _used(rules, prometheus, first)
    world.check(f"and that they are {later} after another load", later > first)
    world.equal("of the limit that the policy has", prometheus.value(LIMIT), GIB)
    told = [it["metric"] for it in prometheus.ask(USED)]
    world.equal("by the controller that leads alone", [it["pod"] for it in told], [leader])


def _used(rules: Rules, prometheus: Prometheus, more_than: int) -> int:
    """Bytes of the budget once they are more than so many and the ledger and Prometheus agree: figures are told every 10 s."""

    def agreed() -> int | None:
        ledger = rules.ledger(LEDGER)
        used = ledger["settled"] + ledger["outstanding"]
        return used if used > more_than and prometheus.value(USED) == used else None

    return until("Prometheus knows what the ledger has", 60, agreed, lambda: (rules.ledger(LEDGER), prometheus.ask(USED)))


def _takes_rules(world: World, prometheus: Prometheus) -> None:
    """All of the chart's, each evaluated once at least."""

    def evaluated() -> list[dict] | None:
        groups = prometheus.groups()
        rules = [rule for group in groups for rule in group["rules"]]
        return groups if rules and all(it["health"] != "unknown" and it["lastEvaluation"] != NEVER for it in rules) else None

    groups = until("all rules are evaluated", 30, evaluated, prometheus.groups)
    loaded = {group["name"]: [rule["name"] for rule in group["rules"]] for group in groups}
    count = sum(map(len, loaded.values()))
    world.equal(f"it has loaded the {count} rules of the chart's {len(loaded)} groups, and no other", loaded, monitoring.declared())
    bad = [(it["name"], it["health"], it.get("lastError")) for group in groups for it in group["rules"] if it["health"] != "ok"]
    world.equal("it evaluates each of them without an error", bad, [])
    world.equal("and none of them alerts", [it["metric"] for it in prometheus.ask('ALERTS{alertstate="firing"}')], [])


def _alerts(world: World, rules: Rules, prometheus: Prometheus) -> None:
    """The limit is lowered to what is used and a twentieth."""
    used = _used(rules, prometheus, 0)
    rules.change(NAME, budgets=[budget("daily", f"{used * 20 // 19}")])
    alert = f'ALERTS{{alertname="{NEARLY}",policy="{NAME}",budget="daily"}}'
    seen = until(f"{NEARLY} is pending", 60, lambda: prometheus.ask(alert), lambda: (prometheus.ask(USED), prometheus.ask(LIMIT)))
    # It fires after a minute, which `promtool test rules` does not have to wait for.
    about = [(it["metric"]["namespace"], it["metric"]["alertstate"]) for it in seen]
    world.equal(f"{NEARLY} is pending once 95 % of the budget are used", about, [(NAME, "pending")])


def _answers_dashboards(world: World, prometheus: Prometheus) -> None:
    for dashboard in monitoring.DASHBOARDS:
        asked = monitoring.expressions(dashboard)
        silent = [it for it in asked if not any(word in it for word in WITHOUT) and not prometheus.ask(it)]
        others = [it for it in asked if any(word in it for word in WITHOUT)]
        for expression in others:
            prometheus.ask(expression)
        world.equal(f"it answers {len(asked) - len(others)} expressions of {dashboard.name} with samples, and takes the other {len(others)}", silent, [])


def _draws(world: World, prometheus: Prometheus, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for dashboard in monitoring.DASHBOARDS:
        picture = directory / f"dashboard-{dashboard.stem}.svg"
        picture.write_text(dashboards.draw(dashboard, prometheus))
        world.check(f"what {dashboard.name} shows is drawn in {picture}", True)
