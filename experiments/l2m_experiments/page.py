"""A report as a Markdown file and as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from l2m_experiments.tables import Table

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 66rem; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; border-top: 2px solid #1c2430; padding-top: .6rem; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .2rem; }
p { margin: .3rem 0 .6rem; max-width: 46rem; } p.about, figcaption { color: #5a6575; font-size: .9rem; }
p.warning { background: #fdecea; border-left: .4rem solid #b3261e; padding: .6rem .8rem; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e6e9ee; }
td { min-width: 3.5rem; } td:first-child, th:first-child { position: sticky; left: 0; background: #fff; }
td.wins { color: #1d7a3e; } td.loses { color: #b3261e; } td.NO { color: #b3261e; font-weight: 700; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 0 2rem; }
"""


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title of the page."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; a warning is not to be overlooked."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture: the name of its file, the file's content, and what it shows."""

    file: str
    png: bytes
    caption: str


Block = Heading | Text | Table | tuple[Picture, ...]


def markdown(blocks: Sequence[Block]) -> str:
    """The report as GitHub renders it, pictures as files beside it."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def html(blocks: Sequence[Block]) -> str:
    """The report as one page, pictures inside it."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "")
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(_html(block) for block in blocks)
        + "\n</body></html>\n"
    )


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_marked(block.text)}"
    if isinstance(block, Text):
        return f"> **{_marked(block.text)}**" if block.warning else _marked(block.text)
    if isinstance(block, Table):
        lines = [block.header, tuple("---" for _ in block.header), *block.rows]
        rows = "\n".join(f"| {' | '.join(map(_marked, line))} |" for line in lines)
        return f"**{_marked(block.title)}.** {_marked(block.about)}\n\n{rows}"
    return "\n\n".join(f"![{_marked(p.caption)}]({p.file})" for p in block)


def _marked(text: str) -> str:
    # Names are the user's, and may hold what Markdown takes for markup.
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
    return f"<div class=figures>{''.join(map(_figure, block))}</div>"


def _cell(text: str) -> str:
    word = re.match(r"(wins|loses|NO)(?=:|$)", text)
    content = escape(text).replace(" ± ", "&nbsp;±&nbsp;")
    return f"<td{f' class={word[1]}' if word else ''}>{content}</td>"


def _figure(picture: Picture) -> str:
    caption = escape(picture.caption)
    data = base64.b64encode(picture.png).decode()
    return (
        f"<figure><img alt='{caption}' src='data:image/png;base64,{data}'><figcaption>{caption}</figcaption></figure>"
    )
