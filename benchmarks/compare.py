"""Comparison of two runs: the figures that changed beyond the noise."""

from __future__ import annotations

from typing import Any


def compare(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return the figures of both runs that changed, as aligned text.

    A figure has changed if the quartiles of the two runs do not overlap.

    Args:
        old: Content of the JSON file of a run.
        new: Content of that of a later run.
    """
    before = {(figure["case"], figure["figure"]): figure for figure in old["figures"]}
    after = {(figure["case"], figure["figure"]): figure for figure in new["figures"]}
    rows: list[tuple[str, ...]] = [("case", "figure", "old", "new", "new / old")]
    for key, figure in after.items():
        previous = before.get(key)
        if previous is None or (figure["low"] <= previous["high"] and previous["low"] <= figure["high"]):
            continue
        ratio = f"{figure['median'] / previous['median']:.2f}" if previous["median"] else "-"
        rows.append((*key, *(f"{x['median']:.4g} {x['unit']}".strip() for x in (previous, figure)), ratio))
    same = len(before.keys() & after.keys()) - (len(rows) - 1)
    lines = aligned(rows) if len(rows) > 1 else []
    lines.append(f"{len(rows) - 1} of {same + len(rows) - 1} figures changed beyond their quartiles")
    for title, missing in (("old", before.keys() - after.keys()), ("new", after.keys() - before.keys())):
        if missing:
            lines.append(f"only in the {title} run: {len(missing)}")
    for part in ("cpu", "device"):
        if old.get(part) != new.get(part):
            lines.append(f"the runs are from different machines: {old.get(part)} and {new.get(part)}")
    return "\n".join(lines)


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
