"""Adds verdicts to what cold-start has measured, prints it as a table and draws it, with the means of the suites in `benches/`, in a Python
that has what those need: `PYTHONPATH=benches drawing.py RESULT.json CHART.svg`."""

import json
import sys
from pathlib import Path

from harness import chart, table
from harness.suite import Result, Row, at_most

FIGURE = "in memory s"
HALF, FIFTH, SECOND = 0.5, 0.2, 1.0
"""Targets: the first pod beside s5cmd's and beside an image volume's, and the seconds of the second."""


def main(file: Path, picture: Path) -> None:
    said = json.loads(file.read_text())
    for found in said["results"]:
        result = Result(found["suite"], found["question"], [Row(**it) for it in found["rows"]], notes=found["notes"])
        result.verdicts = _verdicts(result)
        found["verdicts"] = result.to_json()["verdicts"]
        print(table.text(result))
        about = said["machine"]
        chart.draw([result], picture, f"{about['cpu']}, one machine for node and server, medians of {said['reps']} turns; ✓ verifies content")
    file.write_text(json.dumps(said, indent=1) + "\n")


def _verdicts(result: Result) -> list:
    first, second = (result.row("tonnage", f"{which} pod") for which in ("first", "second"))
    rivals = [row for row in result.rows if row.lane == "first pod" and row.name.startswith("s5cmd")]
    best = min(rivals, key=lambda row: row.median(FIGURE))
    # Where the cluster has no image volumes, a note says why.
    images = [row for row in result.rows if row.lane == "first pod" and row.name == "image volume"]
    return [
        at_most(f"first pod ÷ {best.name} in an init container, which checks nothing", _ratio(first, best), HALF, of=[first, best], figure=FIGURE),
        *(at_most(f"first pod ÷ {row.name}", _ratio(first, row), FIFTH, of=[first, row], figure=FIGURE) for row in images),
        at_most("second pod", second.median(FIGURE), SECOND, "s", of=[second], figure=FIGURE),
    ]


def _ratio(ours: Row, other: Row) -> float:
    return ours.median(FIGURE) / other.median(FIGURE)


main(Path(sys.argv[1]), Path(sys.argv[2]))
