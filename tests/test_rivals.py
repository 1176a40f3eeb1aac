"""Discovery and installation of the rivals of the benchmarks; nothing here is timed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from benchmarks import environments, install, rivals
from benchmarks.environments import peer_in_environment
from benchmarks.peers import Peer
from benchmarks.peers.permuted import permuted
from benchmarks.rivals import Install, Rival, installed
from benchmarks.workloads import Fields, Workload, check_epoch
from test_examples import python_blocks

ROOT = Path(__file__).parent.parent
TINY = "Workload(1000, (4,), torch.float32, 100, vs_data_loader=None, vs_index_select=None, vs_limit=0.0)"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Copy the benchmarks, so that their only rival is the example of docs/benchmarks.md."""
    shutil.copytree(
        ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("results", "__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path in (tmp_path / "benchmarks/peers").glob("*.py"):
        if path.name != "__init__.py":
            path.unlink()
    (example,) = python_blocks((ROOT / "docs/benchmarks.md").read_text())
    (tmp_path / "benchmarks/peers/example.py").write_text(example)
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**inherited, "PYTHONPATH": path, "XDG_CACHE_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_full_benchmarks_race_a_rival_that_is_one_new_file(copied: Path) -> None:
    test = "benchmarks/test_rivals.py::test_shuffled_epoch[60,000 x 784 B, batch 512]"
    run(copied, "-m", "pytest", test, "--benchmark-only", "--rounds=1", "--results=run", "-p", "no:cacheprovider")
    document = json.loads((copied / "benchmarks/results/run.json").read_text())
    figures = {figure["figure"] for figure in document["figures"]}
    assert figures == {"split", "limit", "l2m_fast", "l2m_fast vs split", "split vs limit", "l2m_fast vs limit"}


def test_the_short_benchmarks_race_a_rival_that_asks_for_it(copied: Path) -> None:
    program = f"""
import torch
from benchmarks.quick import quick
from benchmarks.report import Report
from benchmarks.workloads import Workload
report = Report()
quick(report, lambda share, step: None, ({TINY},), rounds=1)
print(*(figure.name for figure in report.figures), sep="\\n")
"""
    figures = run(copied, "-c", program).splitlines()
    assert {"split", "l2m_fast", "l2m_fast vs split"} <= set(figures)


def test_every_file_of_peers_has_rivals() -> None:
    modules = {path.stem for path in (ROOT / "benchmarks/peers").glob("*.py")} - {"__init__"}
    factories = [getattr(rival.factory, "func", rival.factory) for rival in rivals.rivals()]
    assert {factory.__module__.rpartition(".")[2] for factory in factories} == modules


def test_rivals_are_found_by_their_race() -> None:
    found = {race: {rival.factory for rival in rivals.rivals(race)} for race in get_args(rivals.Race)}
    assert all(found.values())
    assert sum(map(len, found.values())) == len(rivals.rivals())
    assert permuted in {rival.factory for rival in rivals.rivals("shuffled", quick=True)}
    assert all(rival.quick for rival in rivals.rivals(quick=True))


def fields() -> Fields:
    return Workload(100, (4,), torch.float32, 10, None, None, 0.0).fields()


def without_library(_fields: Fields, _batch_size: int) -> Peer:
    raise ImportError("No module named 'made_up'", name="made_up")  # noqa: EM101


def test_a_rival_that_is_not_installed_is_reported_and_the_others_race(monkeypatch: pytest.MonkeyPatch) -> None:
    separate = Install(("made-up==1",), environment="no-such-environment")
    candidates = [Rival(without_library), Rival(permuted, install=separate), Rival(permuted)]
    monkeypatch.setattr(rivals, "rivals", lambda race, quick: candidates)  # noqa: ARG005
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        found = [peer for peer, _ in installed("shuffled", fields(), 10, missing.__setitem__, stack)]
    assert [peer.name for peer in found] == ["x[perm]"]
    assert missing["made_up"] == "No module named 'made_up'"
    assert missing["no-such-environment"] == ".venv/peers/no-such-environment is missing: make bench-peers"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create an environment for rivals, whose interpreter is this one."""
    monkeypatch.setattr(environments, "ROOT", ROOT)
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path)
    python = tmp_path / "made-up/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python.parents[1]


@pytest.mark.usefixtures("environment")
def test_a_rival_runs_in_its_environment() -> None:
    data = fields()
    peer = Rival(permuted, install=Install((), environment="made-up")).peer(data, 10)
    try:
        assert peer.name == "x[perm]"
        check_epoch(peer.batches, data)
        peer.run(2)
    finally:
        peer.close()


def test_a_missing_library_of_an_environment_is_reported_with_the_error_of_pip(environment: Path) -> None:
    (environment / environments.INSTALL_LOG).write_text(
        "Collecting made-up\nfatal error: no OpenCV\nfatal error: no OpenCV\n"
    )
    with pytest.raises(ImportError, match=r"^fatal error: no OpenCV$"):
        peer_in_environment("made-up", without_library, fields(), 10)


def test_libraries_are_installed_once_each_and_a_failure_does_not_stop_the_others(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    separate = Install(("broken==1",), environment="made-up", options=())
    candidates = [Rival(without_library, install=separate), *[Rival(without_library, install=Install(("a==1",)))] * 2]
    monkeypatch.setattr(install, "ENVIRONMENTS", environment.parent)
    monkeypatch.setattr(install, "rivals", lambda: candidates)
    commands: list[list[str]] = []

    def fail(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "ERROR: broken\n")

    monkeypatch.setattr(subprocess, "run", fail)
    install.main()
    pip = ["-m", "pip", "install", "--quiet"]
    assert commands == [
        [str(environment / "bin/python"), *pip, "broken==1"],
        [sys.executable, *pip, "-c", str(ROOT / "requirements/constraints.txt"), "a==1"],
    ]
    assert (environment / environments.INSTALL_LOG).read_text() == "ERROR: broken\n"
