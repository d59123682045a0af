"""What a scenario has measured, in the form in which the suites of `benches/` give it, so that their table and their chart serve here too;
and of their means those that need nothing but Python."""

import importlib.util
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

from .command import output
from .paths import EVIDENCE, REPOSITORY

BENCHES = REPOSITORY / "benches"


@dataclass
class Row:
    """One contender in one lane: raw values by the names of their figures."""

    name: str
    lane: str
    figures: dict[str, list[float]] = field(default_factory=dict)
    verifies: bool = False

    def add(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)


def machine() -> ModuleType:
    """`benches/harness/machine.py`, which warms, heats and describes. Its package is called as ours is."""
    spec = importlib.util.spec_from_file_location("benches_machine", BENCHES / "harness/machine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Files:
    """Where the figures of a suite and its picture lie, beside the cluster's state, which ends with the run."""

    suite: str

    @property
    def json(self) -> Path:
        return EVIDENCE.parent / f"{self.suite}.json"

    @property
    def chart(self) -> Path:
        return EVIDENCE.parent / f"{self.suite}.svg"

    def write(self, about: dict, question: str, rows: list[Row], notes: list[str]) -> None:
        """Writes the figures. `about` describes the machine, the versions and the run."""
        result = {"suite": self.suite, "question": question, "rows": [asdict(row) for row in rows], "notes": notes}
        self.json.write_text(json.dumps({**about, "results": [result]}, indent=1) + "\n")

    def draw(self, python: Path) -> str:
        """Adds verdicts, draws, and returns the table."""
        script = Path(__file__).with_name("drawing.py")
        return output(["env", f"PYTHONPATH={BENCHES}", "PYTHONDONTWRITEBYTECODE=1", python, script, self.json, self.chart])

    def publish(self) -> Path:
        """Takes the picture into the documentation."""
        return Path(shutil.copy2(self.chart, REPOSITORY / "docs" / self.chart.name))
