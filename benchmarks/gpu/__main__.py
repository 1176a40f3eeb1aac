"""Runs all benchmarks that need a GPU, prints the figures and writes `results/<name>.json` and `.html`.

python -m benchmarks.gpu gpu-h100
"""

from __future__ import annotations

import subprocess
import sys

import torch

from benchmarks.gpu import batches, losses
from benchmarks.gpu.timing import copy_bandwidth
from benchmarks.report import RESULTS_DIR, Report
from l2m_fast import build_info


def main() -> None:
    """Runs them."""
    if len(sys.argv) != 2 or not build_info()["cuda_usable"] or not torch.cuda.is_available():
        sys.exit(
            "usage: python -m benchmarks.gpu NAME, on a machine with a CUDA device, of a package that was built with CUDA"
        )
    report = Report()
    bandwidth = copy_bandwidth()
    report.add("copy within the device, 1 GiB", "read and written", bandwidth, "B/s")
    losses.class_loss(report, bandwidth)
    losses.record(report)
    losses.fused_cross_entropy(report)
    batches.gather(report, bandwidth)
    batches.copies(report)
    batches.epochs(report)
    print(report.table())
    about = {"device": torch.cuda.get_device_name(), "driver": _driver(), "cuda": torch.version.cuda}
    for path in report.write(RESULTS_DIR / sys.argv[1], **about):
        print(f"written to {path}")


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
