"""Fuzzing with random input. Run `python -m fuzz.states --seconds 60 --seed 0` in the folder tests.

Each case depends only on the seed and its number: `--case N` repeats one.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

_PATIENCE = 30  # seconds a case may take: loops over input are bounded
_MEMORY = 12 << 30  # bytes of addresses


def run(name: str, case: Callable[[random.Random], str]) -> int:
    """Run cases until the time is up.

    Args:
        name: Name of the target.
        case: Function that runs one case and returns its outcome; it raises if the case fails.

    Returns:
        The exit code: 1 if a case failed. A crash ends the process; build/fuzz then contains the last case.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int)
    arguments = parser.parse_args()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"{name}: a case took more than {_PATIENCE} s"))
    last = Path(__file__).parents[2] / f"build/fuzz/{name}"
    last.parent.mkdir(parents=True, exist_ok=True)
    ends: dict[str, int] = {}
    end, number = time.monotonic() + arguments.seconds, arguments.case or 0
    while time.monotonic() < end:
        last.write_text(f"--seed {arguments.seed} --case {number}\n")
        signal.alarm(_PATIENCE)
        try:
            how = case(random.Random(f"{arguments.seed} {number}"))
        except Exception:
            traceback.print_exc()
            print(f"{name}: failed: --seed {arguments.seed} --case {number}", file=sys.stderr)
            return 1
        finally:
            signal.alarm(0)
        ends[how] = ends.get(how, 0) + 1
        number += 1
        if arguments.case is not None:
            break
    print(f"{name}: {number} cases: " + ", ".join(f"{count} {how}" for how, count in sorted(ends.items())))
    return 0
