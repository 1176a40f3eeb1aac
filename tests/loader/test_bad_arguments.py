"""Bad arguments of a loader raise errors that name the argument, the given value, and the allowed values."""

from __future__ import annotations

import re
from typing import Any, cast

import numpy as np
import pytest
import torch

import l2m_fast
from l2m_fast import Learn2Mix
from loader.plain import CLASSES, N, make


class NoUpdate:
    """Policy without `update()`."""

    def initial(self, class_sizes: Any) -> Any:
        return class_sizes


def _bad() -> dict[str, tuple[type[Exception], str, dict[str, Any]]]:
    x = np.arange(N)
    wide = np.zeros((N, 4, 6))
    nan = float("nan")
    ragged: Any = [[0, 1], [2]]
    return {
        # data
        "lengths differ": (ValueError, r"same number of rows \(got data\[0\]: 24, data\[1\]: 5", {"data": (x, x[:5])}),
        "lengths differ deep down": (ValueError, r"data\['a'\]\[1\]: 23", {"data": {"a": [x, x[1:]], "b": x}}),
        "no rows": (ValueError, r"at least one row \(got shape \(0, 3\)\)", {"data": np.zeros((0, 3))}),
        "no rows, tensor": (ValueError, r"at least one row \(got shape \(0,\)\)", {"data": torch.zeros(0)}),
        "no elements": (ValueError, r"at least one element \(got shape \(24, 0\)\)", {"data": np.zeros((N, 0))}),
        "a scalar": (ValueError, r"at least one row \(got shape \(\)\)", {"data": np.array(3)}),
        "empty tuple": (ValueError, r"at least one array \(got the empty tuple", {"data": ()}),
        "empty list": (ValueError, r"at least one array \(got the empty list", {"data": []}),
        "empty dict": (ValueError, r"at least one array \(got the empty dict", {"data": {}}),
        "nothing but empty": (ValueError, r"at least one array", {"data": ([], {})}),
        "a string": (TypeError, r"data must be a torch tensor or a NumPy array.*\(got str\)", {"data": "rows"}),
        "bytes": (TypeError, r"\(got bytes\)", {"data": b"rows"}),
        "a number": (TypeError, r"\(got int\)", {"data": 7}),
        "None in a tuple": (TypeError, r"data\[1\] must be .*\(got NoneType\)", {"data": (x, None)}),
        "a set": (TypeError, r"\(got set\)", {"data": {1, 2}}),
        "a list of numbers": (TypeError, r"data\[0\] must be .*\(got int\)", {"data": [1, 2, 3]}),
        "objects": (TypeError, r"must not contain Python objects.*\(got dtype object\)", {"data": x.astype(object)}),
        "objects in a record": (TypeError, r"Python objects", {"data": np.zeros(N, [("a", "O"), ("b", "i4")])}),
        "masked": (TypeError, r"masked array", {"data": np.ma.masked_array(x, x > 3)}),
        "rows apart": (ValueError, r"contiguous \(got shape \(24, 6, 4\) with strides", {"data": wide.swapaxes(1, 2)}),
        "columns apart": (ValueError, r"each row of data\[1\] must be contiguous", {"data": (x, wide[:, :, ::2])}),
        "columns backwards": (ValueError, r"contiguous", {"data": wide[:, ::-1]}),
        "tensor rows apart": (ValueError, r"contiguous", {"data": torch.zeros(N, 4, 6).transpose(1, 2)}),
        "sparse": (TypeError, r"dense tensor", {"data": torch.eye(N).to_sparse()}),
        "quantised": (
            TypeError,
            r"whole bytes \(got a Tensor of torch.float8_e4m3fn on cpu\)",
            {"data": torch.zeros(N, dtype=torch.float8_e4m3fn), "format": "torch"},
        ),
        "on a device": (
            ValueError,
            r"on the CPU.*got device meta",
            {"data": torch.zeros(N, device="meta")},
        ),
        "strings for torch": (
            TypeError,
            r'dtype of data must be supported by torch.from_numpy.*format="numpy"',
            {"data": x.astype(str), "format": "torch"},
        ),
        "big endian for torch": (
            TypeError,
            r"supported by torch.from_numpy",
            {"data": x.astype(">i8"), "format": "torch"},
        ),
        "bfloat16 for numpy": (
            TypeError,
            r"dtype of data must be one of NumPy",
            {"data": torch.zeros(N, dtype=torch.bfloat16)},
        ),
        # classes
        "classes too short": (ValueError, r"one id for each of the 24 rows \(got 23\)", {"classes": CLASSES[1:]}),
        "classes too long": (ValueError, r"24 rows \(got 48\)", {"classes": np.tile(CLASSES, 2)}),
        "float classes": (TypeError, r"integers or strings \(got float64\)", {"classes": CLASSES * 1.0}),
        "NaN classes": (ValueError, r"a label for every row \(got 24 missing", {"classes": np.full(N, nan)}),
        "float tensor classes": (TypeError, r"integers \(got float32\)", {"classes": torch.zeros(N)}),
        "complex classes": (TypeError, r"integers", {"classes": CLASSES * 1j}),
        "None in classes": (ValueError, r"a label for every row \(got 1 missing", {"classes": [None, *CLASSES[1:]]}),
        "dates as classes": (TypeError, r"integers", {"classes": CLASSES.astype("M8[s]")}),
        "negative classes": (ValueError, r"classes must be >= 0 \(got -1\)", {"classes": CLASSES - 1}),
        "two-dimensional classes": (ValueError, r"must have shape \[n\].*\(24, 1\)", {"classes": CLASSES[:, None]}),
        "ragged classes": (TypeError, r"integers or strings \(got list at row 0\)", {"classes": ragged}),
        "one class for all": (TypeError, r"an array of 24 ids or labels.*\(got the int 0\)", {"classes": 0}),
        "keys as classes": (ValueError, r"np\.unique", {"classes": CLASSES + 10**9}),
        "huge keys as classes": (ValueError, r"2\*\*63|np\.unique", {"classes": np.full(N, 2**64 - 1, np.uint64)}),
        # rows
        "no rows chosen": (ValueError, r"rows must select at least one of the 24 rows", {"rows": []}),
        "empty mask": (ValueError, r"mask without True", {"rows": np.zeros(N, bool)}),
        "short mask": (
            ValueError,
            r"one bool for each of the 24 rows if it is a mask \(got 5\)",
            {"rows": np.ones(5, bool)},
        ),
        "row twice": (ValueError, r"3", {"rows": [1, 3, 5, 3]}),
        "row beyond": (IndexError, r"rows must be (ids )?in \[0, 24\) \(got 24\)", {"rows": [0, 24]}),
        "row negative": (IndexError, r"rows must be (ids )?in \[0, 24\) \(got -1\)", {"rows": [0, -1]}),
        "row far beyond": (IndexError, r"rows must be", {"rows": np.array([2**64 - 1], np.uint64)}),
        "float rows": (TypeError, r"row ids or a mask", {"rows": [0.0, 1.0]}),
        "rows in two dimensions": (ValueError, r"one-dimensional", {"rows": [[0, 1]]}),
        "string rows": (TypeError, r"row ids or a mask", {"rows": ["a"]}),
        # numbers
        "batch_size 0": (ValueError, r"batch_size must be an int >= 1 \(got 0\)", {"batch_size": 0}),
        "batch_size negative": (ValueError, r"batch_size must be an int >= 1 \(got -4\)", {"batch_size": -4}),
        "batch_size float": (TypeError, r"batch_size must be an int >= 1 \(got 4\.0\)", {"batch_size": 4.0}),
        "batch_size True": (TypeError, r"batch_size must be an int >= 1 \(got True\)", {"batch_size": True}),
        "batch_size numpy True": (TypeError, r"batch_size must be an int", {"batch_size": np.True_}),
        "batch_size string": (TypeError, r"batch_size must be an int >= 1 \(got '4'\)", {"batch_size": "4"}),
        "batch_size None": (TypeError, r"batch_size must be an int >= 1 \(got None\)", {"batch_size": None}),
        "batch_size huge": (ValueError, r"batch_size \* world_size must be", {"batch_size": 2**31}),
        "batch_size huger": (ValueError, r"batch_size", {"batch_size": 2**70}),
        "global batch huge": (
            ValueError,
            r"batch_size \* world_size must be an int in \[1, 2147483647\]",
            {"batch_size": 2**20, "world_size": 2**20, "rank": 0},
        ),
        "drop_last of all": (
            ValueError,
            r"with drop_last, batch_size \* world_size must be at most the number of rows, 24 \(got 25\)",
            {"batch_size": 25, "drop_last": True},
        ),
        "rows of a slice": (TypeError, r"mask of 24 bools \(got slice\(0, 10, None\)\)", {"rows": slice(0, 10)}),
        "more ranks than rows": (
            ValueError,
            r"world_size must be at most .* 24 \(got 25\)",
            {"rank": 0, "world_size": 25},
        ),
        "no rank": (TypeError, r"rank must be an int in \[0, 1\] .*\(got None\)", {"world_size": 2}),
        "masked rows": (TypeError, r"rows .* masked array", {"rows": np.ma.masked_array([1, 2], [True, False])}),
        "no classes": (ValueError, r"one id for each of the 24 rows \(got 0\)", {"classes": []}),
        "a word as Static": (
            TypeError,
            r"proportions must be numbers \(got <ndarray of shape \(\) and <U3>",
            {"mixing": l2m_fast.Static(cast("Any", "abc"))},
        ),
        "steps_per_epoch 0": (ValueError, r"steps_per_epoch must be .* \(got 0\)", {"steps_per_epoch": 0}),
        "steps_per_epoch True": (TypeError, r"steps_per_epoch", {"steps_per_epoch": True}),
        "update_every 0": (ValueError, r"update_every must be .* \(got 0\)", {"update_every": 0}),
        "update_every float": (TypeError, r"update_every", {"update_every": 1.5}),
        "seed negative": (ValueError, r"seed must be .* \(got -1\)", {"seed": -1}),
        "seed huge": (ValueError, r"seed must be an int in \[0, 18446744073709551615\]", {"seed": 2**64}),
        "seed None on two ranks": (
            ValueError,
            r"seed must be an int in \[0, 2\*\*64\), the same on all 2 ranks \(got None\)",
            {"seed": None, "rank": 0, "world_size": 2},
        ),
        "num_threads negative": (ValueError, r"num_threads must be .* \(got -1\)", {"num_threads": -1}),
        "num_threads huge": (ValueError, r"num_threads must be", {"num_threads": 10**6}),
        "num_threads True": (TypeError, r"num_threads", {"num_threads": True}),
        "prefetch negative": (ValueError, r"prefetch must be .* \(got -1\)", {"prefetch": -1}),
        "prefetch float": (TypeError, r"prefetch", {"prefetch": 2.0}),
        "world_size 0": (ValueError, r"world_size must be an int >= 1 \(got 0\)", {"world_size": 0}),
        "rank negative": (ValueError, r"rank must be an int in \[0, 1\] \(got -1\)", {"rank": -1, "world_size": 2}),
        "rank beyond": (ValueError, r"rank must be an int in \[0, 1\] \(got 2\)", {"rank": 2, "world_size": 2}),
        "rank without world_size": (ValueError, r"rank must be an int in \[0, 0\] \(got 1\)", {"rank": 1}),
        "rank float": (TypeError, r"rank must be", {"rank": 0.0}),
        # strings and bools
        "order": (ValueError, r"order must be 'shuffled' or 'grouped' \(got 'sorted'\)", {"order": "sorted"}),
        "order None": (ValueError, r"order must be", {"order": None}),
        "format": (ValueError, r"format must be 'torch' or 'numpy' \(got 'jax'\)", {"format": "jax"}),
        "shuffle": (TypeError, r"shuffle must be True or False \(got 1\)", {"shuffle": 1}),
        "drop_last": (TypeError, r"drop_last must be True or False \(got None\)", {"drop_last": None}),
        "unknown": (TypeError, r"weights", {"weights": [1, 2]}),
        # mixing
        "mixing a string": (TypeError, r"mixing must be a policy .* \(got 'balanced'\)", {"mixing": "balanced"}),
        "mixing a class": (TypeError, r"mixing must be a policy", {"mixing": Learn2Mix}),
        "mixing an array": (TypeError, r"mixing must be a policy", {"mixing": [0.5, 0.5]}),
        "mixing half a policy": (TypeError, r"mixing must be a policy", {"mixing": NoUpdate()}),
        "all_reduce": (TypeError, r"all_reduce must be a callable .* \(got 'sum'\)", {"all_reduce": "sum"}),
        "losses without classes": (
            ValueError,
            r"classes must be the class of each row, because Learn2Mix",
            {"mixing": Learn2Mix()},
        ),
        "losses on two ranks": (
            ValueError,
            r"all_reduce must be a callable .* 2 ranks, because Learn2Mix",
            {"mixing": Learn2Mix(), "classes": CLASSES, "world_size": 2, "rank": 0},
        ),
    }


@pytest.mark.parametrize("name", _bad())
def test_the_constructor_refuses(name: str) -> None:
    error, message, options = _bad()[name]
    with pytest.raises(error, match=message) as raised:
        make(**options)
    assert raised.type is error
    assert "session" not in str(raised.value)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([0.5, 0.6, -0.1], r">= 0|negative"),
        ([0.5, float("nan"), 0.5], r"finite"),
        ([0.5, float("inf"), 0.5], r"finite"),
        ([0.2, 0.2, 0.2], r"sum to 1"),
        ([0.4, 0.3, 0.300002], r"sum to 1"),
        ([0.5, 0.5], r"3"),
        ([0.25] * 4, r"3"),
        ([], r"3"),
        ([[0.5, 0.25, 0.25]], r"shape \(3,\)"),
        (1.0, r"3"),
        ([0, 0, 0], r"sum to 1"),
    ],
)
def test_wrong_proportions_are_refused(p: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        make(classes=CLASSES, mixing=l2m_fast.Static(p))
    assert re.search("proportions", str(raised.value))


def test_proportions_of_an_empty_class_are_refused() -> None:
    with pytest.raises(ValueError, match="proportion"):
        make(classes=CLASSES * 2, mixing=l2m_fast.Static([0.5, 0.1, 0.2, 0.0, 0.2]))


def test_proportions_nearly_summing_to_one_are_renormalized() -> None:
    loader = make(classes=CLASSES, mixing=l2m_fast.Static([0.5, 0.25, 0.25 + 9e-7]))
    assert loader.proportions.sum() == pytest.approx(1, abs=1e-15)
