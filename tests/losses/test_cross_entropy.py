"""`cross_entropy` compared with torch, in value, gradient and class sums."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from l2m_fast import Learn2Mix, Loader, _core, class_loss, cross_entropy
from l2m_fast.losses import operators
from l2m_fast.losses.device import DeviceClassLoss
from l2m_fast.losses.sums import HostClassLoss, num_host_words
from losses.cross_entropy_cases import DTYPES, arguments, case, gradient_of


def expected_of(logits: torch.Tensor, targets: torch.Tensor, num_classes: int, **options: Any) -> tuple[Any, Any, Any]:
    """Return loss, gradient and class sums, computed by torch in float64."""
    classes = options.pop("classes", None)
    wide = logits.detach().double().requires_grad_()
    shifted = wide if options.get("offsets") is None else wide + options["offsets"].double()
    options.pop("offsets", None)
    if options.get("weight") is not None:
        options["weight"] = options["weight"].double()
    loss = functional.cross_entropy(shifted, targets, **options)
    losses = functional.cross_entropy(shifted, targets, reduction="none", **options).detach()
    kept = targets != options.get("ignore_index", -100)
    return (
        loss,
        gradient_of(loss, wide),
        class_loss(losses[kept], (targets if classes is None else classes)[kept], num_classes),
    )


def assert_equals_torch(logits: torch.Tensor, targets: torch.Tensor, num_classes: int, **options: Any) -> None:
    loss, sums = cross_entropy(logits, targets, num_classes, **options)
    expected_loss, expected_gradient, expected_sums = expected_of(logits, targets, num_classes, **options)
    gradient = gradient_of(loss, logits)
    assert (loss.dtype, loss.shape, gradient.dtype) == (logits.dtype, (), logits.dtype)
    exact = max(torch.finfo(logits.dtype).eps, 1e-14)  # float64 in torch is not exact either
    torch.testing.assert_close(loss.double(), expected_loss, rtol=4 * exact, atol=4 * exact, equal_nan=True)
    # In the column of the target, 1 is subtracted from a probability, both multiplied by this.
    computed_in = min(exact, torch.finfo(torch.float32).eps)
    weight = options.get("weight")
    weight = torch.ones(logits.shape[1]) if weight is None else weight
    of_row = 3 * weight.max() / weight[targets[targets != options.get("ignore_index", -100)]].double().sum()
    allowed = 4 * exact * expected_gradient.abs() + 2 * computed_in * of_row + torch.finfo(logits.dtype).smallest_normal
    assert ((gradient.double() - expected_gradient).abs() <= allowed).all()
    assert sums.sum.dtype == np.float64
    np.testing.assert_allclose(sums.sum, expected_sums.sum, rtol=8 * computed_in, atol=8 * computed_in)
    assert sums.count.tolist() == expected_sums.count.tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "columns"), [(1, 1), (1, 2), (7, 5), (64, 10), (33, 8), (200, 1000), (3, 20_011)])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_it_equals_torch(dtype: torch.dtype, n: int, columns: int, weighted: bool, label_smoothing: float) -> None:
    logits, targets = case(n, columns, dtype)
    options: dict[str, Any] = {"label_smoothing": label_smoothing}
    if weighted:
        options["weight"] = torch.linspace(0.5, 2, columns).to(dtype)
        options["offsets"] = torch.linspace(1, -2, columns).to(dtype)
    assert_equals_torch(logits, targets, columns, **options)
    targets[::3] = -100
    assert_equals_torch(logits, targets, columns, **options)


@pytest.mark.parametrize("ignore_index", [-1, 0, 3, 2**40])
def test_a_row_whose_target_is_ignored_adds_nothing(ignore_index: int) -> None:
    logits, targets = case(50, 5)
    targets[::4] = ignore_index
    assert_equals_torch(logits, targets, 5, ignore_index=ignore_index)
    loss, _ = cross_entropy(logits, targets, 5, ignore_index=ignore_index, label_smoothing=0.1)
    assert (gradient_of(loss, logits)[targets == ignore_index] == 0).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_the_sums_are_by_the_given_classes(dtype: torch.dtype) -> None:
    logits, targets = case(40, 6)
    classes = (torch.arange(40) % 3).to(dtype)
    assert_equals_torch(logits, targets, 3, classes=classes)
    targets[0], classes[0] = -100, 77  # the class of a row without a loss
    assert_equals_torch(logits, targets, 3, classes=classes)


@pytest.mark.parametrize(
    "logits",
    [
        case(9, 14)[0][:, ::2],
        case(14, 9)[0].t()[:, :7],
        case(18, 7)[0][::2],
        case(1, 7)[0].expand(9, 7),
        case(9, 15, torch.bfloat16)[0][:, 1::2],
    ],
    ids=["columns", "transposed", "rows", "expanded", "bfloat16"],
)
def test_logits_need_not_be_contiguous(logits: torch.Tensor) -> None:
    assert not logits.is_contiguous()
    assert_equals_torch(logits, torch.arange(9) % 7, 7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_rows_give_nan_and_sums_of_0(dtype: torch.dtype) -> None:
    logits, targets = case(0, 4, dtype)
    assert_equals_torch(logits, targets, 4)
    assert cross_entropy(logits, targets, 4)[0].isnan()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_all_rows_ignored_give_nan_without_gradient(label_smoothing: float) -> None:
    logits, targets = case(3, 4)
    loss, sums = cross_entropy(logits, torch.full_like(targets, -100), 4, label_smoothing=label_smoothing)
    assert loss.isnan()
    assert gradient_of(loss, logits).tolist() == [[0.0] * 4] * 3
    assert (sums.sum.tolist(), sums.count.tolist()) == ([0.0] * 4, [0] * 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_non_finite_logits_give_the_result_of_torch(dtype: torch.dtype, value: float, label_smoothing: float) -> None:
    plain, _ = case(4, 5, dtype)
    values = plain.detach().clone()
    values[0, 1] = values[1, 2] = values[3] = value
    for targets in ([0, 2, 4, 1], [0, -100, 4, -100]):
        logits, of_row = values.clone().requires_grad_(), torch.tensor(targets)
        loss, sums = cross_entropy(logits, of_row, 5, label_smoothing=label_smoothing)
        expected, gradient, expected_sums = expected_of(logits, of_row, 5, label_smoothing=label_smoothing)
        torch.testing.assert_close(loss.double(), expected, rtol=0.01, atol=0, equal_nan=True)
        gradient[of_row == -100] = 0  # NaN in torch for a non-finite ignored row
        assert gradient_of(loss, logits).isfinite().tolist() == gradient.isfinite().tolist()
        assert sums.count.tolist() == expected_sums.count.tolist()
        np.testing.assert_allclose(sums.sum, expected_sums.sum, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4, 3e37])
def test_logits_of_any_magnitude_are_accurate(scale: float) -> None:
    for columns in (2, 100):
        logits, targets = case(20, columns, scale=scale)
        assert_equals_torch(logits.detach().requires_grad_(), targets, columns)
        assert_equals_torch((logits.detach() / scale + 1000).requires_grad_(), targets, columns, label_smoothing=0.2)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_is_the_derivative(weighted: bool) -> None:
    logits, targets = case(6, 5, torch.float64)
    targets[2] = -100
    weight, offsets = (torch.linspace(0.5, 2, 5), torch.linspace(1, -2, 5)) if weighted else (None, None)
    for s in (0.0, 0.3):
        assert torch.autograd.gradcheck(
            lambda x, s=s: cross_entropy(x, targets, 5, weight=weight, offsets=offsets, label_smoothing=s)[0], (logits,)
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [10, 1003])
def test_any_number_of_threads_gives_the_same_bits(dtype: torch.dtype, columns: int) -> None:
    logits, targets = case(300_000 // columns, columns, dtype)
    n, values = len(logits), operators._array(logits)
    results = set()
    for num_threads in (1, 2, 3, 7):
        log_sum_exp, words = np.empty(n), np.zeros(num_host_words(columns), np.int64)
        ids = targets.numpy()
        mean = _core.cross_entropy(values, ids, ids, None, None, -100, 0.1, log_sum_exp, words, num_threads)
        gradient = np.empty_like(values)
        _core.cross_entropy_gradient(values, ids, None, None, -100, 0.1, log_sum_exp, 1 / n, gradient, num_threads)
        results.add((mean, log_sum_exp.tobytes(), words.tobytes(), gradient.tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_the_implementation_by_torch_operations_equals_the_core(dtype: torch.dtype, weighted: bool, wide: bool) -> None:
    logits, targets, classes, weight, offsets, *options = arguments(dtype, weighted)
    native = operators.cross_entropy(logits, targets, classes, weight, offsets, *options, wide)
    composed = operators.cross_entropy._init_fn(logits, targets, classes, weight, offsets, *options, wide)
    for mine, theirs in zip((native[0], *native[2:]), (composed[0], *composed[2:]), strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True)
    num_classes = options[0]
    sums = DeviceClassLoss(num_classes, logits.device, composed[1])
    native_sums = HostClassLoss(native[1].numpy())
    np.testing.assert_allclose(sums.sum, native_sums.sum, rtol=1e-6)
    assert sums.count.tolist() == native_sums.count.tolist()
    assert sums.not_finite == 0
    backward = (native[0].detach() * 0 + 2, logits, targets, weight, offsets, *native[2:], *options[1:])
    torch.testing.assert_close(
        operators.cross_entropy_gradient(*backward), operators.cross_entropy_gradient._init_fn(*backward)
    )
    words = operators.cross_entropy._init_fn(logits, targets, classes, weight, offsets, 3, *options[1:])[1]
    with pytest.raises(ValueError, match=r"classes must be in \[0, 3\)"):
        DeviceClassLoss(3, logits.device, words).read()


@pytest.mark.parametrize("weighted", [False, True])
def test_targets_out_of_range_give_nan_by_torch_operations(weighted: bool) -> None:
    logits, targets, classes, weight, offsets, num_classes, *options = arguments(torch.float32, weighted)
    targets[2], targets[5] = logits.shape[1], -7
    outputs = operators.cross_entropy._init_fn(logits, targets, classes, weight, offsets, num_classes, *options)
    assert outputs[0].isnan()
    backward = (torch.tensor(2.0), logits, targets, weight, offsets, *outputs[2:], *options)
    gradient = operators.cross_entropy_gradient._init_fn(*backward)
    assert gradient.isnan().any(1).nonzero().flatten().tolist() == [2, 5]
    assert gradient.is_contiguous()
    sums = DeviceClassLoss(num_classes, logits.device, outputs[1])
    with pytest.raises(ValueError, match=r"targets must be columns of logits or ignore_index \(got 2 out of range"):
        sums.read()
    kept = targets.ne(-100).sum() - 2
    assert sums.count.sum() == kept


@pytest.mark.parametrize(("weighted", "dtype"), [(False, torch.float32), (True, torch.float32), (True, torch.bfloat16)])
def test_the_operators_pass_the_checks_of_torch(weighted: bool, dtype: torch.dtype) -> None:
    given = (*arguments(dtype, weighted), dtype == torch.bfloat16)
    torch.library.opcheck(operators.cross_entropy, given)
    logits, targets, _, weight, offsets, *_ = given
    saved = [output.detach() for output in operators.cross_entropy(*given)[2:]]
    backward = (torch.tensor(2.0), logits.detach(), targets, weight, offsets, *saved, -100, 0.1)
    torch.library.opcheck(operators.cross_entropy_gradient, backward)


COMPILED = """
import torch
from l2m_fast import cross_entropy

def step(logits, targets, classes):
    loss, sums = cross_entropy(logits * 2, targets, 3, classes=classes, label_smoothing=0.1)
    return loss * 3, sums

results = []
for f in (torch.compile(step, fullgraph=True, backend="aot_eager"), step):
    torch.manual_seed(0)
    for n in range(2, 15):
        logits, targets = torch.randn(n, 5, requires_grad=True), torch.randint(5, (n,))
        loss, sums = f(logits, targets, targets % 3)
        loss.backward()
        results.append([loss.item(), *sums.sum, *sums.count, logits.grad.tolist()])
assert results[:13] == results[13:], results

# The path for devices, where the sums are read later.
from l2m_fast.losses.device import DeviceClassLoss

def on_device(x):
    return DeviceClassLoss(1, x.device, x * 2)

words = torch.zeros(14, dtype=torch.int64)
words[5] = 3  # * 2^(5 * 32 - 149)
sums = torch.compile(on_device, fullgraph=True, backend="aot_eager")(words)
assert sums.sum.tolist() == [6 * 2.0**11] and sums.count.tolist() == [0], sums
"""


def test_compile_traces_through_it_in_one_graph() -> None:
    """Run in a separate process, where the first call is a compiled one."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_under_autocast_the_result_is_that_of_wide_logits(dtype: torch.dtype) -> None:
    logits, targets = case(8, 5, dtype)
    wide = logits.detach().to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, sums = cross_entropy(logits, targets, 5)
        expected = functional.cross_entropy(logits, targets)
    of_wide, wide_sums = cross_entropy(wide, targets, 5)
    assert loss.dtype == expected.dtype == of_wide.dtype
    torch.testing.assert_close(loss, expected)
    assert torch.equal(loss, of_wide)
    assert np.array_equal(sums.sum, wide_sums.sum)
    # Scaled as by a GradScaler; float32 rounds this factor, and 16 bits round it more.
    gradient, expected_gradient = (gradient_of(x * 1234.567, of) for x, of in ((loss, logits), (of_wide, wide)))
    assert gradient.dtype == dtype
    assert torch.equal(gradient, expected_gradient.to(dtype))


def test_under_autocast_16_bit_logits_are_not_copied() -> None:
    logits = torch.randn(1000, 1000, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = cross_entropy(logits, torch.zeros(1000, dtype=torch.int64), 1000)
    assert loss.grad_fn is not None
    saved = loss.grad_fn.saved_tensors  # type: ignore[attr-defined]
    assert saved[0].data_ptr() == logits.data_ptr()


def test_a_loader_records_its_class_losses() -> None:
    x, y = torch.randn(40, 3), torch.arange(40) % 4
    with Loader((x, y), batch_size=8, classes=y, mixing=Learn2Mix(), num_threads=0, seed=0) as loader:
        for inputs, targets in loader:
            loader.record(cross_entropy(torch.cat([inputs, inputs[:, :1]], 1), targets, 4)[1])
        assert len(loader.history) == 1
        assert np.isfinite(loader.class_losses).all()


X, T = torch.zeros(3, 4), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ((X.numpy(), T, 4), {}, TypeError, r"logits must be a torch tensor \(got ndarray\)"),
        ((X.long(), T, 4), {}, TypeError, r"logits must be .* float16 or .* float64 \(got a Tensor of torch.int64"),
        ((X.to_sparse(), T, 4), {}, TypeError, r"logits must be a plain dense tensor .*sparse_coo"),
        ((X[0], T, 4), {}, ValueError, r"logits must have shape \[n, C\] with C >= 1 \(got \[4\]\)"),
        ((X[:, :0], T, 4), {}, ValueError, r"logits must have shape .* \(got \[3, 0\]\)"),
        ((X, [0, 1, 2], 4), {}, TypeError, r"targets must be a torch tensor \(got list\)"),
        (
            (X, T.int(), 4),
            {},
            TypeError,
            r"targets must be a plain dense tensor of int64 \(got a Tensor of torch.int32",
        ),
        ((X, T[:2], 4), {}, ValueError, r"targets must have shape \[3\].*\(got \[2\]\)"),
        ((X, T[:, None], 4), {}, ValueError, r"targets must have shape \[3\].*\(got \[3, 1\]\)"),
        ((X, T.to("meta"), 4), {}, ValueError, r"targets must be on the device of logits, cpu \(got meta\)"),
        ((X, T + 2, 4), {}, ValueError, r"targets must be in \[0, 4\) or ignore_index -100 \(got 4 at position 2\)"),
        ((X, T - 1, 4), {}, ValueError, r"targets must be in \[0, 4\) .*\(got -1 at position 0\)"),
        ((X, T, 2), {}, ValueError, r"classes must be in \[0, 2\) \(got 2 at position 2\)"),
        ((X, T, 4), {"classes": T - 1}, ValueError, r"classes must be in \[0, 4\) \(got -1 at position 0\)"),
        ((X, T, 4), {"classes": T.float()}, TypeError, r"classes must be .* \(got a Tensor of torch.float32"),
        ((X, T, 4), {"classes": T[:1]}, ValueError, r"classes must have shape \[3\]"),
        ((X, T, 4), {"weight": torch.ones(3)}, ValueError, r"weight must have shape \[4\].*\(got \[3\]\)"),
        ((X, T, 4), {"weight": torch.ones(4).long()}, TypeError, r"weight must be .* \(got a Tensor of torch.int64"),
        ((X, T, 4), {"weight": torch.ones(4, requires_grad=True)}, ValueError, r"weight must have requires_grad=False"),
        ((X, T, 4), {"offsets": torch.ones(5)}, ValueError, r"offsets must have shape \[4\].*\(got \[5\]\)"),
        ((X, T, 4), {"offsets": [0.0] * 4}, TypeError, r"offsets must be a torch tensor \(got list\)"),
        (
            (X, T, 4),
            {"offsets": torch.ones(4, requires_grad=True)},
            ValueError,
            r"offsets must have requires_grad=False",
        ),
        (
            (X, T, 4),
            {"offsets": torch.tensor([0, 1, -math.inf, 0])},
            ValueError,
            r"finite as a float \(got -inf for column 2\)",
        ),
        ((X, T, 4), {"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in \[0, 1\] \(got 1.5\)"),
        ((X, T, 4), {"label_smoothing": math.nan}, ValueError, r"label_smoothing must be .* \(got nan\)"),
        ((X, T, 4), {"label_smoothing": "a"}, TypeError, r"label_smoothing must be a number in \[0, 1\] \(got 'a'\)"),
        ((X, T, 4), {"ignore_index": 1.0}, TypeError, r"ignore_index must be an int"),
        ((X, T, 0), {}, ValueError, r"num_classes must be an int in \[1, 2147483647\] \(got 0\)"),
        ((X, T, True), {}, TypeError, r"num_classes must be an int .* \(got True\)"),
        ((X, T, torch.tensor(5)), {}, TypeError, r"num_classes must be an int"),
        ((X, T, 4), {"ignore_index": torch.tensor(3)}, TypeError, r"ignore_index must be an int"),
    ],
)
def test_cross_entropy_refuses(given: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        cross_entropy(*given, **options)
    assert raised.type is error
