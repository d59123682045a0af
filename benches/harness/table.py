"""Prints a result: one table for each lane, ratios to the best peer and to the limit, then the verdicts."""

from .measure import spread
from .suite import NOISY, Result, Row

RANKED = ["in memory s", "durable s", "files/s", "publish ms"]
HIGHER_IS_BETTER = {"files/s"}


def text(result: Result) -> str:
    """The whole of a result, for a terminal and for Markdown alike."""
    lines = [f"## {result.suite}", "", result.question, ""]
    if result.limits:
        lines += ["limits: " + ", ".join(f"{name} {value:.3g}" for name, value in result.limits.items()), ""]
    for lane in dict.fromkeys(row.lane for row in result.rows):
        lines += _lane(result, lane) + [""]
    lines += [f"* {verdict}" for verdict in result.verdicts]
    lines += [f"* note: {note}" for note in result.notes]
    return "\n".join(lines) + "\n"


def ranking(rows: list[Row]) -> str | None:
    """The figure that a suite's rows are ranked by."""
    return next((name for name in RANKED if all(name in row.figures for row in rows)), None)


def _lane(result: Result, lane: str) -> list[str]:
    rows = [row for row in result.rows if row.lane == lane]
    ranked = ranking(rows)
    figures = [name for name in dict.fromkeys(name for row in rows for name in row.figures) if name != "stolen s"]
    heads = [f"{lane}", *(["÷ best peer"] if ranked else []), *figures, "runs"]
    limit = result.limits.get("limit s")
    if ranked and limit and ranked.endswith(" s"):
        heads.insert(2, "÷ limit")
    if ranked:
        rows.sort(key=lambda row: row.median(ranked), reverse=ranked in HIGHER_IS_BETTER)
    table = [heads] + [_cells(row, rows, ranked, figures, limit if "÷ limit" in heads else None) for row in rows]
    widths = [max(len(line[at]) for line in table) for at in range(len(heads))]
    shown = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in table]
    shown.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return shown


def _cells(row: Row, rows: list[Row], ranked: str | None, figures: list[str], limit: float | None) -> list[str]:
    name = row.name + (" (verifies)" if row.verifies else "")
    cells = [name]
    if ranked:
        others = [it.median(ranked) for it in rows if not it.name.startswith("tonnage")]
        best = (max if ranked in HIGHER_IS_BETTER else min)(others, default=0)
        cells.append(f"{row.median(ranked) / best:.2f}" if best else "")
    if limit:
        cells.append(f"{row.median(ranked) / limit:.2f}")
    for figure in figures:
        values = row.figures.get(figure)
        cells.append(_value(row, figure) if values else "")
    return cells + [str(max(len(values) for values in row.figures.values()))]


def _value(row: Row, figure: str) -> str:
    values = row.figures[figure]
    middle = f"{row.median(figure):.3g}" if abs(row.median(figure)) < 1000 else f"{row.median(figure):.0f}"
    if len(values) < 2 or figure in ("sent ×", "anon MiB", "cached MiB"):
        return middle
    noise = " noisy" if spread(values) > NOISY else ""
    return f"{middle} ({min(values):.3g}–{max(values):.3g}){noise}"
