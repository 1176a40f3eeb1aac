"""Run all benchmarks that need a GPU, print the figures, and write `results/<name>.json` and `.html`.

python -m benchmarks.gpu gpu-h100
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.gpu import batches, losses
from benchmarks.gpu.timing import copy_bandwidth
from benchmarks.report import RESULTS_DIR, Report
from l2m_fast import build_info


def main() -> int:
    """Run all sections, and return the exit code."""
    if len(sys.argv) != 2 or not build_info()["cuda_usable"] or not torch.cuda.is_available():
        sys.exit("usage: python -m benchmarks.gpu NAME; needs a CUDA device and a package that was built with CUDA")
    about = {"device": torch.cuda.get_device_name(), "driver": _driver(), "cuda": torch.version.cuda}
    report = Report()
    bandwidth = copy_bandwidth()
    report.add("copy within the device, 1 GiB", "read and written", bandwidth, "B/s")
    sections: dict[str, Callable[[], None]] = {
        "class_loss": lambda: losses.class_loss(report, bandwidth),
        "record": lambda: losses.record(report),
        "gather": lambda: batches.gather(report, bandwidth),
        "copies": lambda: batches.copies(report),
        "epochs": lambda: batches.epochs(report),
        "resident steps": lambda: batches.resident_steps(report),
        "cross_entropy": lambda: losses.fused_cross_entropy(report),
    }
    paths = measure(sections, report, RESULTS_DIR / sys.argv[1], about)
    print(report.table())
    for path in paths:
        print(f"written to {path}")
    return int(bool(report.missing))


def measure(
    sections: Mapping[str, Callable[[], None]], report: Report, path: Path, about: Mapping[str, object]
) -> list[Path]:
    """Run every section, even if others fail, and write the report after each."""
    paths: list[Path] = []
    for name, section in sections.items():
        try:
            section()
        except Exception as error:  # noqa: BLE001  # one failure must not stop the other sections
            report.miss(name, f"{type(error).__name__}: {error}")
        paths = report.write(path, **about)
    return paths


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
