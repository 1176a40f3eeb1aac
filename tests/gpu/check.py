"""Run everything that needs a GPU: the tests, the benchmarks, and finally some tests under compute-sanitizer.

Every part runs, even if an earlier one fails, crashes or hangs. Usage: python tests/gpu/check.py FOLDER. The output
goes to FOLDER/log.txt as it comes, the figures to FOLDER/benchmarks.json and .html. The exit code is 1 if a part
failed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-v", "-c", str(HERE / "check.ini"))
SECONDS = 330  # for all parts: with the build, 8 minutes
UNSUPPORTED = "Device not supported"  # printed by compute-sanitizer on some virtual machines
LINES = 20  # shown of a failed part


@dataclass(frozen=True)
class Part:
    """Command with a time limit in seconds."""

    name: str
    command: tuple[str, ...]
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Result of a part: its status ("passed", "failed" or "skipped"), the reason, and its output."""

    part: Part
    status: str
    why: str
    seconds: float
    output: str


def parts(results: Path) -> list[Part]:
    """Return all parts in order. Each file of tests has a process, because CUDA does not recover from an error on the device."""
    tests = [Part(file.stem, (*PYTEST, str(file)), 90) for file in sorted(HERE.glob("test_*.py"))]
    benchmarks = Part("benchmarks", (sys.executable, "-m", "benchmarks.gpu", str(results / "benchmarks")), 150)
    return [*tests, benchmarks, sanitizer("memcheck", 100), sanitizer("racecheck", 80)]


def sanitizer(tool: str, seconds: float) -> Part:
    """Return the part that runs the tests marked `kernels` under a tool of compute-sanitizer."""
    # The package checks its own API calls; those of torch and CUDA's libraries may fail on purpose, to probe the driver.
    options = ("--tool", tool, "--error-exitcode", "99", "--report-api-errors", "no")
    command = ("compute-sanitizer", *options, *PYTEST, "-m", "kernels", str(HERE))
    # With caching, tensors share allocations, which hides accesses beyond their ends. Per-test limits assume full speed.
    return Part(tool, command, seconds, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTEST_TIMEOUT": "0"})


def run(part: Part, log: Path, seconds: float) -> Outcome:
    """Run a part for at most `seconds`, and append its output to the log."""
    if shutil.which(part.command[0]) is None:
        return Outcome(part, "skipped", f"no {part.command[0]}", 0, "")
    if seconds <= 0:
        return Outcome(part, "failed", "not run: no time left", 0, "")
    seconds = min(seconds, part.seconds)
    begin, start = log.stat().st_size, time.monotonic()
    with log.open("ab") as file:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            env={**os.environ, "L2M_GPU_CHECK": "1", "PYTHONUNBUFFERED": "1", **part.environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
            status, why = ("passed", "") if code == 0 else ("failed", f"exit code {code}")
        except subprocess.TimeoutExpired:
            status, why = "failed", f"stopped after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # including its children
                process.wait()
    output = log.read_bytes()[begin:].decode(errors="replace")
    if status == "failed" and UNSUPPORTED in output:
        status, why = "skipped", f"{part.command[0]} does not support this device"
    return Outcome(part, status, why, time.monotonic() - start, output)


def run_all(some: Iterable[Part], results: Path, seconds: float = SECONDS) -> list[Outcome]:
    """Run all parts within `seconds`, whether they pass or not."""
    results.mkdir(parents=True, exist_ok=True)
    log, deadline = results / "log.txt", time.monotonic() + seconds
    log.write_bytes(b"")
    outcomes = []
    for part in some:
        print(f"== {part.name}", flush=True)
        with log.open("a") as file:
            file.write(f"\n== {part.name}\n")
        outcomes.append(run(part, log, deadline - time.monotonic()))
    return outcomes


def report(outcomes: list[Outcome]) -> str:
    """Return the last lines of each failed part, then one line per part."""
    lines = []
    for outcome in outcomes:
        if outcome.status == "failed":
            lines += [f"\n== end of {outcome.part.name}", *outcome.output.splitlines()[-LINES:]]
    lines.append("\n== summary")
    for outcome in outcomes:
        said = [line.strip("= ") for line in outcome.output.splitlines() if line.strip("= ")]
        words = [outcome.why, *said[-1:]]
        what = "; ".join(word for word in words if word)
        lines.append(f"{outcome.status:8}{outcome.seconds:5.0f} s  {outcome.part.name}: {what}")
    return "\n".join(lines)


def main(results: Path) -> int:
    """Run all parts, print a report, and return the exit code."""
    outcomes = run_all(parts(results), results)
    print(report(outcomes))
    print(f"full output: {results / 'log.txt'}")
    return int(any(outcome.status == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
