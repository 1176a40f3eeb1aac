"""A loader by the number of rows, classes and ranks: time to the first batch, time of a batch, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.environments import ROOT
from benchmarks.report import Goal, Report

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")

BILLION = 10**9
NODE = 8  # processes of a node


def start(num_rows: int, num_classes: int, world_size: int) -> subprocess.Popen[str]:
    """Start a process that measures one rank."""
    arguments = map(str, (num_rows, num_classes, world_size))
    command = [sys.executable, "-m", "benchmarks.scale", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def result_of(process: subprocess.Popen[str]) -> dict[str, float]:
    """Return what a process measured."""
    output, _ = process.communicate()
    assert process.returncode == 0
    result: dict[str, float] = json.loads(output)
    return result


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("num_rows", "num_classes", "world_size"),
    [
        (10**3, 1, 1),
        (10**6, 1, 1),
        (10**7, 1, 1),
        (10**8, 1, 1),
        (BILLION, 1, 1),
        (10**3, 10, 1),
        (10**6, 10, 1),
        (10**8, 10, 1),
        (BILLION, 10, 1),
        (10**8, 1000, 1),
        (10**8, 10**6, 1),
        (10**8, 1, NODE),
        (10**8, 1, 1024),
        (10**8, 10, NODE),
        (BILLION, 10, NODE),
        (10**8, 10, 1024),
        (10**8, 1000, NODE),
        (10**8, 1000, 1024),
    ],
)
def test_scale(benchmark: BenchmarkFixture, report: Report, num_rows: int, num_classes: int, world_size: int) -> None:
    """Measure one rank. Batches have 512 rows per rank, or fewer if there are fewer rows."""
    result = benchmark.pedantic(lambda: result_of(start(num_rows, num_classes, world_size)), rounds=1)
    case = f"{num_rows:,} rows, K = {num_classes:,}, a rank of {world_size:,}"
    report.add(case, "first batch", result["first batch"], "s")
    report.add(case, "batch", 1e6 * result["batch"], "us")
    report.add(case, "memory beyond data and classes", result["peak"] / num_rows, "B per row")


@pytest.mark.timeout(1800)
def test_node(benchmark: BenchmarkFixture, report: Report) -> None:
    """Measure all processes of a node at the same time."""

    def measure() -> list[dict[str, float]]:
        return [result_of(process) for process in [start(BILLION, 1, NODE) for _ in range(NODE)]]

    results = benchmark.pedantic(measure, rounds=1)
    case = f"{BILLION:,} rows, K = 1, {NODE} ranks of {NODE} at the same time"
    report.add(case, "first batch", max(result["first batch"] for result in results), "s")
    report.add(case, "memory of all beyond the data", sum(r["peak"] for r in results) / 1e9, "GB", Goal(at_most=16))
