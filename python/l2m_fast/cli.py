"""The command `l2m-fast`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from l2m_fast import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the name of the program. None: the arguments of the process.

    Returns:
        The exit code: 0 for success, 1 if the self-test of the doctor failed, 130 if interrupted.

    Raises:
        SystemExit: Raised by argparse, with code 2 for invalid arguments and 0 after `--help` or `--version`.
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise the flush at exit fails again
        return 0
    except KeyboardInterrupt:
        print("l2m-fast: interrupted", file=sys.stderr)
        return 130


def _doctor(_: argparse.Namespace) -> int:
    from l2m_fast.doctor import doctor

    return 0 if doctor() else 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print the error in one line, without the usage text that argparse prints, and exit."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="l2m-fast", description="A class-mixing data loader for PyTorch and NumPy.")
    parser.add_argument("--version", action="version", version=f"l2m-fast {__version__}")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    doctor = commands.add_parser(
        "doctor",
        help="check this installation in a few seconds; include the output in bug reports",
        description="Print versions and information about the machine, compare batches bit for bit with known ones, and "
        "measure the speed of the loader. Needs only NumPy; uses torch if it is installed. The exit code is 1 if a check "
        "fails.",
    )
    doctor.set_defaults(run=_doctor)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
