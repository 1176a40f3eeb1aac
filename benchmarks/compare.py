"""What changed between two runs, beyond their noise."""

from __future__ import annotations

from typing import Any


def compare(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Returns the figures that both runs have and that changed, as aligned text.

    A figure changed where the quartiles of the two runs do not overlap.

    Args:
        old: The document of a run, as `Report.document()` makes it.
        new: That of a later run.
    """
    before = {(figure["case"], figure["figure"]): figure for figure in old["figures"]}
    after = {(figure["case"], figure["figure"]): figure for figure in new["figures"]}
    rows: list[tuple[str, ...]] = [("case", "figure", "old", "new", "new / old")]
    for key, figure in after.items():
        was = before.get(key)
        if was is None or (figure["low"] <= was["high"] and was["low"] <= figure["high"]):
            continue
        ratio = f"{figure['median'] / was['median']:.2f}" if was["median"] else "-"
        rows.append((*key, *(f"{x['median']:.4g} {x['unit']}".strip() for x in (was, figure)), ratio))
    same = len(before.keys() & after.keys()) - (len(rows) - 1)
    lines = aligned(rows) if len(rows) > 1 else []
    lines.append(f"{len(rows) - 1} of {same + len(rows) - 1} figures changed beyond their quartiles")
    for title, missing in (("old", before.keys() - after.keys()), ("new", after.keys() - before.keys())):
        if missing:
            lines.append(f"only in the {title} run: {len(missing)}")
    for what in ("cpu", "device"):
        if old.get(what) != new.get(what):
            lines.append(f"the runs are of different machines: {old.get(what)} and {new.get(what)}")
    return "\n".join(lines)


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Returns rows of cells as lines of columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
