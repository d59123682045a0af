"""A real Prometheus scrapes the driver, takes the chart's rules, and has an answer to what the dashboards ask: who loaded how many bytes, what
they cost, and what was saved."""

from .. import monitoring
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
WITHOUT = ("tonnage_gpu_wait_seconds_total", "code!=", "code=~")
"""What has no answer here: no pod has a GPU, and no call need have failed."""


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
    _counts(world, scene, prometheus)
    _takes_rules(world, prometheus)
    _answers_dashboards(world, prometheus)


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


def _takes_rules(world: World, prometheus: Prometheus) -> None:
    """Each is evaluated once at least."""
    rules = until("all rules are evaluated", 30, lambda: (it := prometheus.rules()) and all(rule["health"] != "unknown" for rule in it) and it)
    bad = [(it["name"], it.get("lastError")) for it in rules if it["health"] != "ok"]
    world.equal(f"it evaluates {len(rules)} rules without an error", bad, [])
    world.equal("and none of them alerts", [it["metric"] for it in prometheus.ask('ALERTS{alertstate="firing"}')], [])


def _answers_dashboards(world: World, prometheus: Prometheus) -> None:
    for dashboard in monitoring.DASHBOARDS:
        asked = monitoring.expressions(dashboard)
        silent = [it for it in asked if not any(word in it for word in WITHOUT) and not prometheus.ask(it)]
        others = [it for it in asked if any(word in it for word in WITHOUT)]
        for expression in others:
            prometheus.ask(expression)
        world.equal(f"it answers {len(asked) - len(others)} expressions of {dashboard.name} with samples, and takes the other {len(others)}", silent, [])
