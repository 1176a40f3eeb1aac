"""The figures of a run as a self-contained HTML page."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import Any

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p.about { color: #5a6575; margin: .2rem 0; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .2rem .5rem; text-align: left; border-bottom: 1px solid #e6e9ee; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.bar { width: 45%; } td.bar svg { display: block; width: 100%; height: 1rem; }
.bar rect { fill: #9fb3c8; } tr.ours .bar rect { fill: #2f6fb2; } tr.limit .bar rect { fill: #c9b458; }
.bar line { stroke: #1c2430; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
tr.ours td { font-weight: 600; }
.met { color: #1d7a3e; } .missed { color: #b3261e; font-weight: 600; }
"""


def page(document: dict[str, Any], ours: str = "l2m_fast") -> str:
    """Return the page: a table for each case, with bars for figures that share a unit.

    Args:
        document: Content of the JSON file of a run.
        ours: Name of the highlighted figure.
    """
    about = [
        f"{document['date']} · commit {document['commit'][:12] or 'unknown'}"
        + (" with uncommitted changes" if document["uncommitted_changes"] else ""),
        " · ".join(str(document[key]) for key in ("device", "cpu") if key in document)
        + f" · {document['threads']} threads",
        " · ".join(f"{name} {version}" for name, version in document["versions"].items()),
        f"load average before the run: {document['load_average_before']:.2f}",
    ]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>l2m_fast benchmarks</title><style>{_STYLE}</style><h1>l2m_fast benchmarks</h1>",
        *(f"<p class=about>{escape(line)}</p>" for line in about),
        "<p class=about>Medians; the black line of a bar spans the quartiles. Ratios are computed round by round.</p>",
    ]
    for name, error in document["missing"].items():
        parts.append(f"<p class=about>missing: {escape(name)} ({escape(error)})</p>")
    for case, figures in groupby(document["figures"], key=lambda figure: figure["case"]):
        parts.append(f"<h2>{escape(case)}</h2><table>")
        for unit, group in groupby(figures, key=lambda figure: figure["unit"]):
            rows = list(group)
            scale = max(figure["high"] for figure in rows)
            parts += [_row(figure, scale if len(rows) > 1 and unit != "x" else 0, ours) for figure in rows]
        parts.append("</table>")
    return "\n".join(parts) + "\n"


def number(value: float) -> str:
    """Return three significant digits, or a whole number from 1000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _row(figure: dict[str, Any], scale: float, ours: str) -> str:
    name = figure["figure"]
    kind = "ours" if name == ours else "limit" if name == "limit" else ""
    goal = ""
    if "goal" in figure:
        met = figure["met"]
        goal = f"<span class={'met' if met else 'missed'}>{escape(figure['goal'])} {'met' if met else 'missed'}</span>"
    cells = [
        f"<td>{escape(name)}</td>",
        f"<td class=bar>{_bar(figure, scale) if scale > 0 else ''}</td>",
        f"<td class=number>{number(figure['median'])} {escape(figure['unit'])}</td>",
        f"<td class=number>{number(figure['low'])} .. {number(figure['high'])}</td>",
        f"<td>{goal}</td>",
    ]
    return f"<tr class='{kind}'>{''.join(cells)}</tr>"


def _bar(figure: dict[str, Any], scale: float) -> str:
    median, low, high = (1000 * figure[key] / scale for key in ("median", "low", "high"))
    return (
        "<svg viewBox='0 0 1000 16' preserveAspectRatio=none>"
        f"<rect width={median:.1f} height=16 /><line x1={low:.1f} x2={high:.1f} y1=8 y2=8 /></svg>"
    )
