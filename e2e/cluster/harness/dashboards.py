"""Draws what a dashboard shows as one picture: each panel at its place, with the answers of a Prometheus to what the panel asks. It shows
which figures there are and how they move. It is no picture of Grafana, which draws the same answers its own way, and says so."""

import json
import math
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

from .monitoring import Panel, panels
from .prometheus import Prometheus

COLUMN, ROW, GAP, HEAD = 50, 34, 8, 62
"""Pixels of a column and a row of the grid, between panels, and above them."""
POINTS = 150
"""Of a line, at most."""
COLOURS = ("#0b6e4f", "#2e86c1", "#c0792b", "#8e44ad", "#c0392b", "#5d6d7e", "#16a085", "#b7950b", "#7fb89f")
SMALL = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (math.inf, 86400, "d"))
Line = list[tuple[float, float]]


def draw(dashboard: Path, prometheus: Prometheus) -> str:
    """The picture, as SVG, of the time since Prometheus was started."""
    ended = time.time()
    seconds = max(int(ended - prometheus.began), 1)
    shown = panels(dashboard, {"$__rate_interval": "15s", "$__range": f"{seconds}s", "$namespace": ".*"})
    height = HEAD + ROW * max(it.place["y"] + it.place["h"] for it in shown)
    title = json.loads(dashboard.read_text())["title"]
    about = f"the last {seconds} s of a test cluster, drawn by the test from Prometheus' answers to what the dashboard asks; not a picture of Grafana"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * COLUMN} {height}" font-family="DejaVu Sans, sans-serif" font-size="11">',
        f'<rect width="{24 * COLUMN}" height="{height}" fill="#f4f5f5"/>',
        _text(12, 26, title, 'font-size="18" font-weight="bold"'),
        _text(12, 46, about, 'fill="#555"'),
    ]
    for panel in shown:
        parts += _panel(panel, prometheus, ended)
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel, prometheus: Prometheus, ended: float) -> Iterator[str]:
    place = panel.place
    width, height = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
    yield f'<g transform="translate({place["x"] * COLUMN + GAP / 2:g} {HEAD + place["y"] * ROW})">'
    yield f'<rect width="{width}" height="{height}" rx="3" fill="#fff" stroke="#ddd"/>'
    yield _text(10, 18, panel.title, 'font-weight="bold"')
    if panel.kind == "stat":
        found = [(_called(target.legend, it["metric"]), float(it["value"][1])) for target in panel.targets for it in prometheus.ask(target.expression)]
        yield from _stat(found, panel.unit, width, height)
    elif panel.kind == "table":
        yield from _table(panel, [prometheus.ask(it.expression) for it in panel.targets], width, height)
    else:
        step = max((ended - prometheus.began) / POINTS, 1)
        answers = [(it.legend, prometheus.series(it.expression, prometheus.began, ended, step)) for it in panel.targets]
        lines = {_called(legend, it["metric"]): _finite(it["values"]) for legend, found in answers for it in found}
        yield from _lines(panel, {name: line for name, line in lines.items() if line}, (prometheus.began, ended), (width, height))
    yield "</g>"


def _stat(found: list[tuple[str, float]], unit: str, width: int, height: int) -> Iterator[str]:
    words = [f"{_shown(value, unit)} {name}".strip() for name, value in found if math.isfinite(value)] or ["no data"]
    for number, word in enumerate(words):
        yield _text(width / 2, height / 2 + 18 + 26 * (number - (len(words) - 1) / 2), word, f'font-size="22" text-anchor="middle" fill="{COLOURS[0]}"')


def _table(panel: Panel, answers: list[list[dict]], width: int, height: int) -> Iterator[str]:
    rows = _merged(answers)
    names = sorted({name for row in rows for name in row}, key=lambda it: ([*panel.columns].index(it) if it in panel.columns else -1))
    for column, name in enumerate(names):
        about = panel.columns.get(name, {})
        left = 10 + column * (width - 20) / len(names)
        yield _text(left, 40, about.get("displayName", name), 'fill="#555"')
        for number, row in enumerate(rows[: (height - 50) // 18]):
            value = row.get(name, "")
            yield _text(left, 60 + 18 * number, _shown(value, about.get("unit", panel.unit)) if isinstance(value, float) else value)
    if not rows:
        yield _text(width / 2, height / 2, "no data", 'text-anchor="middle" fill="#555"')


def _merged(answers: list[list[dict]]) -> list[dict]:
    """One row for each set of labels; what an answer with fewer labels says is said in all rows that agree with it."""
    named = [(f"Value #{chr(ord('A') + number)}", {key for it in found for key in it["metric"]}, found) for number, found in enumerate(answers)]
    rows: list[dict] = []
    for name, labels, found in sorted(named, key=lambda it: -len(it[1])):
        for sample in found:
            own = {key: sample["metric"].get(key, "") for key in labels}
            agreeing = [row for row in rows if all(row.get(key) == value for key, value in own.items())]
            if not agreeing:
                rows.append(own)
                agreeing = [own]
            for row in agreeing:
                row[name] = float(sample["value"][1])
    return rows


def _lines(panel: Panel, lines: dict[str, Line], shown: tuple[float, float], size: tuple[int, int]) -> Iterator[str]:
    width, height = size
    if not lines:
        yield _text(width / 2, height / 2, "no data", 'text-anchor="middle" fill="#555"')
        return
    drawn = _stacked(lines) if panel.stacks else [(name, line, []) for name, line in lines.items()]
    left, right, top, bottom = 84, width - 12, 30, height - 44
    began, span = shown[0], shown[1] - shown[0]
    most = _axis(max(value for _, line, _ in drawn for _, value in line), panel.unit)

    def point(at: float, value: float) -> str:
        return f"{left + (at - began) / span * (right - left):.1f},{bottom - max(value, 0) / most * (bottom - top):.1f}"

    for part in range(5):
        y = bottom - part / 4 * (bottom - top)
        yield f'<path d="M{left} {y:.1f}H{right}" stroke="#e5e5e5"/>'
        yield _text(left - 6, y + 4, _shown(most * part / 4, panel.unit), 'text-anchor="end" fill="#555"')
        yield _text(left + part / 4 * (right - left), bottom + 15, f"{span * part / 4:.0f} s", 'text-anchor="middle" fill="#555"')
    x = left
    for number, (name, line, below) in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        if panel.stacks:
            area = [point(*it) for it in line] + [point(*it) for it in reversed(below)]
            yield f'<polygon points="{" ".join(area)}" fill="{colour}" fill-opacity="0.4"/>'
        yield f'<polyline points="{" ".join(point(*it) for it in line)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        if x + 7 * len(name) < right:
            yield _text(x, height - 10, name, f'fill="{colour}"')
        x += 7 * len(name) + 18


def _axis(most: float, unit: str) -> float:
    """Four round steps that reach as far."""
    factor = 1024 ** int(math.log(most, 1024)) if unit in ("bytes", "Bps") and most >= 1 else 1
    # A line of zeros has an axis of ones.
    step = (most or factor) / factor / 4
    power = 10 ** math.floor(math.log10(step))
    return 4 * factor * power * next(it for it in (1, 2, 2.5, 5, 10) if it * power >= step * 0.999)


def _stacked(lines: dict[str, Line]) -> list[tuple[str, Line, Line]]:
    """Each line on top of those before it, and what is below it."""
    times = sorted({at for line in lines.values() for at, _ in line})
    below = [(at, 0.0) for at in times]
    stack = []
    for name, line in lines.items():
        own = dict(line)
        above = [(at, value + own.get(at, 0.0)) for at, value in below]
        stack.append((name, above, below))
        below = above
    return stack


def _finite(values: list[list]) -> Line:
    return [(float(at), float(value)) for at, value in values if math.isfinite(float(value))]


def _called(legend: str, metric: dict[str, str]) -> str:
    for key, value in metric.items():
        legend = legend.replace(f"{{{{{key}}}}}", value)
    # Labels that an answer lacks have no value.
    return " ".join(word for word in legend.split() if not word.startswith("{{"))


def _shown(value: float, unit: str) -> str:
    """A number with its unit, as Grafana abbreviates it."""
    if not math.isfinite(value):
        return "–"
    if unit in ("bytes", "Bps"):
        power = min(int(math.log2(value) // 10), 5) if value >= 1 else 0
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[power]}{'/s' if unit == 'Bps' else ''}"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        if 0 < value < 1:
            return f"{value * 1000:.3g} ms"
        _, factor, word = next(it for it in SMALL if value < it[0])
        return f"{value / factor:.3g} {word}"
    return f"{value:.3g}{' /s' if unit == 'reqps' else ''}"


def _text(x: float, y: float, words: str, how: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {how}>{escape(words)}</text>'
