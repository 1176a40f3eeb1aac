"""The command `l2m-fast`: reads its arguments, hands the work on and prints what comes back."""

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
        argv: Arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0 done, 1 the doctor's self-test failed, 130 interrupted.

    Raises:
        SystemExit: From argparse: code 2 for arguments it cannot read, 0 after `--help` and `--version`.
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush fails again
        return 0
    except KeyboardInterrupt:
        print("l2m-fast: interrupted", file=sys.stderr)
        return 130


def _doctor(_: argparse.Namespace) -> int:
    from l2m_fast.doctor import doctor

    return 0 if doctor() else 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what was wrong in one line; argparse would print the whole usage above it."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="l2m-fast", description="A class-mixing data loader for PyTorch and NumPy.")
    parser.add_argument("--version", action="version", version=f"l2m-fast {__version__}")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    doctor = commands.add_parser(
        "doctor",
        help="check this installation in a few seconds; its output belongs in a bug report",
        description="Prints the versions and the machine, compares batches bit for bit with known ones, and measures the "
        "speed of the loader. Needs NumPy alone; uses torch where it is installed. The exit code is 1 if a check fails.",
    )
    doctor.set_defaults(run=_doctor)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
