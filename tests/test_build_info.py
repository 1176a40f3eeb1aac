"""The installation and its public names."""

from __future__ import annotations

import subprocess
import sys

import l2m_fast


def test_build_info_describes_the_installation() -> None:
    information = l2m_fast.build_info()
    assert set(information) == {
        "version",
        "compiler",
        "cuda_built",
        "without_cuda",
        "cuda_usable",
        "usable_cpus",
        "pool_threads",
    }
    assert information["version"].count(".") == 2
    assert information["compiler"]
    assert information["usable_cpus"] >= 1
    assert information["pool_threads"] >= 0
    assert information["cuda_built"] == (information["without_cuda"] == "")
    assert information["cuda_usable"] <= information["cuda_built"]


def test_everything_public_is_importable_from_the_top() -> None:
    assert all(getattr(l2m_fast, name) is not None for name in l2m_fast.__all__)
    assert {"Loader", "Learn2Mix", "class_loss", "ClassLoss", "build_info"} <= set(l2m_fast.__all__)


WITHOUT_ASKING_FOR_DEVICES = """
import torch
from l2m_fast import _build_info

class Kernels:
    def why_no_device(self):
        raise AssertionError("asked for devices")

_build_info._cuda = Kernels()
from l2m_fast import Loader, class_loss, cross_entropy

x, y = torch.randn(4, 3, requires_grad=True), torch.arange(4) % 3
cross_entropy(x, y, 3)[0].backward()
class_loss(torch.ones(4), y, 3)
loader = Loader([x.detach(), y], batch_size=2, classes=y, seed=0)
for batch in loader:
    loader.record(torch.ones(2))
try:
    _build_info.build_info()
except AssertionError:
    print("asked by build_info() alone")
"""


def test_work_on_the_cpu_does_not_ask_for_devices() -> None:
    # After that, a forked child could not use CUDA.
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ASKING_FOR_DEVICES], capture_output=True, text=True, check=False
    )
    assert done.stdout == "asked by build_info() alone\n", done.stderr
