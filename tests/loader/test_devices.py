"""Devices of batches, and devices that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from l2m_fast import Loader
from l2m_fast import arguments as arguments_module
from loader.fields import DATA, loader_options, same


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_cuda")
def test_pinned_memory_without_a_device_is_pageable_with_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="without a CUDA device"):
        loader = Loader(**loader_options(pin_memory=True))
    assert all(same(a, b) for a, b in zip(loader, Loader(**loader_options()), strict=True))


@pytest.mark.usefixtures("no_cuda")
def test_the_cpu_is_a_device_too() -> None:
    loader = Loader(**loader_options(device="cpu:0"))
    assert all(same(a, b) for a, b in zip(loader, Loader(**loader_options(device=torch.device("cpu"))), strict=True))


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(
    "device", ["cuda", "cuda:3", 0, torch.device("cuda"), "meta", "no such", -1, "cuda:256", 10**30]
)
def test_a_missing_device_is_refused(device: object) -> None:
    with pytest.raises(ValueError, match=r"device must be None, 'cpu' or one of the 0 available CUDA devices \(got "):
        Loader(**loader_options(device=device))


@pytest.mark.parametrize("device", [1.5, True, ["cuda"]])
def test_a_value_that_is_not_a_device_is_refused(device: object) -> None:
    with pytest.raises(TypeError, match="device must be None, 'cpu' or one of"):
        Loader(**loader_options(device=device))


def test_wrong_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    find = arguments_module.cuda_device
    zero, one = torch.device("cuda:0"), torch.device("cuda:1")
    assert find(None, set(), "torch") is None
    assert find(None, {zero}, "torch") == find("cuda:0", {zero}, "torch") == find(0, set(), "torch") == zero
    assert find(np.int64(1), set(), "torch") == one
    assert find("cuda", set(), "torch") == find(one, {one}, "torch") == one
    for device, data_devices, batch_format, message in (
        (None, {zero, one}, "torch", "data must be on one CUDA device"),
        ("cuda", {zero}, "torch", "device must be the device of the data, cuda:0"),
        ("cpu", {zero}, "torch", "device must be None, 'cpu' or one of the 2 available CUDA devices"),
        ("cuda:2", set(), "torch", "one of the 2 available CUDA devices"),
        ("cuda:256", set(), "torch", "one of the 2 available CUDA devices"),
        ("cuda:129", set(), "torch", "one of the 2 available CUDA devices"),
        ("cuda:0", set(), "numpy", "format must be 'torch' for batches on a CUDA device"),
    ):
        with pytest.raises(ValueError, match=message):
            find(device, data_devices, batch_format)


def test_numpy_batches_are_not_pinned() -> None:
    with pytest.raises(ValueError, match="format must be 'torch' with pin_memory=True"):
        Loader(DATA["z"], batch_size=5, format="numpy", pin_memory=True, seed=0)
