"""The tables of rivals in README.md and docs/benchmarks.md, made from a result of `make bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import imbalance
from benchmarks.race import OURS
from benchmarks.workloads import IMAGES_784, IMAGES_3072, TABLE_64

PLAIN = {str(workload): str(workload) for workload in (IMAGES_3072, IMAGES_784, TABLE_64)}
SHORT = dict(zip(("3,072 B per row", "784 B per row", "64 B per row"), PLAIN.values(), strict=True))
BALANCED = {f"1:{ratio:,}": imbalance.case(ratio) for ratio in imbalance.RATIOS}
_IN_README = ("limit", OURS, "index_select", "FFCV", "DataLoader, 0 workers")


def tables(document: Mapping[str, Any]) -> list[str]:
    """Return the table of README.md, then those of docs/benchmarks.md, in Markdown.

    Args:
        document: Content of the JSON file of a run.
    """
    medians = {(figure["case"], figure["figure"]): figure["median"] for figure in document["figures"]}
    return [
        _table(medians, SHORT, _IN_README, full=False),
        *(_table(medians, cases, _by_rate(medians, cases), full=True) for cases in (PLAIN, BALANCED)),
    ]


def _by_rate(medians: Mapping[tuple[str, str], float], cases: Mapping[str, str]) -> list[str]:
    """Return the limit, our loader, and the rivals in the first case from the fastest to the slowest."""
    first = next(iter(cases.values()))
    rates = {name: rate for (case, name), rate in medians.items() if case == first and " vs " not in name}
    rivals = rates.keys() - {"limit", OURS}
    return ["limit", OURS, *sorted(rivals, key=rates.__getitem__, reverse=True)]


def _table(
    medians: Mapping[tuple[str, str], float], cases: Mapping[str, str], names: Sequence[str], *, full: bool
) -> str:
    """Return a row for each name: millions of rows per second and, if `full`, our speedup and the share of the limit."""
    lines = [f"| | {' | '.join(cases)} |", "|---" * (len(cases) + 1) + "|"]
    for name in names:
        cells = []
        for case in cases.values():
            if (case, name) not in medians:  # not installed
                cells.append("-")
                continue
            cell = rounded(medians[case, name] / 1e6)
            if full and name not in ("limit", OURS):
                cell += f" / {rounded(medians[case, f'{OURS} vs {name}'])}x"
            if full and name != "limit":
                cell += f" / {rounded(100 * medians[case, f'{name} vs limit'])} %"
            cells.append(cell)
        shown = f"**{name}**" if name == OURS else name
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rounded(value: float) -> str:
    """Return two significant digits, or a whole number from 10 on."""
    return f"{value:,.0f}" if value >= 9.95 else f"{float(f'{value:.1e}'):g}"
