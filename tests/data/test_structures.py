"""Structures of arrays, which batches keep."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from loader.plain import CLASSES, N, make


class Pair(NamedTuple):
    image: Any
    label: Any


STRUCTURES: dict[str, Any] = {
    "array": lambda x, y: x,  # noqa: ARG005
    "tuple": lambda x, y: (x, y),
    "tuple of one": lambda x, y: (x,),  # noqa: ARG005
    "list": lambda x, y: [x, y],
    "dict": lambda x, y: {"image": x, "label": y},
    "ordered dict": lambda x, y: OrderedDict(image=x, label=y),
    "namedtuple": Pair,
    "nested": lambda x, y: {"a": (x, [y, {"again": x}]), 2: Pair(y, (x,))},
    "the same array twice": lambda x, y: (x, x, y),
}


def mapped(function: Any, data: Any) -> Any:
    """Return `data` with `function` applied to each array, in the structure of a batch."""
    if isinstance(data, dict):
        return {key: mapped(function, value) for key, value in data.items()}
    if isinstance(data, Pair):
        return Pair(*(mapped(function, value) for value in data))
    if isinstance(data, (tuple, list)):
        return type(data)(mapped(function, value) for value in data)
    return function(data)


def values_of(array: Any, rows: Any = slice(None)) -> Any:
    return np.asarray(array)[rows].tolist()


def leaves_of(data: Any) -> list[Any]:
    leaves: list[Any] = []
    mapped(leaves.append, data)
    return leaves


@pytest.mark.parametrize("batch_format", ["numpy", "torch"])
@pytest.mark.parametrize("leaf", [np.asarray, torch.as_tensor], ids=["numpy leaves", "torch leaves"])
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_a_batch_has_the_structure_of_the_data(structure: Any, leaf: Any, batch_format: Any) -> None:
    images = np.arange(N * 6, dtype=np.float32).reshape(N, 2, 3)
    data = structure(leaf(images), leaf(np.arange(N) * 10))
    loader = make(data, classes=CLASSES, format=batch_format)
    kind = torch.Tensor if batch_format == "torch" else np.ndarray
    for batch in loader:
        rows = np.asarray(loader.batch_rows).tolist()
        expected = mapped(partial(values_of, rows=rows), data)
        assert repr(mapped(values_of, batch)) == repr(expected)
        assert all(type(array) is kind for array in leaves_of(batch))


def test_numpy_and_torch_arrays_may_be_mixed() -> None:
    for tensors, arrays in make((torch.arange(N), np.arange(N)), format="torch"):
        assert isinstance(arrays, torch.Tensor)
        assert torch.equal(tensors, arrays)
