"""Reports of a run: figures with their goals, as a table, a page and a JSON file in `results/`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.compare import aligned
from benchmarks.page import number, page
from benchmarks.race import OURS, Spread, Times
from benchmarks.workloads import NUM_THREADS
from l2m_experiments import machine

RESULTS_DIR = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Goal:
    """A bound for a figure. Exactly one side is given."""

    at_least: float | None = None
    at_most: float | None = None

    def met_by(self, value: float) -> bool:
        """Return True if `value` keeps the bound."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        """Return the bound as reports show it."""
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


@dataclass(frozen=True)
class Figure:
    """A measured number.

    Attributes:
        case: Case that was measured.
        name: Name of the figure within the case.
        spread: Median and quartiles over the rounds. All three are equal if the figure was measured once.
        unit: Unit of the numbers; "x" for ratios.
        goal: Bound for the median. None: for information only.
    """

    case: str
    name: str
    spread: Spread
    unit: str
    goal: Goal | None

    def as_dict(self) -> dict[str, object]:
        """Return the entry of the JSON file."""
        goal = {} if self.goal is None else {"goal": str(self.goal), "met": self.goal.met_by(self.spread.median)}
        return {"case": self.case, "figure": self.name, "unit": self.unit, **asdict(self.spread), **goal}

    def as_row(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        median, low, high = map(number, asdict(self.spread).values())
        row = (self.case, self.name, median, f"{low} .. {high}", self.unit)
        if self.goal is None:
            return *row, "", ""
        return *row, str(self.goal), "met" if self.goal.met_by(self.spread.median) else "MISSED"


@dataclass(frozen=True)
class Report:
    """Figures of a run, in the order in which they were measured.

    Attributes:
        load_before: Load average of the last minute when the run began. Do not trust the figures unless it is near 0: if a
            core is busy, torch's OpenMP threads above all lose a time slice at every parallel region.
        figures: See `Figure`.
        missing: Errors of the rivals that could not take part, by name.
    """

    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    figures: list[Figure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def miss(self, name: str, error: str) -> None:
        """Add a rival that could not take part, and its error."""
        self.missing[name] = error

    def add(self, case: str, name: str, spread: Spread | float, unit: str, goal: Goal | None = None) -> None:
        """Add a figure; see `Figure`."""
        if not isinstance(spread, Spread):
            spread = Spread(spread, spread, spread)
        self.figures.append(Figure(case, name, spread, unit, goal))

    def add_race(self, case: str, times: Times, num_rows: Mapping[str, int]) -> None:
        """Add the rows per second of every contestant, the speedup of `OURS`, and the share of the limit.

        Args:
            case: See `Figure`.
            times: Times of the race.
            num_rows: Rows per repeat, by contestant.
        """
        for name, rows in num_rows.items():
            self.add(case, name, times.rate(name, rows), "rows/s")
        for name, rows in num_rows.items():
            if name not in (OURS, "limit"):
                self.add(case, f"{OURS} vs {name}", times.ratio(name, OURS).scaled(num_rows[OURS] / rows), "x")
        for name, rows in num_rows.items():
            if name != "limit" and "limit" in num_rows:
                self.add(case, f"{name} vs limit", times.ratio("limit", name).scaled(rows / num_rows["limit"]), "x")

    def table(self) -> str:
        """Return the figures as aligned text."""
        header = ("case", "figure", "median", "quartiles", "unit", "goal", "")
        rows = [header, *(figure.as_row() for figure in self.figures)]
        lines = aligned(rows)
        return "\n".join([*lines, *(f"missing: {name} ({error})" for name, error in self.missing.items())])

    def write(self, path: Path, **about: object) -> list[Path]:
        """Write the run, the machine, the versions and `about` to `path` with the suffixes .json and .html; return both paths."""
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
