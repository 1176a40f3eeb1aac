"""A report as a Markdown file and as one self-contained HTML page."""

from __future__ import annotations

import base64
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from l2m_experiments.tables import Table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .2rem; }
p { margin: .3rem 0 .6rem; max-width: 50rem; } p.about, figcaption { color: #5a6575; font-size: .9rem; }
p.warning { background: #fdecea; border-left: .4rem solid #b3261e; padding: .6rem .8rem; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e6e9ee; }
td { min-width: 3.5rem; } td:first-child, th:first-child { position: sticky; left: 0; background: #fff; }
td.wins { color: #1d7a3e; } td.loses { color: #b3261e; } td.NO { color: #b3261e; font-weight: 700; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
details { border-top: 1px solid #c9d0d9; padding: .5rem 0; } summary { cursor: pointer; font-weight: 600; }
"""


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title of the page."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; a warning stands out."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture: file name, content and caption."""

    file: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Details:
    """A collapsed part of the page."""

    title: str
    blocks: tuple[Block, ...]


Block = Heading | Text | Table | Picture | Details


def pictures(blocks: Sequence[Block]) -> Iterator[Picture]:
    """Yield all pictures of the report, those of collapsed parts included."""
    for block in blocks:
        if isinstance(block, Picture):
            yield block
        elif isinstance(block, Details):
            yield from pictures(block.blocks)


def markdown(blocks: Sequence[Block]) -> str:
    """Return the report as GitHub renders it, with the pictures as separate files."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def html(blocks: Sequence[Block]) -> str:
    """Return the report as one page with embedded pictures."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "")
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(_html(block) for block in blocks)
        + "\n</body></html>\n"
    )


def plain(table: Table) -> str:
    """Return a table as text with aligned columns, followed by its explanation."""
    rows = [table.header, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([table.title, *lines, *textwrap.wrap(table.about, 100)])


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_escape(block.text)}"
    if isinstance(block, Text):
        return f"> **{_escape(block.text)}**" if block.warning else _escape(block.text)
    if isinstance(block, Table):
        lines = [block.header, tuple("---" for _ in block.header), *block.rows]
        rows = "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)
        return f"**{_escape(block.title)}.** {_escape(block.about)}\n\n{rows}"
    if isinstance(block, Details):
        content = "\n\n".join(_markdown(inner) for inner in block.blocks)
        return f"<details>\n<summary>{escape(block.title)}</summary>\n\n{content}\n\n</details>"
    return f"![{_escape(block.caption)}]({block.file})"


def _escape(text: str) -> str:
    # Names come from the user and may contain Markdown markup.
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", text)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p{' class=warning' if block.warning else ''}>{escape(block.text)}</p>"
    if isinstance(block, Table):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in block.header)
        rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in block.rows)
        return (
            f"<h3>{escape(block.title)}</h3><p class=about>{escape(block.about)}</p>"
            f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>"
        )
    if isinstance(block, Details):
        content = "\n".join(_html(inner) for inner in block.blocks)
        return f"<details><summary>{escape(block.title)}</summary>\n{content}\n</details>"
    caption, data = escape(block.caption), base64.b64encode(block.png).decode()
    return (
        f"<figure><img alt='{caption}' src='data:image/png;base64,{data}'><figcaption>{caption}</figcaption></figure>"
    )


def _cell(text: str) -> str:
    word = re.match(r"(wins|loses|NO)(?=:|$)", text)
    content = re.sub(r" ± |(?<=:) (?=[+-])", lambda match: match[0].replace(" ", "&nbsp;"), escape(text))
    return f"<td{f' class={word[1]}' if word else ''}>{content}</td>"
