"""The module of CUDA kernels, compiled for the CPU (cpp/tests/cuda_on_cpu), together with the Python that calls it.

The kernels are tested by cpp/tests/test_cuda_*.cpp; these tests check that they are called correctly. tests/gpu has
the same tests on a device.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shlex
import subprocess
import sysconfig
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pybind11
import pytest
import torch

from l2m_fast import Learn2Mix, Loader, Normalized, batch_source
from l2m_fast.data import device as device_data
from l2m_fast.losses import cuda_operators, operators
from l2m_fast.losses import device as device_losses
from l2m_fast.losses.device import DeviceClassLoss
from l2m_fast.losses.sums import HostClassLoss
from losses.cross_entropy_cases import DTYPES, arguments
from losses.exact_sums import CLASS_TYPES, LOSS_TYPES, check_against_fsum, totals

CPP = Path(__file__).parents[1] / "cpp"
CPU = torch.device("cpu")
STREAM = SimpleNamespace(cuda_stream=0, record_event=object)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Return the module `_cuda`, whose kernels run on the CPU."""
    path = tmp_path_factory.mktemp("kernels") / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = [CPP / "include", CPP / "cuda", CPP / "tests/cuda_on_cpu", pybind11.get_include()]
    include.append(Path(sysconfig.get_paths()["include"]))
    command = [*shlex.split(os.environ.get("CXX", "c++")), "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread"]
    command += ["-fvisibility=hidden", "-Wno-unknown-pragmas", *(f"-I{folder}" for folder in include), "-x", "c++"]
    sources = [CPP / "bindings/cuda/module.cpp", *sorted((CPP / "cuda").glob("*.cu"))]
    subprocess.run([*command, *map(str, sources), "-o", str(path)], check=True)
    spec = importlib.util.spec_from_file_location("_cuda", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def kernels(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package treat the CPU as a device."""
    for user in (device_losses, device_data, cuda_operators):
        monkeypatch.setattr(user, "_cuda", module)
    for user in (device_losses, device_data):
        monkeypatch.setattr(user, "has_kernels", lambda _: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None, raising=False)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _=None: STREAM)


@pytest.mark.parametrize("loss_type", LOSS_TYPES, ids=str)
@pytest.mark.parametrize("class_type", CLASS_TYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 1000])
def test_sums_are_the_nearest_to_the_exact_ones(loss_type: torch.dtype, class_type: torch.dtype, n: int) -> None:
    check_against_fsum("cpu", loss_type, class_type, n, 7)


@pytest.mark.parametrize("num_classes", [1, 4096, 4097])
def test_any_number_of_classes(num_classes: int) -> None:
    check_against_fsum("cpu", torch.float32, torch.int64, 3000, num_classes)


def test_the_last_bits_of_doubles_are_added_too() -> None:
    rng = np.random.default_rng(3)
    losses, classes = torch.from_numpy(rng.random(2000) * 10.0 ** rng.integers(-25, 8, 2000)), torch.arange(2000) % 2
    sums = totals("cpu", 2)
    sums.add(losses, classes)
    assert sums.sum.tolist() == [math.fsum(losses[k::2].tolist()) for k in range(2)]


def test_sums_of_sums() -> None:
    one, other = totals("cpu", 3), totals("cpu", 3)
    one.add(torch.tensor([1.0]), torch.tensor([2]))
    other.add(torch.tensor([2.0, 4.0, torch.inf]), torch.tensor([2, 0, 1]))
    one.add_sums(other)
    assert (one.sum.tolist(), one.count.tolist(), one.not_finite) == ([4, 0, 3], [1, 0, 2], 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_cross_entropy_equals_that_of_the_core(dtype: torch.dtype, weighted: bool, wide: bool) -> None:
    logits, targets, classes, weight, offsets, num_classes, *options = arguments(dtype, weighted)
    given = (logits, targets, classes, weight, offsets, num_classes, *options, wide)
    expected = operators.cross_entropy(*given)
    result = cuda_operators.cross_entropy(*given)
    for mine, theirs in zip((result[0], *result[2:]), (expected[0], *expected[2:]), strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True)
    sums = DeviceClassLoss(num_classes, CPU, result[1])
    expected_sums = HostClassLoss(expected[1].numpy())
    np.testing.assert_allclose(sums.sum, expected_sums.sum, rtol=1e-6)
    assert sums.count.tolist() == expected_sums.count.tolist()
    assert sums.not_finite == 0
    backward = (expected[0].detach() * 0 + 2, logits, targets, weight, offsets, *expected[2:], *options)
    torch.testing.assert_close(
        cuda_operators.cross_entropy_gradient(*backward), operators.cross_entropy_gradient(*backward)
    )


def test_targets_and_classes_out_of_range_raise_when_the_sums_are_read() -> None:
    logits, targets, classes = torch.randn(4, 3), torch.tensor([0, 3, -100, 2]), torch.tensor([0, 0, 7, 5])
    loss, words, *_ = cuda_operators.cross_entropy(logits, targets, classes, None, None, 2, -100, 0.0)
    sums = DeviceClassLoss(2, CPU, words)
    assert loss.isnan()
    for message in (
        r"classes must be in \[0, 2\) \(got 1 out of range",
        r"targets must be columns of logits or ignore_index \(got 1 ",
    ):
        with pytest.raises(ValueError, match=message):
            sums.read()
    assert sums.count.tolist() == [1, 0]


def test_batches_equal_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_data, "pinned_empty", lambda shape, dtype: torch.empty(shape, dtype=dtype))
    image = torch.arange(50 * 48, dtype=torch.uint8).reshape(50, 3, 4, 4)
    data: dict[str, Any] = {
        "x": torch.randn(50, 7),
        "y": torch.arange(50),
        "image": image,
        **{dtype: Normalized(image, [1.0, 2.0, 3.0], 3.3, dtype=dtype) for dtype in ("float16", "bfloat16", "float32")},
        "last": Normalized(image, 7.5, [3, 4, 5, 6], channel_dim=-1),
        **{f"more {i}": torch.arange(50, dtype=torch.int16) for i in range(4)},
    }
    options: dict[str, Any] = {"batch_size": 8, "classes": data["y"] % 3, "mixing": Learn2Mix(), "seed": 1}
    with monkeypatch.context() as for_now:
        for_now.setattr(batch_source, "cuda_device", lambda *_: CPU)
        on_device = Loader(data, **options)
    with on_device:
        for batch, expected in zip(on_device, Loader(data, **options), strict=True):
            for name, array in expected.items():
                assert batch[name].dtype == array.dtype
                assert torch.equal(batch[name], array), name
