"""Paragraphs, tables and figures, as one HTML page that needs nothing but itself and as Markdown."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.25rem; margin: 3rem 0 .4rem; border-top: 1px solid #e6e9ee; padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { margin: .3rem 0; max-width: 60rem; } p.about { color: #5a6575; }
p.warning { color: #b3261e; font-weight: 600; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e6e9ee; white-space: nowrap; }
th { font-weight: 600; color: #5a6575; vertical-align: bottom; white-space: normal; }
td { font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; }
tr.ours td { background: #eef4fa; font-weight: 600; }
img { max-width: 100%; display: block; margin: .6rem 0; }
"""


@dataclass(frozen=True)
class Heading:
    """A title; level 1 is the page's."""

    level: Literal[1, 2, 3]
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str
    kind: Literal["plain", "about", "warning"] = "plain"


@dataclass(frozen=True)
class Table:
    """Rows of cells, as text; the first cell of a row is its name."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        file: Its name beside the page.
        alt: What is to be seen.
        png: Its bytes.
    """

    file: str
    alt: str
    png: bytes


Block = Heading | Paragraph | Table | Picture


def html(blocks: Sequence[Block]) -> str:
    """Returns the page."""
    title = next(escape(block.text) for block in blocks if isinstance(block, Heading))
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
            f"<title>{title}</title><style>{_STYLE}</style>",
            *map(_html, blocks),
            "",
        ]
    )


def markdown(blocks: Sequence[Block]) -> str:
    """Returns the same as Markdown, with the figures as files beside it."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        return f"<p class={block.kind}>{escape(block.text)}</p>"
    if isinstance(block, Picture):
        return f"<img alt='{escape(block.alt)}' src='data:image/png;base64,{b64encode(block.png).decode()}'>"
    header = "".join(f"<th>{escape(cell)}</th>" for cell in block.header)
    rows = "".join(
        f"<tr{' class=ours' if row[0] == 'learn2mix' else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row in block.rows
    )
    return f"<div class=wide><table><tr>{header}</tr>{rows}</table></div>"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Paragraph):
        return f"**{block.text}**" if block.kind == "warning" else block.text
    if isinstance(block, Picture):
        return f"![{block.alt}]({block.file})"
    rule = [":--", *["--:"] * (len(block.header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (block.header, rule, *block.rows))
