"""Time of a DataLoader epoch whose rows a `BatchSampler` chooses, against the samplers of torch."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import BatchSampler as TorchBatchSampler
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from benchmarks.race import OURS, race
from benchmarks.report import Goal, Report
from benchmarks.workloads import SEED
from l2m_fast import Balanced, BatchSampler

NUM_ROWS = 50_000
BATCH_SIZE = 512


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epoch(benchmark: BenchmarkFixture, report: Report, rounds: int, num_workers: int) -> None:
    """Race an epoch of a TensorDataset of 16 floats and a label."""
    classes = torch.arange(NUM_ROWS) % 10
    dataset = TensorDataset(torch.randn(NUM_ROWS, 16), classes)

    def epochs(sampler: BatchSampler | TorchBatchSampler, repeats: int) -> None:
        data = DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers)
        for _ in range(repeats):
            num_batches = sum(1 for _ in data)
            assert num_batches == NUM_ROWS // BATCH_SIZE

    ours = BatchSampler(classes, BATCH_SIZE, mixing=Balanced(), seed=SEED)
    in_torch = TorchBatchSampler(RandomSampler(dataset), BATCH_SIZE, drop_last=True)
    rival = "RandomSampler"
    times = race(benchmark, {rival: lambda n: epochs(in_torch, n), OURS: lambda n: epochs(ours, n)}, rounds)
    case = f"DataLoader epoch of {NUM_ROWS:,} rows, {num_workers} workers, K = 10"
    for name in (OURS, rival):
        report.add(case, name, times.rate(name, NUM_ROWS), "rows/s")
    report.add(case, f"{OURS} vs {rival}", times.ratio(rival, OURS), "x", Goal(at_least=1))
