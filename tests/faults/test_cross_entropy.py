"""`cross_entropy` and `class_loss` with odd weights, tensors, derivatives and other arguments."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from l2m_fast import class_loss, cross_entropy
from l2m_fast.losses import operators
from l2m_fast.losses.arrays import device_classes

X = torch.tensor([[0.5, -1.0, 2.0, 0.0], [1.0, 1.5, -0.5, 0.25], [0.0, 0.0, 3.0, -2.0], [2.0, 1.0, 0.0, -1.0]])
T = torch.tensor([0, 1, 2, 1])
LOSSES, CLASSES = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 1])


# ---- weights

Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]


def by_package(
    logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, label_smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    loss, _ = cross_entropy(logits, targets, 4, weight=weight, label_smoothing=label_smoothing)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


def by_torch_operations(
    logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, label_smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the cross entropy by torch operations, as on devices without kernels."""
    of_weight = weight.double()
    loss, _, *saved = operators.cross_entropy._init_fn(
        logits, targets, targets, of_weight, None, 4, -100, label_smoothing
    )
    backward = (torch.tensor(1.0), logits, targets, of_weight, None, *saved, -100, label_smoothing)
    return loss, operators.cross_entropy_gradient._init_fn(*backward)


def by_torch(
    logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, label_smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    loss = functional.cross_entropy(logits, targets, weight, label_smoothing=label_smoothing)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


@pytest.mark.parametrize("step", [by_package, by_torch_operations])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    ("weight", "targets"),
    [
        ([1.0, 2.0, 1.0, math.inf], [0, 1, 2, 1]),
        ([math.inf, 2.0, 1.0, 1.0], [3, -100, 2, 1]),
        ([math.nan, 2.0, 1.0, 1.0], [3, -100, 2, 1]),
        ([1.0, 2.0, 1.0, -math.inf], [0, 1, 2, 1]),
        ([math.inf, 2.0, 1.0, 1.0], [0, 1, 2, 3]),
        ([math.nan, 2.0, 1.0, 1.0], [0, 1, 2, 3]),
        ([0.0, 0.0, 1.0, 1.0], [0, 1, 0, -100]),
        ([0.0, 0.0, 0.0, 0.0], [0, 1, 2, 3]),
        ([0.0, 0.0, 1.0, math.inf], [0, 1, 0, -100]),
    ],
    ids=["inf", "inf, ignored", "nan", "-inf", "used inf", "used nan", "kept 0", "all 0", "0 and inf"],
)
def test_weights_that_are_non_finite_or_0_give_the_result_of_torch(
    step: Step, label_smoothing: float, weight: list[float], targets: list[int]
) -> None:
    given = X, torch.tensor(targets), torch.tensor(weight), label_smoothing
    (loss, gradient), (expected_loss, expected_gradient) = step(*given), by_torch(*given)
    torch.testing.assert_close(loss, expected_loss, equal_nan=True)
    ignored = given[1] == -100
    assert (gradient[ignored] == 0).all()  # NaN in torch with smoothing
    torch.testing.assert_close(gradient[~ignored], expected_gradient[~ignored], equal_nan=True)


def test_weights_of_1_over_the_counts_may_have_empty_classes() -> None:
    counts = torch.bincount(T, minlength=4)
    loss, sums = cross_entropy(X, T, 4, weight=1 / counts)
    torch.testing.assert_close(loss, functional.cross_entropy(X, T, 1 / counts))
    assert np.isfinite(sums.sum).all()
    assert sums.count.tolist() == counts.tolist()


@pytest.mark.parametrize(
    ("weight", "target", "of_torch"), [([math.inf, 1.0], 1, math.inf), ([1.0, math.inf], 0, math.nan)]
)
def test_with_smoothing_an_infinite_weight_gives_an_infinite_loss_for_a_certain_row(
    weight: list[float], target: int, of_torch: float
) -> None:
    """The mean of torch is NaN if the row is certain of the column with that weight; this difference is documented."""
    given = torch.tensor([[0.0, 200.0], [1.0, 2.0]]), torch.tensor([target, target]), torch.tensor(weight), 0.1
    torch.testing.assert_close(by_torch(*given)[0], torch.tensor(of_torch), equal_nan=True)
    assert by_package(*given)[0] == math.inf


# ---- derivatives

# Modules that torch imports for the first forward-mode derivative issue warnings.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


class Calls(TorchDispatchMode):
    """Recorder of the names of all operators called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(operator))
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_it_is_differentiable_twice(weighted: bool, label_smoothing: float) -> None:
    logits, targets = X.double().requires_grad_(), torch.tensor([0, 1, -100, 1])
    options: Any = {
        "weight": torch.linspace(0.5, 2, 4).double() if weighted else None,
        "label_smoothing": label_smoothing,
    }

    def mean(x: torch.Tensor) -> torch.Tensor:
        return cross_entropy(x, targets, 4, **options)[0]

    assert torch.autograd.gradgradcheck(mean, (logits,))
    hessian = torch.autograd.functional.hessian(mean, logits)
    expected = torch.autograd.functional.hessian(lambda x: functional.cross_entropy(x, targets, **options), logits)
    torch.testing.assert_close(hessian, expected)


def test_a_gradient_with_a_graph_equals_one_without() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        logits = X.to(dtype, copy=True).requires_grad_()
        loss, _ = cross_entropy(logits * 2, T, 4, label_smoothing=0.1)
        (plain,) = torch.autograd.grad(loss, logits, retain_graph=True)
        (with_graph,) = torch.autograd.grad(loss, logits, create_graph=True)
        assert not plain.requires_grad
        assert with_graph.requires_grad
        torch.testing.assert_close(with_graph.detach(), plain)


def test_a_plain_backward_is_computed_by_the_core() -> None:
    logits = X.clone().requires_grad_()
    for create_graph in (False, True):
        loss, _ = cross_entropy(logits, T, 4)
        with Calls() as calls:
            torch.autograd.grad(loss, logits, create_graph=create_graph)
        assert ("l2m_fast.cross_entropy_gradient.default" in calls.names) != create_graph


COMPILED = """
import torch
from torch._dynamo.backends.common import aot_autograd
from l2m_fast import cross_entropy

operators = set()

def backend(graph, example):
    operators.update(str(node.target) for node in graph.graph.nodes)
    return graph.forward

@torch.compile(fullgraph=True, backend=aot_autograd(fw_compiler=backend, bw_compiler=backend))
def mean(logits, targets, weight):
    return cross_entropy(logits, targets, 4, weight=weight)[0]

logits = torch.zeros(3, 4, requires_grad=True)
mean(logits, torch.tensor([0, 1, 2]), torch.tensor([1.0, 1.0, 1.0, torch.inf])).backward()
assert {"l2m_fast.cross_entropy.default", "l2m_fast.cross_entropy_gradient.default"} <= operators, operators
assert logits.grad.isfinite().all(), logits.grad
"""


def test_a_compiled_step_is_computed_by_the_core_in_both_directions() -> None:
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and warns that the sums become constants
def test_a_traced_step_is_computed_again_for_other_logits() -> None:
    def mean(logits: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, T, 4)[0]

    others = X.flip(0)
    for traced in (torch.jit.trace(mean, (X,)), make_fx(mean)(X)):
        assert traced(others) == mean(others)
        assert traced(others) != mean(X)


def mean_of(logits: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits, T, 4)[0]


def dual(of: Callable[[torch.Tensor], Any], weight: bool = False) -> Any:
    with forward_ad.dual_level():
        return of(forward_ad.make_dual(torch.ones(4) if weight else X, torch.ones(4) if weight else X))


@forward_mode
@pytest.mark.parametrize(
    ("differentiate", "got"),
    [
        (lambda: dual(mean_of), "a tensor with a tangent"),
        (lambda: dual(lambda weight: cross_entropy(X, T, 4, weight=weight), weight=True), "a tensor with a tangent"),
        (lambda: torch.func.jvp(mean_of, (X,), (X,)), "a transform of torch.func"),
        (lambda: torch.func.jacfwd(mean_of)(X), "a transform of torch.func"),
        (lambda: torch.func.grad(mean_of)(X), "a transform of torch.func"),
        (lambda: torch.func.vjp(mean_of, X), "a transform of torch.func"),
        (lambda: torch.func.jacrev(mean_of)(X), "a transform of torch.func"),
        (lambda: torch.vmap(mean_of)(X[None]), "a transform of torch.func"),
        (lambda: torch.vmap(lambda t: cross_entropy(X, t, 4)[0])(T[None]), "a transform of torch.func"),
        (lambda: torch.func.functionalize(mean_of)(X), "a transform of torch.func"),
    ],
)
def test_other_derivatives_are_refused_with_an_alternative(differentiate: Callable[[], Any], got: str) -> None:
    with pytest.raises(TypeError, match=rf"\(got {got}\).* use torch.nn.functional.cross_entropy\(.*loader.record"):
        differentiate()


@forward_mode
def test_a_tensor_without_a_tangent_is_accepted_together_with_one_that_has_it() -> None:
    assert dual(lambda _: mean_of(X)) == mean_of(X)


# ---- tensors


class Ordinary(torch.Tensor):
    """Tensor subclass that shares the memory of another tensor."""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[[torch.Tensor], torch.Tensor]]]:
    """Yield tensors without values in memory of their own, created from a tensor."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.masked import masked_tensor

    meeting = tmp_path_factory.mktemp("group") / "meeting"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    yield {
        "FakeTensor": FakeTensorMode().from_tensor,
        "MaskedTensor": lambda x: masked_tensor(x, torch.ones_like(x, dtype=torch.bool)),
        "DTensor": lambda x: distribute_tensor(x, mesh, [Shard(0)]),
        "nested Tensor": lambda x: torch.nested.nested_tensor([x]),
        "nested jagged NestedTensor": lambda x: torch.nested.nested_tensor([x], layout=torch.jagged),
        "sparse_coo Tensor": lambda x: x.to_sparse(),
    }
    torch.distributed.destroy_process_group()


def entropy(logits: Any, targets: Any, **options: Any) -> Any:
    """Return the mean, the sums and the counts, which can be compared."""
    loss, sums = cross_entropy(logits, targets, 4, **options)
    return loss, *sums


CALLS: dict[str, tuple[torch.Tensor, Callable[[Any], Any]]] = {
    "losses": (LOSSES, lambda losses: tuple(class_loss(losses, CLASSES, 2))),
    "classes": (CLASSES, lambda classes: tuple(class_loss(LOSSES, classes, 2))),
    "logits": (X, lambda logits: entropy(logits, T)),
    "targets": (T, lambda targets: entropy(X, targets)),
    "weight": (torch.ones(4), lambda weight: entropy(X, T, weight=weight)),
    "classes of logits": (T, lambda classes: entropy(X, T, classes=classes)),
}
KINDS = ["FakeTensor", "MaskedTensor", "DTensor", "nested Tensor", "nested jagged NestedTensor", "sparse_coo Tensor"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("argument", CALLS)
def test_a_tensor_without_memory_is_refused_naming_its_kind(kinds: Any, kind: str, argument: str) -> None:
    tensor, call = CALLS[argument]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings that they are prototypes
        odd = kinds[kind](tensor)
        with pytest.raises(TypeError) as raised:
            call(odd)
    assert raised.type is TypeError
    name = argument.split()[0]
    assert str(raised.value).startswith(f"{name} must be a plain dense tensor of ")
    assert f" (got a {kind} of {tensor.dtype} on cpu" in str(raised.value)


@pytest.mark.parametrize("argument", CALLS)
@pytest.mark.parametrize(
    "convert", [lambda x: x.as_subclass(Ordinary), lambda x: torch.nn.Parameter(x, requires_grad=False)]
)
def test_a_subclass_that_has_memory_is_accepted(convert: Any, argument: str) -> None:
    tensor, call = CALLS[argument]
    torch.testing.assert_close(call(convert(tensor)), call(tensor), check_dtype=False)


@pytest.mark.parametrize("argument", CALLS)
def test_zeros_without_memory_are_zeros_or_refused(argument: str) -> None:
    tensor, call = CALLS[argument]
    zeros = torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype)
    if argument in ("losses", "classes"):
        with pytest.raises(
            TypeError, match=rf"{argument} must be .* \(got a Tensor of {tensor.dtype} on cpu without memory"
        ):
            call(zeros)
    else:
        torch.testing.assert_close(call(zeros), call(torch.zeros_like(tensor)), equal_nan=True)


@pytest.mark.parametrize("argument", ["losses", "logits", "weight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lazy_negation_is_resolved(argument: str, dtype: torch.dtype) -> None:
    tensor, call = CALLS[argument]
    minus = torch._neg_view(tensor.to(dtype))
    assert minus.is_neg()
    torch.testing.assert_close(call(minus), call(-tensor.to(dtype)))


def test_if_all_tensors_have_no_values_each_is_refused() -> None:
    with pytest.raises(
        TypeError,
        match=r"logits must be a plain dense tensor of torch.float32 \(got a Tensor .* on meta without memory",
    ):
        cross_entropy(X.to("meta"), T.to("meta"), 4)


@forward_mode
@pytest.mark.parametrize(
    "transform", [torch.vmap, torch.func.functionalize, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_inside_a_transform_are_refused(transform: Any, dtype: torch.dtype) -> None:
    def sums(losses: torch.Tensor) -> torch.Tensor:
        losses = losses.flatten()
        return torch.from_numpy(class_loss(losses, np.zeros(len(losses), int), 1).sum)

    with pytest.raises(TypeError, match=r"losses must be .* \(got a Tensor of .* inside a transform of torch.func\)"):
        transform(sums)(X.to(dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("argument", ["losses", "classes"])
def test_losses_on_a_device_are_refused_naming_their_kind(kinds: Any, kind: str, argument: str) -> None:
    """Kernels cannot read a FakeTensor or a functionalized tensor, because they have no memory."""
    given: dict[str, Any] = {"losses": LOSSES, "classes": CLASSES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given[argument] = kinds[kind](given[argument])
        with pytest.raises(TypeError, match=rf"{argument} must be a plain dense tensor of .* \(got a {kind} of "):
            device_classes(**given)


@pytest.mark.parametrize("shape", [(2**29, 1), (1, 2**31)])
def test_logits_on_a_device_are_refused_beyond_what_kernels_count(shape: tuple[int, int]) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        logits, targets = torch.empty(shape, device="cuda"), torch.empty(shape[0], dtype=torch.int64, device="cuda")
        with pytest.raises(ValueError, match=r"logits on a device must have fewer than .* \(got shape \["):
            cross_entropy(logits, targets, 4)


# ---- other arguments


def test_a_torch_without_custom_operators_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.library, "custom_op")
    with pytest.raises(ImportError, match=rf"cross_entropy needs torch >= 2.4 \(got {re.escape(torch.__version__)}\)"):
        cross_entropy(X, T, 4)


@pytest.mark.parametrize("value", [True, False, np.True_, torch.tensor(0.1), "0.1", None])
def test_label_smoothing_is_a_number(value: Any) -> None:
    with pytest.raises(TypeError, match=r"label_smoothing must be a number in \[0, 1\] \(got "):
        cross_entropy(X, T, 4, label_smoothing=value)


@pytest.mark.parametrize("value", [1, np.float32(0.25), np.float64(0.25), np.int64(0)])
def test_label_smoothing_is_a_number_of_any_kind(value: Any) -> None:
    loss, _ = cross_entropy(X, T, 4, label_smoothing=value)
    torch.testing.assert_close(loss, functional.cross_entropy(X, T, label_smoothing=float(value)))


@pytest.mark.parametrize("value", [torch.tensor(2), torch.tensor([2]), torch.tensor(True), np.True_, np.array(2)])
def test_num_classes_of_class_loss_is_an_int(value: Any) -> None:
    with pytest.raises(TypeError, match=r"num_classes must be an int \(got "):
        class_loss(LOSSES, CLASSES, value)


@pytest.mark.parametrize(
    "losses",
    [np.array(["a", "b"]), np.ones((1, 2)).view(np.matrix), np.float32(1), torch.tensor(1.0), None, {}, "loss"],
)
def test_bad_arrays_of_losses_are_refused(losses: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"losses must (be|have shape)"):
        class_loss(losses, [0, 1], 2)


def test_a_list_of_tensors_with_gradients_is_refused() -> None:
    losses = [torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)]
    with pytest.raises(TypeError, match=r"losses must be an array of shape \[n\] \(got list: .*requires grad"):
        class_loss(losses, [0, 1], 2)


def test_empty_losses_must_have_one_dimension() -> None:
    assert class_loss(np.zeros(0, np.float16), np.zeros(0, np.uint8), 2).count.tolist() == [0, 0]
    assert class_loss(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 2).count.tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"losses must have shape \[n\] \(got shape \(0, 3\)\)"):
        class_loss(np.zeros((0, 3)), [], 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: class_loss(LOSSES, CLASSES, "x" * 10_000),  # type: ignore[arg-type]
        lambda: class_loss(LOSSES, CLASSES, 10**5_000),
        lambda: class_loss(LOSSES, CLASSES, -(10**3_000)),
        lambda: class_loss(np.zeros(3, [(f"field {i}", float) for i in range(100)]), CLASSES, 2),
        lambda: class_loss(LOSSES, np.zeros(3, [(f"field {i}", float) for i in range(100)]), 2),
        lambda: class_loss(LOSSES.reshape([3] + [1] * 63), CLASSES, 2),
        lambda: cross_entropy(X.reshape([4, 4] + [1] * 62), T, 4),
        lambda: cross_entropy(type("L" * 1_000, (), {})(), T, 4),
        lambda: cross_entropy(X.long().as_subclass(type("L" * 1_000, (torch.Tensor,), {})), T, 4),
    ],
)
def test_values_in_messages_are_short(call: Callable[[], Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r" must .*\(got ") as raised:
        call()
    got = str(raised.value).split("(got ", 1)[1].removesuffix(")")
    assert len(got.removeprefix("shape ")) <= 200
