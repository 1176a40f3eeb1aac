"""The program in docs/edge.md compiles as C99 and runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from c_api.library import LIBRARY

ROOT = Path(__file__).parents[2]


def test_the_program_of_the_document_runs(tmp_path: Path) -> None:
    document = (ROOT / "docs/edge.md").read_text()
    (program,) = re.findall(r"^    #include <l2m\.h>\n(?:    .*\n|\n)*?    }\n", document, re.MULTILINE)
    source, out = tmp_path / "program.c", tmp_path / "program"
    source.write_text(re.sub(r"^    ", "", program, flags=re.MULTILINE))
    options = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'cpp/c'}"]
    linked = [str(LIBRARY), f"-Wl,-rpath,{LIBRARY.parent}"]
    subprocess.run(["cc", *options, source, *linked, "-o", out], check=True)
    assert subprocess.run([out], capture_output=True, check=True).stdout == b""
