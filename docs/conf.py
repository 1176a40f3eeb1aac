"""Configuration of Sphinx for `make docs`."""

from __future__ import annotations

import inspect
import json
from typing import Any

import l2m_fast

project = "l2m_fast"
author = "the authors of l2m_fast"
release = l2m_fast.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown", ".ipynb": "markdown"}
exclude_patterns = ["results/runs"]
default_role = "code"  # of docstrings
nitpicky = True
# Types of other packages, and of arguments that only a type checker sees: there is no inventory of them to link to.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(np|numpy|torch|collections|typing|typing_extensions|matplotlib|Figure|DataLoader|ProcessGroup)(\..*)?",
    ),
    (
        r"py:.*",
        r"(ArrayLike|NDArray|Floats|Sizes|Float32s|Target|Format|ClassSums|History|Any|Literal|Self|optional|data).*",
    ),
    (r"py:.*", r"l2m_fast\.(_core|mixing|correction|data|losses|history|run|samplers|batch_source|integrations)\..*"),
]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"l2m_fast {release}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # of tables of figures, whose headings begin at the level of the page that has them

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more
napoleon_numpy_docstring = False
napoleon_use_rtype = False


def _require_docstring(_: Any, what: str, name: str, obj: Any, __: Any, lines: list[str]) -> None:
    """Refuse a public name without a docstring of its own."""
    if what in ("class", "function", "method", "property") and not any(lines):
        msg = f"{name} must have a docstring (got none, in {inspect.getsourcefile(inspect.unwrap(obj))})"
        raise ValueError(msg)


def _without_unknown(*signature: Any) -> tuple[str | None, str | None]:
    """Leave out the parameter that only collects unknown arguments, to refuse them with a hint."""
    arguments, result = signature[-2:]
    return arguments and arguments.replace(", **unknown", ""), result


def _convert_notebook(app: Any, document: str, content: list[str]) -> None:
    """Convert a notebook to Markdown: code as Python blocks, and below it what it printed."""
    if not app.env.doc2path(document).name.endswith(".ipynb"):
        return
    parts = []
    for cell in json.loads(content[0])["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        printed = "".join(line for output in cell.get("outputs", ()) for line in output["text"])
        parts += [f"```text\n{printed}```"] if printed else []
    content[0] = "\n\n".join(parts)


def setup(app: Any) -> None:
    """Connect the functions above."""
    app.connect("source-read", _convert_notebook)
    app.connect("autodoc-process-signature", _without_unknown)
    app.connect("autodoc-process-docstring", _require_docstring)
