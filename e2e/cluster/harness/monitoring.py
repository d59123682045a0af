"""What the chart gives to Prometheus and Grafana, as the one and the other would read it: rules, their tests, dashboards."""

import json
import re
from dataclasses import dataclass
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
GROUP = re.compile(r"^  - name: (\S+)$")
RULE = re.compile(r"^ {6}- (?:record|alert): (\S+)$")
"""Lines of a file of rules."""


@dataclass(frozen=True)
class Target:
    """A question of a panel: what is asked, and what an answer is called after."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A part of a dashboard: `kind` is `stat`, `timeseries` or `table`, its place is in Grafana's grid of 24 columns."""

    title: str
    kind: str
    place: dict[str, int]
    targets: list[Target]
    unit: str
    stacks: bool
    columns: dict[str, dict[str, str]]
    """Of a table: properties by the name of a label, or of a value (`Value #A`)."""


def panels(dashboard: Path, variables: dict[str, str] | None = None) -> list[Panel]:
    """What a dashboard shows, with variables in place of Grafana's own choice of them."""
    return [_panel(it, variables or VARIABLES) for it in json.loads(dashboard.read_text())["panels"]]


def expressions(dashboard: Path) -> list[str]:
    """All that a dashboard asks Prometheus, as Grafana asks it."""
    return [target.expression for panel in panels(dashboard) for target in panel.targets]


def declared() -> dict[str, list[str]]:
    """Names of the rules of each group that the chart's files hold, in their order."""
    groups: dict[str, list[str]] = {}
    for line in (line for file in RULES for line in file.read_text().splitlines()):
        if found := GROUP.match(line):
            rules = groups.setdefault(found[1], [])
        elif found := RULE.match(line):
            rules.append(found[1])
    return groups


def as_rules(asked: list[str]) -> str:
    """Expressions as a file of rules, which is what promtool checks the syntax of."""
    rules = [{"record": f"asked:{number}", "expr": it} for number, it in enumerate(asked)]
    return json.dumps({"groups": [{"name": "dashboards", "rules": rules}]})


def undescribed(asked: str) -> set[str]:
    """Metrics that a text asks for and the operator's manual does not know."""
    described = set(METRIC.findall(DESCRIBED.read_text()))
    return {name for it in METRIC.findall(asked) if (name := PARTS.sub("", it)) not in described}


def _panel(panel: dict, variables: dict[str, str]) -> Panel:
    defaults = panel["fieldConfig"]["defaults"]
    targets = [Target(_asked(it["expr"], variables), it["legendFormat"]) for it in panel["targets"]]
    columns = {it["matcher"]["options"]: {each["id"]: each["value"] for each in it["properties"]} for it in panel["fieldConfig"]["overrides"]}
    stacks = defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal"
    return Panel(panel["title"], panel["type"], panel["gridPos"], targets, defaults.get("unit", "none"), stacks, columns)


def _asked(expression: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        expression = expression.replace(name, value)
    return expression
