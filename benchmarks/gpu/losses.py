"""Per-class losses and cross entropy on the device, against torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks.gpu.timing import Work, device_times, host_times, microseconds
from benchmarks.race import OURS, Times
from benchmarks.report import Goal, Report
from l2m_fast import Learn2Mix, Loader, cross_entropy
from l2m_fast.losses.device import DeviceClassLoss

_CUDA = torch.device("cuda", 0)


def class_loss(report: Report, bandwidth: float) -> None:
    """Measure sums and counts per class of small batches, and of one that is limited by memory only."""
    for n in (512, 4096, 65_536):
        for num_classes in (10, 100, 1000):
            case = f"class_loss, n = {n:,}, K = {num_classes:,}"
            times, _ = _against(
                report, case, "scatter_add of losses and ones", _scattering, n, num_classes, Goal(at_least=2)
            )
            report.add(case, OURS, microseconds(times, OURS), "us", Goal(at_most=8))
    for num_classes in (10, 1000, 1_000_000):
        case = f"class_loss, n = 64 M, K = {num_classes:,}"
        torch.use_deterministic_algorithms(True)
        try:
            rival = "deterministic index_add"
            times, read = _against(
                report, case, rival, _indexing, 1 << 26, num_classes, Goal(at_least=10), capturable=False
            )
        finally:
            torch.use_deterministic_algorithms(False)
        share = times.rate(OURS, read).median / bandwidth
        report.add(case, "share of copy bandwidth", share, "", Goal(at_least=0.8) if num_classes <= 1000 else None)


def _scattering(losses: torch.Tensor, classes: torch.Tensor, num_classes: int) -> Work:
    """Return the rival that adds sums and counts; `torch.bincount` would block on the device."""
    total, count = torch.zeros(num_classes, device=_CUDA), torch.zeros(num_classes, dtype=torch.int64, device=_CUDA)
    ones = torch.ones_like(classes)
    return lambda: (total.scatter_add_(0, classes, losses), count.scatter_add_(0, classes, ones))


def _indexing(losses: torch.Tensor, classes: torch.Tensor, num_classes: int) -> Work:
    """Return the rival that adds only sums, deterministically."""
    total = torch.zeros(num_classes, device=_CUDA)
    return lambda: total.index_add_(0, classes, losses)


def _against(
    report: Report,
    case: str,
    name: str,
    make_rival: Callable[[torch.Tensor, torch.Tensor, int], Work],
    n: int,
    num_classes: int,
    goal: Goal,
    *,
    capturable: bool = True,
) -> tuple[Times, int]:
    """Race the addition of n losses to sums, report our speedup, and return the times and the number of bytes to read."""
    losses, classes = _losses(n, num_classes)
    sums = DeviceClassLoss(num_classes, _CUDA)
    rival = make_rival(losses, classes, num_classes)
    times = device_times({name: rival, OURS: lambda: sums.add(losses, classes)}, capturable=capturable)
    report.add(case, f"{OURS} vs {name}", times.ratio(name, OURS), "x", goal)
    return times, losses.nbytes + classes.nbytes


def record(report: Report) -> None:
    """Measure the host time of recording in a step, against `.item()` of a slice per class, as the reference implementation does."""
    num_classes, n = 100, 1000
    labels = torch.arange(n * 10) % num_classes
    with Loader(labels, batch_size=n, classes=labels, mixing=Learn2Mix(), order="grouped", seed=0) as loader:
        next(iter(loader))
        losses = torch.rand(n, device=_CUDA)
        bounds = torch.bincount(loader.batch_classes, minlength=num_classes).cumsum(0).tolist()  # type: ignore[arg-type]

        def slices() -> list[float]:
            begins = [0, *bounds[:-1]]
            return [losses[a:b].mean().item() for a, b in zip(begins, bounds, strict=True) if b > a]

        times = host_times({"slices": slices, OURS: lambda: loader.record(losses)}, calls=20)
    case = f"record(), n = {n:,}, K = {num_classes}"
    report.add(case, OURS, microseconds(times, OURS), "us")
    report.add(case, f"{OURS} vs slices with .item()", times.ratio("slices", OURS), "x", Goal(at_least=50))


def fused_cross_entropy(report: Report) -> None:
    """Measure the forward and backward pass with class sums, against that of torch without them."""
    for dtype in (torch.float32, torch.bfloat16):
        for n in (512, 8192, 65_536):
            for columns in (10, 100, 1000):
                logits = torch.randn(n, columns, device=_CUDA, dtype=dtype, requires_grad=True)
                targets = torch.randint(columns, (n,), device=_CUDA)

                def reference(logits: torch.Tensor = logits, targets: torch.Tensor = targets) -> object:
                    return torch.autograd.grad(functional.cross_entropy(logits, targets), logits)

                def fused(logits: torch.Tensor = logits, targets: torch.Tensor = targets, k: int = columns) -> object:
                    return torch.autograd.grad(cross_entropy(logits, targets, k)[0], logits)

                times = device_times({"F.cross_entropy": reference, OURS: fused})
                host = host_times({"F.cross_entropy": reference, OURS: fused}, calls=50)
                case = f"cross entropy, {str(dtype).removeprefix('torch.')}, {n:,} x {columns:,}"
                report.add(case, OURS, microseconds(times, OURS), "us")
                report.add(case, "device time / torch's", times.ratio(OURS, "F.cross_entropy"), "x", Goal(at_most=1))
                report.add(case, "host time / torch's", host.ratio(OURS, "F.cross_entropy"), "x")


def _losses(n: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(n, device=_CUDA).exp_(), torch.randint(num_classes, (n,), device=_CUDA)
