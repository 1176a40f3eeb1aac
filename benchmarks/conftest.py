"""Collects the figures of a run, prints them at its end and writes them where `--results` says."""

from __future__ import annotations

import pytest

from benchmarks.report import RESULTS_DIR, Report

_REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of this suite."""
    group = parser.getgroup("l2m_fast benchmarks")
    group.addoption("--results", metavar="NAME", help="write benchmarks/results/NAME.json and .html")
    group.addoption("--rounds", type=int, default=7, help="interleaved rounds a benchmark takes (default: 7)")


def pytest_configure(config: pytest.Config) -> None:
    """Starts an empty report."""
    config.stash[_REPORT] = Report()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """The report of this run."""
    return request.config.stash[_REPORT]


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How many interleaved rounds to take."""
    rounds: int = request.config.getoption("--rounds")
    return rounds


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the report, and writes it if asked to."""
    report = config.stash[_REPORT]
    if not report.figures:
        return
    terminalreporter.section("figures and goals")
    terminalreporter.write_line(report.table())
    if name := config.getoption("--results"):
        for path in report.write(RESULTS_DIR / name):
            terminalreporter.write_line(f"written to {path}")
