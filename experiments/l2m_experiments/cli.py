"""The command `l2m-experiments`: parses its arguments and runs a subcommand."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from l2m_experiments.user_input import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program name; default: those of the process.

    Returns:
        The exit code: 0 for success, 2 for bad input or a missing package, 130 if interrupted.

    Raises:
        SystemExit: From argparse, with code 2 for invalid arguments and 0 after `--help`.
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
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise the interpreter's last flush fails
        return 0
    except KeyboardInterrupt:
        print("l2m-experiments: interrupted", file=sys.stderr)
        return 130


def _demo(arguments: argparse.Namespace) -> None:
    from l2m_experiments import demo  # imported here, because it imports torch

    demo.demo(arguments, _print)


def _run(arguments: argparse.Namespace) -> None:
    from l2m_experiments import command

    command.run(arguments, _print)


def _report(arguments: argparse.Namespace) -> None:
    from l2m_experiments.report import report

    folder = arguments.runs.parent if arguments.runs.is_file() else arguments.runs
    for path in report(arguments.runs, arguments.out or folder / "report"):
        _print(f"written: {path}")


def _pack(arguments: argparse.Namespace) -> None:
    from l2m_experiments.records import pack

    _print(f"written: {arguments.out}, {pack(arguments.runs, arguments.out)} runs")


def _print(text: str) -> None:
    print(text, flush=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line; argparse would print the whole usage before it."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="l2m-experiments", description="Experiments with class-mixing policies on the loader l2m-fast."
    )
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train one small network with Learn2Mix, classical and balanced sampling, and compare",
        description="Train the same small CNN on a long-tailed set of images with Learn2Mix, classical and balanced "
        "sampling, all on this loader, and report test accuracy and worst-class accuracy. It takes less than a minute "
        "on scikit-learn's digits and a few minutes on Fashion-MNIST.",
    )
    demo.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of IDX files such as MNIST or Fashion-MNIST, gzipped or not; default: scikit-learn's digits",
    )
    demo.add_argument("--seeds", type=int, metavar="N", help="runs per method, at least 1; default: 5, IDX 3")
    demo.add_argument("--epochs", type=int, metavar="N", help="epochs per run, at least 4; default: 80, IDX 12")
    demo.add_argument("--batch-size", type=int, metavar="N", help="rows per batch; default: 32, IDX 128")
    demo.add_argument(
        "--mixing-rate", type=float, default=0.1, metavar="R", help="step size of Learn2Mix; default: %(default)s"
    )
    demo.add_argument(
        "--num-threads",
        type=int,
        # So small a model gains little from more threads, and loses much if another program is busy.
        default=1,
        metavar="N",
        help="torch threads; the loader uses its own default; default: %(default)s",
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("l2m-fast-demo"),
        metavar="DIR",
        help="folder for the runs and the report; default: ./%(default)s",
    )
    demo.set_defaults(run=_demo)
    run = commands.add_parser(
        "run",
        help="train tasks of the Learn2Mix paper and others with every method, all on the same loader",
        description="Train each task with each method and each seed, and write a JSON file for each run. Runs that are already "
        "in the folder are not repeated, so an interrupted command resumes when it is repeated.",
    )
    run.add_argument("tasks", nargs="*", default=["digits"], metavar="TASK", help="default: digits")
    what = run.add_mutually_exclusive_group()
    what.add_argument("--methods", default="all", metavar="NAME,NAME", help="methods to compare; default: all")
    what.add_argument("--study", metavar="NAME", help="instead of methods, vary one property such as mixing-rate")
    run.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each combination; default: %(default)s")
    run.add_argument(
        "--budget",
        default="epochs",
        metavar="B",
        help="epochs or seconds of the task's protocol, or epochs=N or seconds=S; default: %(default)s",
    )
    run.add_argument("--preset", choices=("quick", "paper"), default="quick", help="default: %(default)s")
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    run.add_argument(
        "--num-threads",
        type=int,
        default=1,
        metavar="N",
        help="torch threads on the CPU; the loader uses its own default; default: %(default)s, best for small models",
    )
    run.add_argument(
        "--out",
        type=Path,
        default=Path("l2m-fast-runs"),
        metavar="DIR",
        help="folder for the runs; default: ./%(default)s",
    )
    run.add_argument("--list", action="store_true", help="only list the tasks, methods and studies")
    run.set_defaults(run=_run)
    report = commands.add_parser(
        "report",
        help="tabulate, compare and plot the runs of `l2m-experiments run`",
        description="Read every run of a folder and write report.html (one self-contained page), report.md, summary.csv and "
        "the figures: comparisons with Learn2Mix, curves, time to accuracy and costs.",
    )
    report.add_argument(
        "runs", type=Path, metavar="RUNS", help="folder of `l2m-experiments run` or demo, or one file of packed runs"
    )
    report.add_argument("--out", type=Path, metavar="DIR", help="folder for the files; default: report beside the runs")
    report.set_defaults(run=_report)
    pack = commands.add_parser(
        "pack",
        help="collect runs in one compressed file",
        description="Write all runs of folders and packed files to one compressed file, and keep the sources.",
    )
    pack.add_argument("runs", type=Path, nargs="+", metavar="RUNS", help="folder of runs, or file of packed runs")
    pack.add_argument("--out", type=Path, required=True, metavar="STUDY.jsonl.xz", help="file to write")
    pack.set_defaults(run=_pack)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
