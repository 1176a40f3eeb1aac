"""The command `l2m-experiments`: reads its arguments, hands the work on and prints what comes back."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from l2m_experiments.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0 done, 2 bad input or a missing requirement, 130 interrupted.

    Raises:
        SystemExit: From argparse: code 2 for arguments it cannot read, 0 after `--help` and `--version`.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
        return 0
    except InputError as error:
        print(f"l2m-experiments {arguments.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("l2m_experiments"):
            raise
        print(
            f"l2m-experiments needs {error.name.partition('.')[0]}: pip install l2m-fast-experiments", file=sys.stderr
        )
        return 2
    except BrokenPipeError:  # whoever reads the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush fails again
        return 0
    except KeyboardInterrupt:
        print("l2m-experiments: interrupted", file=sys.stderr)
        return 130


def _demo(arguments: argparse.Namespace) -> None:
    from l2m_experiments import demo  # only now: it imports torch

    source = demo.digits() if arguments.data is None else demo.idx(arguments.data)
    settings = demo.Settings(
        source=source,
        seeds=_default(arguments.seeds, source.seeds),
        epochs=_default(arguments.epochs, source.epochs),
        batch_size=_default(arguments.batch_size, source.batch_size),
        mixing_rate=arguments.mixing_rate,
        num_threads=arguments.num_threads,
    )
    demo.make_directory(arguments.out)
    print(demo.introduction(settings), flush=True)
    comparison = demo.compare(settings)
    print(demo.conclusion(comparison), flush=True)
    for path in demo.write_files(comparison, arguments.out):
        print(f"written: {path}")


def _run(arguments: argparse.Namespace) -> None:
    from l2m_experiments import command

    command.experiment(arguments, lambda line: print(line, flush=True))


def _report(arguments: argparse.Namespace) -> None:
    from l2m_experiments.report import report

    for path in report(arguments.runs, arguments.out or arguments.runs / "report"):
        print(f"written: {path}")


def _default(given: int | None, default: int) -> int:
    return default if given is None else given


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Says what was wrong in one line; argparse would print the whole usage above it."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="l2m-experiments", description="Experiments with class-mixing policies on the loader l2m-fast."
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train one small network with Learn2Mix, classical and balanced sampling, and compare",
        description="Trains the same small CNN on a long-tailed set of images with Learn2Mix, classical and balanced "
        "sampling, all on this loader, and reports test accuracy and worst-class accuracy. Takes less than a minute "
        "on scikit-learn's digits, some minutes on Fashion-MNIST.",
    )
    demo.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with MNIST or Fashion-MNIST in IDX files, gzipped or not; default: scikit-learn's digits",
    )
    demo.add_argument("--seeds", type=int, metavar="N", help="runs of each method, at least 1; default: 5, IDX 3")
    demo.add_argument("--epochs", type=int, metavar="N", help="budget of a run, at least 4; default: 80, IDX 12")
    demo.add_argument("--batch-size", type=int, metavar="N", help="rows of a batch; default: 32, IDX 128")
    demo.add_argument(
        "--mixing-rate", type=float, default=0.1, metavar="R", help="Learn2Mix's step; default: %(default)s"
    )
    demo.add_argument(
        "--num-threads",
        type=int,
        # A model this small gains little from more, and loses much where another program is busy.
        default=1,
        metavar="N",
        help="threads of torch; the loader takes its own default; default: %(default)s",
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("l2m-fast-demo"),
        metavar="DIR",
        help="where demo.png and demo.json go; default: ./%(default)s",
    )
    demo.set_defaults(run=_demo)
    run = commands.add_parser(
        "run",
        help="train the tasks of the Learn2Mix paper with every method, all on the same loader",
        description="Trains each task with each method and each seed, and writes a JSON file for each run. Runs that the "
        "folder has already are not repeated, so that an interrupted command goes on where it was when it is given again.",
    )
    run.add_argument("tasks", nargs="*", default=["digits"], metavar="TASK", help="default: digits")
    what = run.add_mutually_exclusive_group()
    what.add_argument("--methods", default="all", metavar="NAME,NAME", help="methods to compare; default: all")
    what.add_argument("--study", metavar="NAME", help="instead of methods: vary one thing, such as mixing-rate")
    run.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each; default: %(default)s")
    run.add_argument(
        "--budget",
        default="epochs",
        metavar="B",
        help="epochs or seconds: those of the task's protocol; epochs=N or seconds=S: another; default: %(default)s",
    )
    run.add_argument("--preset", choices=("quick", "paper"), default="quick", help="default: %(default)s")
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    run.add_argument(
        "--num-threads",
        type=int,
        default=1,
        metavar="N",
        help="threads of torch on the CPU; the loader takes its own default; default: %(default)s, best for small models",
    )
    run.add_argument(
        "--out",
        type=Path,
        default=Path("l2m-fast-runs"),
        metavar="DIR",
        help="where the runs go; default: ./%(default)s",
    )
    run.add_argument("--list", action="store_true", help="only say which tasks, methods and studies there are")
    run.set_defaults(run=_run)
    report = commands.add_parser(
        "report",
        help="tabulate, compare and draw the runs of `l2m-experiments run`",
        description="Reads every run of a folder and writes report.html (one page, nothing else needed), report.md and "
        "the pictures: curves, comparisons with Learn2Mix, time to accuracy and costs.",
    )
    report.add_argument("runs", type=Path, metavar="RUNS", help="folder that `l2m-experiments run` wrote")
    report.add_argument("--out", type=Path, metavar="DIR", help="where the files go; default: RUNS/report")
    report.set_defaults(run=_report)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
