"""`python -m benchmarks`, which `make bench-quick` runs: the short suite, or what changed between two runs."""

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
    """Run one of them.

    Args:
        argv: Arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0 done, 2 bad input.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench"), metavar="DIR",
        help="where bench.json and bench.html go; default: ./%(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("OLD", "NEW"), help="only tell what changed from one JSON to another"
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.compare:
            print(compare(*map(_read, arguments.compare)))
            return 0
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    from tqdm import tqdm

    from benchmarks.quick import quick  # only now: it imports torch

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
        msg = f"{path} is no result of a benchmark run"
        raise ValueError(msg)
    return document


if __name__ == "__main__":
    sys.exit(main())
