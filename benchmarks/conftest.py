"""Collect the figures of a run, print them at its end, and write them to the files that `--results` names."""

from __future__ import annotations

import pytest

from benchmarks.report import RESULTS_DIR, Report

_REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this suite."""
    group = parser.getgroup("l2m_fast benchmarks")
    group.addoption("--results", metavar="NAME", help="write benchmarks/results/NAME.json and .html")
    group.addoption("--rounds", type=int, default=7, help="interleaved rounds of a benchmark (default: 7)")


def pytest_configure(config: pytest.Config) -> None:
    """Start an empty report."""
    config.stash[_REPORT] = Report()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Return the report of this run."""
    return request.config.stash[_REPORT]


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """Return the number of interleaved rounds."""
    rounds: int = request.config.getoption("--rounds")
    return rounds


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the report, and write it if `--results` is given."""
    report = config.stash[_REPORT]
    if not report.figures:
        return
    terminalreporter.section("figures and goals")
    terminalreporter.write_line(report.table())
    if name := config.getoption("--results"):
        for path in report.write(RESULTS_DIR / name):
            terminalreporter.write_line(f"written to {path}")
