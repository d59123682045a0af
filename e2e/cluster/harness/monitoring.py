"""What the chart gives to Prometheus and Grafana, as the one and the other would read it: rules, their tests, dashboards."""

import json
import re
from pathlib import Path

from .paths import REPOSITORY

FILES = REPOSITORY / "deploy/chart/files"
RULES = sorted((FILES / "rules").glob("*.yaml"))
TESTS = sorted((REPOSITORY / "e2e/cluster/rules").glob("*.yaml"))
"""What `promtool test rules` reads, by the names of the files that it tests."""
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
DESCRIBED = REPOSITORY / "docs/operations.md"
VARIABLES = {"$__rate_interval": "5m", "$__range": "6h", "$namespace": ".*"}
"""What Grafana puts into expressions."""
METRIC = re.compile(r"(?<![:\w])tonnage_[a-z_]+")
PARTS = re.compile(r"_(bucket|count|sum)$")


def expressions(dashboard: Path) -> list[str]:
    """All that a dashboard asks Prometheus, as Grafana asks it."""
    found = [target["expr"] for panel in json.loads(dashboard.read_text())["panels"] for target in panel["targets"]]
    for name, value in VARIABLES.items():
        found = [it.replace(name, value) for it in found]
    return found


def as_rules(asked: list[str]) -> str:
    """Expressions as a file of rules, which is what promtool checks the syntax of."""
    rules = [{"record": f"asked:{number}", "expr": it} for number, it in enumerate(asked)]
    return json.dumps({"groups": [{"name": "dashboards", "rules": rules}]})


def undescribed(asked: str) -> set[str]:
    """Metrics that a text asks for and the operator's manual does not know."""
    described = set(METRIC.findall(DESCRIBED.read_text()))
    return {name for it in METRIC.findall(asked) if (name := PARTS.sub("", it)) not in described}
