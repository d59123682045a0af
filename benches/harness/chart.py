"""Draws the bars for the README: who is how quick in the suites that have a time, shorter is better."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

from .suite import Result
from .table import HIGHER_IS_BETTER, ranking

OURS, CHECKED, PEER, LIMIT = "#0b6e4f", "#7fb89f", "#b8bfc6", "#c0392b"
MOST_BARS = 7


def draw(results: list[Result], path: Path, title: str) -> None:
    """Writes one panel for each lane of each result that can be ranked by a time."""
    panels = [(result, lane) for result in results for lane in dict.fromkeys(row.lane for row in result.rows) if _figure(result, lane)]
    if not panels:
        return
    pyplot.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "tonnage", "svg.fonttype": "path"})
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(5.4 * columns, 0.4 + 2.6 * lines), squeeze=False)
    for axis, (result, lane) in zip(axes.flat, panels):
        _panel(axis, result, lane)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    if path.suffix == ".svg":
        figure.savefig(path.with_suffix(".png"), dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def _figure(result: Result, lane: str) -> str | None:
    rows = [row for row in result.rows if row.lane == lane]
    found = ranking(rows)
    return found if found and found not in HIGHER_IS_BETTER and len(rows) > 1 else None


def _panel(axis, result: Result, lane: str) -> None:
    name = _figure(result, lane)
    rows = sorted((row for row in result.rows if row.lane == lane), key=lambda row: row.median(name))
    ours = [row for row in rows if row.name.startswith("tonnage")]
    rows = sorted({id(row): row for row in [*rows[:MOST_BARS], *ours]}.values(), key=lambda row: row.median(name))
    values = [row.median(name) for row in rows]
    low = [value - row.least(name) for value, row in zip(values, rows)]
    high = [max(row.figures[name]) - value for value, row in zip(values, rows)]
    colours = [OURS if row.name.startswith("tonnage") else PEER for row in rows]
    labels = [row.name + (" ✓" if row.verifies else "") for row in rows]
    axis.barh(labels, values, color=colours, xerr=(low, high), error_kw={"elinewidth": 0.8, "ecolor": "#555555"})
    axis.invert_yaxis()
    axis.bar_label(axis.containers[-1] if len(axis.containers) == 1 else axis.containers[1], [f" {value:.2f}" for value in values], padding=4, fontsize=8)
    limit = result.limits.get("limit s")
    # A limit that somebody has beaten was measured in a bad moment and is none.
    if limit and name == "durable s" and limit <= min(values):
        axis.axvline(limit, color=LIMIT, linewidth=1, linestyle="--")
        axis.text(limit, len(rows) - 0.4, " limit", color=LIMIT, fontsize=7, va="top")
    axis.set_title(f"{result.suite}, {lane}: {name.removesuffix(' s')}, seconds", fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.14)
