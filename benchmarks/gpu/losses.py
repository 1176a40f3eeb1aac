"""Per-class losses and cross entropy on the device, beside torch's ways."""

from __future__ import annotations

import torch
from torch.nn import functional

from benchmarks.gpu.timing import device_times, host_times, microseconds
from benchmarks.race import OURS
from benchmarks.report import Goal, Report
from l2m_fast import Learn2Mix, Loader, cross_entropy
from l2m_fast.device_class_loss import DeviceClassLoss

_CUDA = torch.device("cuda", 0)


def class_loss(report: Report, bandwidth: float) -> None:
    """Sums and counts per class of small batches, and of one that only memory limits."""
    for n in (512, 4096, 65_536):
        for num_classes in (10, 100, 1000):
            losses, classes = _losses(n, num_classes)
            sums = DeviceClassLoss(num_classes, _CUDA)

            def torchs(losses: torch.Tensor = losses, classes: torch.Tensor = classes, k: int = num_classes) -> object:
                total = torch.zeros(k, device=_CUDA).scatter_add_(0, classes, losses)
                return total, torch.bincount(classes, minlength=k)

            times = device_times({"scatter_add + bincount": torchs, OURS: lambda: sums.add(losses, classes)})  # noqa: B023
            case = f"class_loss, n = {n:,}, K = {num_classes:,}"
            report.add(case, OURS, microseconds(times, OURS), "us", Goal(at_most=8))
            report.add(
                case,
                f"{OURS} vs scatter_add + bincount",
                times.ratio("scatter_add + bincount", OURS),
                "x",
                Goal(at_least=2),
            )
    for num_classes in (10, 1000, 1_000_000):
        losses, classes = _losses(1 << 26, num_classes)
        sums = DeviceClassLoss(num_classes, _CUDA)
        moved = losses.nbytes + classes.nbytes

        def deterministic() -> object:
            return torch.zeros(num_classes, device=_CUDA).index_add_(0, classes, losses)  # noqa: B023

        torch.use_deterministic_algorithms(True)
        try:
            times = device_times({"index_add, deterministic": deterministic, OURS: lambda: sums.add(losses, classes)})  # noqa: B023
        finally:
            torch.use_deterministic_algorithms(False)
        case = f"class_loss, n = 64 M, K = {num_classes:,}"
        share = times.rate(OURS, moved).median / bandwidth
        report.add(case, "share of copy bandwidth", share, "", Goal(at_least=0.8) if num_classes <= 1000 else None)
        report.add(
            case,
            f"{OURS} vs deterministic index_add",
            times.ratio("index_add, deterministic", OURS),
            "x",
            Goal(at_least=10),
        )


def record(report: Report) -> None:
    """What recording costs the host in a step, beside slices of the loss with `.item()` each, the authors' way."""
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
    """Forward and backward with class sums, against torch's without them."""
    for dtype in (torch.float32, torch.bfloat16):
        for n in (512, 8192, 65_536):
            for columns in (10, 100, 1000):
                logits = torch.randn(n, columns, device=_CUDA, dtype=dtype, requires_grad=True)
                targets = torch.randint(columns, (n,), device=_CUDA)

                def torchs(logits: torch.Tensor = logits, targets: torch.Tensor = targets) -> object:
                    return torch.autograd.grad(functional.cross_entropy(logits, targets), logits)

                def fused(logits: torch.Tensor = logits, targets: torch.Tensor = targets, k: int = columns) -> object:
                    return torch.autograd.grad(cross_entropy(logits, targets, k)[0], logits)

                times = device_times({"F.cross_entropy": torchs, OURS: fused})
                host = host_times({"F.cross_entropy": torchs, OURS: fused}, calls=50)
                case = f"cross entropy, {str(dtype).removeprefix('torch.')}, {n:,} x {columns:,}"
                report.add(case, OURS, microseconds(times, OURS), "us")
                report.add(case, "device time / torch's", times.ratio(OURS, "F.cross_entropy"), "x", Goal(at_most=1))
                report.add(case, "host time / torch's", host.ratio(OURS, "F.cross_entropy"), "x")


def _losses(n: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(n, device=_CUDA).exp_(), torch.randint(num_classes, (n,), device=_CUDA)
