"""Write the whole library as two files, l2m.h and l2m.cpp, to copy into other projects.

Usage: python cpp/amalgamate.py FOLDER
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

CPP = Path(__file__).parent
HEAD = """\
// l2m_fast in one file, made by cpp/amalgamate.py. Compile as C++20, and link with the threads of the system.

// A fused multiply-add rounds once where the source rounds twice, so batches would differ from those of other machines.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
"""
OWN_INCLUDE = re.compile(r'^#include "([^"]+\.hpp)"\n', re.MULTILINE)
# Names at the beginning of lines between `namespace {` and its end: functions, constants, classes and aliases.
ANONYMOUS = re.compile(r"^namespace \{$(.*?)^\}  // namespace$", re.MULTILINE | re.DOTALL)
NAME = re.compile(
    r"^(?:class|struct|using|enum(?: class)?) (\w+)|^(?!template)\S[^(={\n]*?\b(\w+)(?:\(|\{| =)", re.MULTILINE
)


def local_names(source: str) -> set[str]:
    """Return the names that are local to a source file, because they are in an anonymous namespace."""
    return {name for block in ANONYMOUS.findall(source) for names in NAME.findall(block) for name in names if name}


def inlined(text: str, seen: set[str]) -> str:
    """Return a text in which the headers that it includes replace the `#include`s, each the first time only."""

    def header(include: re.Match[str]) -> str:
        if include[1] in seen:
            return ""
        seen.add(include[1])
        path = next(path for folder in ("include", "c") if (path := CPP / folder / include[1]).exists())
        return inlined(path.read_text(), seen)

    return OWN_INCLUDE.sub(header, text.replace("#pragma once\n", ""))


def amalgamated() -> str:
    """Return all headers and sources as one text.

    Names that are local to several files get a suffix in each of them.
    """
    paths = [*sorted((CPP / "src").rglob("*.cpp")), *sorted((CPP / "c").glob("*.cpp"))]
    sources = {path: path.read_text() for path in paths}
    count = Counter(name for source in sources.values() for name in local_names(source))
    seen: set[str] = set()
    parts = [HEAD]
    for number, (path, source) in enumerate(sources.items()):
        repeated = sorted(name for name in local_names(source) if count[name] > 1)
        head, namespace, tail = source.partition("\nnamespace ")
        defined = "".join(f"#define {name} {name}_{number}\n" for name in repeated)
        undefined = "".join(f"#undef {name}\n" for name in repeated)
        parts.append(
            f"\n// ---- {path.relative_to(CPP)}\n\n{inlined(head, seen)}\n{defined}{namespace}{tail}{undefined}"
        )
    return "".join(parts)


def main(folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "l2m.h").write_text((CPP / "c/l2m.h").read_text())
    (folder / "l2m.cpp").write_text(amalgamated())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
