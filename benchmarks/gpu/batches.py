"""Batches on the device: copied ahead of time, or gathered by the device from its own or from pinned host memory."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.gpu.timing import Work, device_times, host_times, microseconds, wall_times
from benchmarks.race import OURS
from benchmarks.report import Goal, Report
from benchmarks.workloads import IMAGES_3072, SEED, Workload
from l2m_fast import Loader, Normalized
from l2m_fast.data.device import DeviceGather, Normalize
from l2m_fast.data.fields import fields_of

_CUDA = torch.device("cuda", 0)


def copies(report: Report) -> None:
    """Measure batches that are staged in pinned memory and copied, against the copy alone."""
    for batch_bytes in (1_572_864, 6 << 20, 50 << 20):
        rows = batch_bytes // 3072
        x = torch.randint(256, (16 * rows, 3072), dtype=torch.uint8)
        pinned = torch.empty(rows, 3072, dtype=torch.uint8, pin_memory=True)
        target = torch.empty_like(pinned, device=_CUDA)

        def copy(pinned: torch.Tensor = pinned, target: torch.Tensor = target) -> None:
            for _ in range(16):
                target.copy_(pinned, non_blocking=True)

        pinned_x = x.pin_memory()
        with (
            Loader(x, batch_size=rows, device=_CUDA, seed=SEED) as staged,
            Loader(pinned_x, batch_size=rows, device=_CUDA, seed=SEED) as gathered,
        ):
            times = wall_times({"copy": copy, OURS: _epoch(staged), "read by the device": _epoch(gathered)})
        case = f"host to device, batches of {batch_bytes / 1e6:.1f} MB"
        report.add(case, "copy", times.rate("copy", x.nbytes), "B/s")
        report.add(case, f"{OURS} vs copy", times.ratio("copy", OURS), "x", Goal(at_least=0.95))
        report.add(case, "rows read by the device vs staged", times.ratio(OURS, "read by the device"), "x")


def gather(report: Report, bandwidth: float) -> None:
    """Measure the gather kernel alone, against a copy within the device."""
    x = torch.randint(256, (1_000_000, 3072), dtype=torch.uint8, device=_CUDA)
    fields, _ = fields_of(x, "torch")
    normalized, _ = fields_of(Normalized(x, 127.5, 64.0, dtype="bfloat16"), "torch")
    for rows in (4096, 65_536):
        ids = torch.randint(len(x), (rows,), device=_CUDA)
        for name, its_fields, row_bytes in (("copied", fields, 2 * 3072), ("bfloat16", normalized, 3 * 3072)):
            normalize = {0: Normalize.on(_CUDA, its_fields[0].normalized)} if its_fields[0].normalized else {}
            gathering = DeviceGather({0: its_fields[0]}, normalize, _CUDA)

            def run(gathering: DeviceGather = gathering, ids: torch.Tensor = ids) -> object:
                return gathering(ids, [len(ids)], torch.cuda.current_stream())

            times = device_times({OURS: run})
            share = times.rate(OURS, rows * row_bytes).median / bandwidth
            goal = Goal(at_least=0.8) if name == "copied" else None
            report.add(
                f"gather on the device, 3072 B, batch {rows:,}, {name}", "share of copy bandwidth", share, "", goal
            )


def epochs(report: Report) -> None:
    """Measure an epoch of data on the device, against `x[perm]` on the device and DataLoader."""
    workload: Workload = IMAGES_3072
    host = workload.fields()
    x, y = host.x.to(_CUDA), host.y.to(_CUDA)
    size = workload.batch_size

    def permuted() -> None:
        order = torch.randperm(len(x), device=_CUDA)
        for begin in range(0, len(x), size):
            rows = order[begin : begin + size]
            x[rows], y[rows]

    def data_loader() -> None:
        for xs, ys in loader:
            xs.to(_CUDA, non_blocking=True), ys.to(_CUDA, non_blocking=True)

    loader = DataLoader(TensorDataset(host.x, host.y), size, shuffle=True, pin_memory=True)
    with (
        Loader((x, y), batch_size=size, seed=SEED) as resident,
        Loader((Normalized(x, 127.5, 64.0, dtype="bfloat16"), y), batch_size=size, seed=SEED) as normalized,
        Loader((host.x, host.y), batch_size=size, seed=SEED, device=_CUDA) as staged,
    ):
        fast = {"x[perm]": permuted, OURS: _epoch(resident), "normalized": _epoch(normalized), "staged": _epoch(staged)}
        times = wall_times(fast, rounds=15)
        slow = wall_times({"DataLoader": data_loader, OURS: _epoch(resident)}, rounds=3)
    case = f"data on the device, {workload}"
    for name in fast:
        report.add(case, name, times.rate(name, len(x)), "rows/s")
    report.add(case, f"{OURS} vs x[perm]", times.ratio("x[perm]", OURS), "x", Goal(at_least=1.5))
    report.add(case, f"{OURS} vs DataLoader", slow.ratio("DataLoader", OURS), "x", Goal(at_least=100))


def resident_steps(report: Report) -> None:
    """Measure the host time of `next()` for data on the device, without and with gathering several batches together."""
    x, y = torch.randint(256, (100_000, 784), dtype=torch.uint8, device=_CUDA), torch.zeros(100_000, device=_CUDA)
    for batch_size in (64, 512):
        with (
            Loader((x, y), batch_size=batch_size, seed=SEED, prefetch=0) as single,
            Loader((x, y), batch_size=batch_size, seed=SEED) as together,
        ):
            batches = {"one by one": iter(single.forever()), OURS: iter(together.forever())}
            times = host_times({name: partial(next, iterator) for name, iterator in batches.items()})
        case = f"next(), data on the device, batch {batch_size}"
        report.add(case, "one by one", microseconds(times, "one by one"), "us")
        report.add(case, OURS, microseconds(times, OURS), "us", Goal(at_most=4))


def _epoch(batches: Iterable[object]) -> Work:
    def run() -> None:
        for _ in batches:
            pass

    return run
