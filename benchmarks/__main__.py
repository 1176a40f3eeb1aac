"""Run the short suite, which is `make bench-quick`; compare two results, or print the tables of the documentation."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import compare
from benchmarks.report import Report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program `python -m benchmarks`.

    Args:
        argv: Arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0 for success, 2 for bad input.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench"), metavar="DIR",
        help="folder for bench.json and bench.html; default: ./%(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("OLD", "NEW"),
        help="only print the figures that changed between two results",
    )
    parser.add_argument(
        "--tables",
        type=Path,
        metavar="FILE",
        help="only print the tables of README.md and docs/benchmarks.md of a result",
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.compare:
            print(compare(*map(_read, arguments.compare)))
            return 0
        if arguments.tables:
            from benchmarks.tables import tables  # here, because it imports torch

            print("\n\n".join(tables(_read(arguments.tables))))
            return 0
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    from tqdm import tqdm

    from benchmarks.quick import quick

    report = Report()
    with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed} elapsed, {remaining} left") as bar:

        def progress(share: float, what: str) -> None:
            bar.set_description_str(what)
            bar.update(100 * share - bar.n)

        quick(report, progress)
    print(report.table())
    for path in report.write(arguments.out / "bench"):
        print(f"written: {path}")
    return 0


def _read(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    if not isinstance(document, dict) or "figures" not in document:
        msg = f"{path} must be a result of a benchmark run (got {str(document)[:200]})"
        raise ValueError(msg)
    return document


if __name__ == "__main__":
    sys.exit(main())
