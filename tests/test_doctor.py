"""Output and failures of `l2m-fast doctor`, `l2m-fast --version` and `python -m l2m_fast`."""

from __future__ import annotations

import math
import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import l2m_fast
from l2m_fast import cli, doctor

SECTIONS = ["Versions", "Machine", "Self-test", "Speed"]


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with warnings as errors and a folder at the front of its path."""
    folders = [*([str(path)] if path else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=False,
    )


def values(printed: str) -> dict[str, str]:
    """Return the first value of each name in a report; a section is named by its first word."""
    report: dict[str, str] = {}
    for line in printed.splitlines():
        if line.startswith("  "):
            report.setdefault(line[2:16].strip(), line[17:])
        else:
            report.setdefault(line.partition(" ")[0], line.partition(" ")[2])
    return report


# ---- the command


def test_without_arguments_the_module_runs_the_doctor_with_torch() -> None:
    done = run("-m", "l2m_fast")
    assert (done.returncode, done.stderr) == (0, "")
    report = values(done.stdout)
    assert [name for name in report if name in SECTIONS] == SECTIONS
    assert report["l2m_fast"] == l2m_fast.__version__
    assert report["NumPy"] == np.__version__
    assert report["num_threads"] == f"{l2m_fast.build_info()['usable_cpus']} by default"
    assert report["Self-test"] == "(numpy, torch)"
    assert [report[part] for part in (*doctor.CASES, "class_loss")] == ["passed"] * (len(doctor.CASES) + 1)
    assert report["DataLoader"].endswith(" million rows/s")
    assert float(report["ratio"]) > 0


def test_the_doctor_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so\\nis missing')")
    done = run("-m", "l2m_fast", "doctor", path=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    report = values(done.stdout)
    assert report["torch"] == "installed, but not usable: ImportError: libcudart.so is missing"
    assert report["Self-test"] == "(numpy)"
    assert "FAILED" not in done.stdout
    assert "DataLoader" not in report
    assert float(report["ratio"]) > 0


def test_the_doctor_survives_any_error_of_a_broken_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise AttributeError('half installed')")
    done = run("-m", "l2m_fast", "doctor", path=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert values(done.stdout)["torch"] == "installed, but not usable: AttributeError: half installed"


def test_a_closed_output_pipe_is_no_error() -> None:
    program = f"{shlex.quote(sys.executable)} -m l2m_fast doctor | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_missing_torch_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(doctor, "SPEED_SECONDS", 0.0)
    assert cli.main(["doctor"]) == 0
    assert values(capsys.readouterr().out)["torch"] == "not installed"


@pytest.mark.parametrize("gil", [True, False])
def test_a_python_without_the_gil_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gil: bool
) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: gil, raising=False)
    monkeypatch.setattr(doctor, "SPEED_SECONDS", 0.0)
    assert cli.main(["doctor"]) == 0
    assert (" without the GIL, " in values(capsys.readouterr().out)["Python"]) == (not gil)


def test_a_wrong_constant_fails_with_one_line() -> None:
    program = (
        "from l2m_fast import cli, doctor\n"
        "doctor.SPEED_SECONDS = 0.0\n"
        "doctor.EXPECTED['plain'] = 'planted'\n"
        "raise SystemExit(cli.main(['doctor']))"
    )
    done = run("-c", program)
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = [line for line in done.stdout.splitlines() if "FAILED" in line]
    assert line.split() == f"plain FAILED: expected planted, got {doctor.EXPECTED['plain']} in every run".split()


def test_the_module_prints_the_table_of_constants() -> None:
    done = run("-m", "l2m_fast.doctor")
    assert (done.returncode, done.stderr) == (0, "")
    table: dict[str, Any] = {}
    exec(done.stdout, table)  # noqa: S102 -- ours
    assert table["EXPECTED"] == doctor.EXPECTED


@pytest.mark.parametrize("arguments", [("-m", "l2m_fast"), ("-m", "l2m_fast.cli")])
def test_version_is_that_of_the_package(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--version")
    assert (done.returncode, done.stdout) == (0, f"l2m-fast {l2m_fast.__version__}\n")


def test_with_arguments_the_module_runs_the_command() -> None:
    done = run("-m", "l2m_fast", "cure")
    assert done.returncode == 2
    assert done.stderr.startswith("l2m-fast: argument COMMAND: invalid choice: 'cure'")


# ---- the self-test


def test_runs_that_differ_are_named() -> None:
    def broken() -> str:
        msg = "no\nrows"
        raise ValueError(msg)

    part = doctor.Part(
        "a part", "one", {"(a)": lambda: "one", "(b)": lambda: "two", "(c)": broken, "(d)": lambda: "two"}
    )
    assert part.failure() == "expected one, got one in (a); two in (b) and (d); ValueError: no rows in (c)"


def test_a_batch_that_contains_other_rows_than_batch_rows_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(l2m_fast.Loader):
        @property
        def batch_rows(self) -> Any:
            return np.asarray(super().batch_rows)[::-1]

    monkeypatch.setattr(doctor, "Loader", Wrong)
    with pytest.raises(ValueError, match="a batch must contain the rows"):
        doctor.batches_digest("plain")


# ---- CUDA


BUILT = {"cuda_built": True, "without_cuda": "", "cuda_usable": False}


def torch_with(cuda: str | None, *, available: bool = False, warning: str = "") -> SimpleNamespace:
    """Return a mock of torch with the attributes that the doctor uses."""

    def is_available() -> bool:
        if warning:
            warnings.warn(warning, UserWarning, stacklevel=2)
        return available

    return SimpleNamespace(version=SimpleNamespace(cuda=cuda), cuda=SimpleNamespace(is_available=is_available))


@pytest.mark.parametrize(
    ("info", "torch", "expected"),
    [
        ({"cuda_built": False, "without_cuda": "no nvcc"}, None, "not built: no nvcc"),
        ({**BUILT, "cuda_usable": True}, torch_with("12.8"), "built and usable: a device and its driver were found"),
        (BUILT, None, "built, but not usable: the kernels need torch"),
        (BUILT, torch_with(None), "built, but not usable: torch was built without CUDA"),
        (BUILT, torch_with("12.8"), "built, but not usable: no device or no driver was found"),
        (
            BUILT,
            torch_with("12.8", available=True),
            "built, but not usable: compute capability 7.0",
        ),
        (BUILT, torch_with("12.8", warning="driver\ntoo old"), "built, but not usable: UserWarning: driver too old"),
    ],
)
def test_unusable_kernels_are_reported_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], torch: Any, expected: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(doctor, "why_cuda_unusable", lambda: "compute capability 7.0")
    assert doctor.cuda_kernels(info, torch) == expected


def test_hidden_devices_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert doctor.cuda_kernels(BUILT, torch_with("12.8")) == (
        "built, but not usable: CUDA_VISIBLE_DEVICES= hides every device"
    )


# ---- cgroups


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "max 100000"}, math.inf),
        ("0::/a/b", {"a/b/cpu.max": "150000 100000", "a/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 200000"}, 1.5),
        ("0::/", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/only/outside/the/container", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/../b", {"cpu.max": "200000 100000"}, 2.0),
        ("3:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "250000", "cpu/a/cpu.cfs_period_us": "100000"}, 2.5),
        ("3:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, math.inf),
        ("3:cpu:/a\n0::/", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1.0),
        ("3:cpuset:/a", {"cpuset/a/cpu.cfs_quota_us": "100000", "cpuset/a/cpu.cfs_period_us": "100000"}, math.inf),
        ("0::/", {"cpu.max": "of another format"}, math.inf),
    ],
)
def test_the_cpu_quota_is_the_smallest_of_the_cgroup_and_those_above(
    tmp_path: Path, own: str, files: dict[str, str], quota: float
) -> None:
    write(tmp_path, {"proc/self/cgroup": own})
    write(tmp_path / "cgroups", files)
    assert doctor.cpu_quota(tmp_path / "proc", tmp_path / "cgroups") == quota


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/a", {"a/memory.max": "max", "memory.max": "1073741824"}, 2**30),
        ("0::/a", {"a/memory.max": "max"}, math.inf),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": "4096", "memory/memory.limit_in_bytes": "8192"}, 4096),
    ],
)
def test_the_memory_limit_is_the_smallest_of_the_cgroup_and_those_above(
    tmp_path: Path, own: str, files: dict[str, str], limit: float
) -> None:
    write(tmp_path, {"proc/self/cgroup": own})
    write(tmp_path / "cgroups", files)
    assert doctor.memory_limit(tmp_path / "proc", tmp_path / "cgroups") == limit


def test_without_proc_there_is_no_limit(tmp_path: Path) -> None:
    assert doctor.cpu_quota(tmp_path / "proc", tmp_path / "cgroups") == math.inf
    assert doctor.memory_limit(tmp_path / "proc", tmp_path / "cgroups") == math.inf
