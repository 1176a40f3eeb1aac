"""Forked processes, and a process that imports the package without its kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import l2m_fast


def run(program: str, **environment: str) -> None:
    """Run a program in its own process, and check that it succeeds."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=35,
        check=False,
    )
    assert done.returncode == 0, done.stderr


FORKS = """
import os
import traceback
import warnings

import torch
from l2m_fast import Loader

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns about a fork with threads
x = torch.arange(1000.0)


def is_complete(batches):
    return torch.equal(torch.cat(batches).sort().values.cpu(), x)


def in_child():
    assert is_complete(list(Loader(x, batch_size=50, seed=1)))
    try:
        next(iter(Loader(x, batch_size=50, device="cuda")))
    except (RuntimeError, ValueError) as error:
        assert "CUDA" in str(error), error
    else:
        raise AssertionError("CUDA worked in a forked process")


batches = iter(Loader(x, batch_size=50, device="cuda", seed=1))
first = next(batches)
child = os.fork()
if child == 0:
    try:
        in_child()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
assert is_complete([first, *batches])
"""


def test_after_a_fork_the_parent_keeps_its_device_and_the_child_can_use_the_cpu() -> None:
    run(FORKS)


WITHOUT_KERNELS = """
import sys

import numpy as np
import torch
from l2m_fast import Learn2Mix, Loader, Normalized, build_info, class_loss, cross_entropy

assert not build_info()["cuda_built"]
torch.manual_seed(0)
losses, classes = torch.rand(1000), torch.arange(1000) % 7
on_cpu, on_device = class_loss(losses, classes, 7), class_loss(losses.to("cuda"), classes, 7)
np.testing.assert_allclose(on_device.sum, on_cpu.sum, rtol=1e-13)
assert on_device.count.tolist() == on_cpu.count.tolist()

logits, targets = torch.randn(100, 7), torch.arange(100) % 7
results = []
for device in ("cpu", "cuda"):
    leaf = logits.to(device).requires_grad_()
    loss, sums = cross_entropy(leaf, targets.to(device), 7, label_smoothing=0.1)
    results.append((loss.cpu(), torch.autograd.grad(loss, leaf)[0].cpu(), torch.from_numpy(sums.sum)))
torch.testing.assert_close(results[1][:2], results[0][:2])
torch.testing.assert_close(results[1][2], results[0][2], rtol=1e-5, atol=0)

x, y = torch.arange(2400, dtype=torch.uint8).reshape(600, 4), torch.arange(600) % 5
for place in (lambda x: x, torch.Tensor.cuda, torch.Tensor.pin_memory):
    options = dict(batch_size=50, classes=y, mixing=Learn2Mix(0.5), update_every=3, seed=1)
    plain = Loader((Normalized(x, 1.5, 3.0), y), **options)
    loader = Loader((Normalized(place(x), 1.5, 3.0), place(y)), device="cuda", **options)
    for batch, expected in zip(loader, plain, strict=True):
        assert all(torch.equal(a.cpu(), b) for a, b in zip(batch, expected, strict=True))
        loader.record(batch[1].double())
        plain.record(expected[1].double())
    np.testing.assert_allclose(loader.proportions, plain.proportions, rtol=1e-12)
"""


def test_everything_works_without_the_kernels(tmp_path: Path) -> None:
    without = shutil.ignore_patterns("_cuda.*.so", "experiments", "demo", "suite")
    shutil.copytree(Path(l2m_fast.__file__).parent, tmp_path / "l2m_fast", ignore=without)
    run(WITHOUT_KERNELS, PYTHONPATH=str(tmp_path))
