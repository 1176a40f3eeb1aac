"""What a run measured: figures with their goals, as a table and as a JSON file of `results/`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.compare import aligned
from benchmarks.page import number, page
from benchmarks.race import Spread
from benchmarks.workloads import NUM_THREADS
from l2m_experiments import machine

RESULTS_DIR = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Goal:
    """A bound that a figure has to keep; exactly one side is given."""

    at_least: float | None = None
    at_most: float | None = None

    def met_by(self, value: float) -> bool:
        """Tells whether `value` keeps the bound."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        """Returns the bound as reports show it."""
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        case: What was measured.
        name: Which figure of it.
        spread: Median and quartiles over the rounds; alike where the figure was taken once.
        unit: Unit of the numbers; "x" for ratios.
        goal: What it has to reach; None: for information.
    """

    case: str
    name: str
    spread: Spread
    unit: str
    goal: Goal | None

    def as_dict(self) -> dict[str, object]:
        """Returns what the JSON file holds."""
        goal = {} if self.goal is None else {"goal": str(self.goal), "met": self.goal.met_by(self.spread.median)}
        return {"case": self.case, "figure": self.name, "unit": self.unit, **asdict(self.spread), **goal}

    def as_row(self) -> tuple[str, ...]:
        """Returns the cells of the table."""
        median, low, high = map(number, asdict(self.spread).values())
        row = (self.case, self.name, median, f"{low} .. {high}", self.unit)
        if self.goal is None:
            return *row, "", ""
        return *row, str(self.goal), "met" if self.goal.met_by(self.spread.median) else "MISSED"


@dataclass(frozen=True)
class Report:
    """The figures of a run, in the order in which they were taken.

    Attributes:
        load_before: Load average of the last minute when the run began: near 0, or the figures are not to be trusted.
            torch's OpenMP threads above all lose a time slice at every parallel region when a core is taken.
        figures: See `Figure`.
        missing: Error of every rival that could not take part.
    """

    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    figures: list[Figure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def miss(self, name: str, error: str) -> None:
        """Notes that a rival could not take part, and why."""
        self.missing[name] = error

    def add(self, case: str, name: str, spread: Spread | float, unit: str, goal: Goal | None = None) -> None:
        """Adds a figure; see `Figure`."""
        if not isinstance(spread, Spread):
            spread = Spread(spread, spread, spread)
        self.figures.append(Figure(case, name, spread, unit, goal))

    def table(self) -> str:
        """Returns the figures as aligned text."""
        header = ("case", "figure", "median", "quartiles", "unit", "goal", "")
        rows = [header, *(figure.as_row() for figure in self.figures)]
        lines = aligned(rows)
        return "\n".join([*lines, *(f"missing: {name} ({error})" for name, error in self.missing.items())])

    def write(self, path: Path, **about: object) -> list[Path]:
        """Writes a run to `path` with the suffixes .json and .html, with what it takes to judge it later, `about` included."""
        document = {
            "date": machine.now(),
            "commit": machine.git(RESULTS_DIR.parent, "rev-parse", "HEAD"),
            "uncommitted_changes": bool(
                machine.git(RESULTS_DIR.parent, "status", "--porcelain", "--untracked-files=no")
            ),
            "cpu": machine.cpu_model(),
            **about,
            "threads": NUM_THREADS,
            "load_average_before": self.load_before,
            "versions": machine.versions(),
            "missing": self.missing,
            "figures": [figure.as_dict() for figure in self.figures],
        }
        paths = [path.with_name(path.name + suffix) for suffix in (".json", ".html")]
        path.parent.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json.dumps(document, indent=1) + "\n")
        paths[1].write_text(page(document))
        return paths
