"""Programs of two processes, each of which writes the rows of its batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def torchrun(program: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program on two processes. Its first arguments are the folder of all tests, and `folder`."""
    file = folder / "program.py"
    file.write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(file)]
    command += [str(Path(__file__).parents[1]), str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def check_global_batches(done: subprocess.CompletedProcess[str], folder: Path, expected: list[list[int]]) -> None:
    """Check that a program succeeded, and that the rows of both processes together are those of `expected`."""
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*ranks, strict=True)] == [sorted(rows) for rows in expected]
