"""A loader in a training loop of Accelerate: the rows of a bare loop, every gradient applied, exact resumption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils.data import DataLoader, TensorDataset

from integrations.torchrun import check_global_batches, torchrun
from l2m_fast import BatchSampler, Learn2Mix, Loader, Sampler
from l2m_fast.integrations.accelerate import AcceleratedLoader

N = 60
ROWS = torch.arange(N)
CLASSES = ROWS % 7 % 3

pytestmark = pytest.mark.filterwarnings("ignore")  # of Accelerate


def forget_accelerator() -> None:
    """Let the next Accelerator have other options."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture(autouse=True)
def _forget_at_the_end() -> Iterator[None]:
    yield
    forget_accelerator()


def make(kind: str, **options: Any) -> tuple[Any, Any]:
    """Return the training data, and its loader or sampler."""
    arguments: dict[str, Any] = {
        "batch_size": 5, "classes": CLASSES, "mixing": Learn2Mix(0.5), "seed": 2, **options
    }  # fmt: skip
    if kind == "Loader":
        loader = Loader((ROWS,), **arguments)
        return loader, loader
    num_workers = 2 if kind == "BatchSampler, workers" else 0
    sampler = BatchSampler(**arguments, lookahead=2 * num_workers)
    return DataLoader(TensorDataset(ROWS), batch_sampler=sampler, num_workers=num_workers), sampler


def train(
    accelerator: Accelerator, data: Any, run: Any, num_epochs: int, save: tuple[int, Path] | None = None
) -> tuple[list[list[int]], list[int]]:
    """Return the rows of each batch, and the numbers of batches after which the weights changed."""
    weight = torch.nn.Parameter(torch.zeros(()))
    module = torch.nn.Module()
    module.weight = weight
    model, optimizer = accelerator.prepare(module, torch.optim.SGD([weight], 1.0))
    batches = AcceleratedLoader(data, accelerator)
    rows: list[list[int]] = []
    updates = []
    for _ in range(num_epochs):
        for (batch,) in batches:
            with accelerator.accumulate(model):
                before = weight.item()
                losses = CLASSES[batch] + 1 + batch % 8 / 8 + 0 * weight
                run.record(losses)
                rows.append(batch.tolist())
                accelerator.backward(losses.mean() + weight)
                optimizer.step()
                optimizer.zero_grad()
                if weight.item() != before:
                    updates.append(len(rows))
            if save is not None and len(rows) == save[0]:
                accelerator.save_state(str(save[1]))
    assert len(batches) == len(data)
    return rows, updates


def bare_loop(num_epochs: int, **options: Any) -> tuple[list[list[int]], list[list[float]]]:
    """Return the rows and the proportions of the history of a plain loop."""
    loader, _ = make("Loader", include=("step",), **options)
    rows = []
    for _ in range(num_epochs):
        for batch, step in loader:
            loader.record(CLASSES[batch] + 1 + batch % 8 / 8, step=step)
            rows.append(batch.tolist())
    return rows, [record["proportions"].tolist() for record in loader.history]


KINDS = ["Loader", "BatchSampler", "BatchSampler, workers"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulate", [1, 5])
def test_an_epoch_applies_every_gradient(kind: str, accumulate: int) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    data, run = make(kind, update_every=6)
    rows, updates = train(accelerator, data, run, 3)
    lookahead = 4 if "workers" in kind else 0
    assert rows == bare_loop(3, update_every=6, lookahead=lookahead)[0]
    in_epoch = list(range(1, 13)) if accumulate == 1 else [5, 10, 12]
    assert updates == [12 * epoch + step for epoch in range(3) for step in in_epoch]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saved_at", [5, 12, 17])
def test_a_saved_state_resumes_the_run(tmp_path: Path, kind: str, saved_at: int) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=5)
    data, run = make(kind, update_every=6)
    rows, _ = train(accelerator, data, run, 3, (saved_at, tmp_path))
    data, run = make(kind, update_every=6)
    forget_accelerator()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=5)
    weight = torch.nn.Parameter(torch.zeros(()))
    module = torch.nn.Module()
    module.weight = weight
    accelerator.prepare(module, torch.optim.SGD([weight], 1.0))
    batches = AcceleratedLoader(data, accelerator)
    accelerator.load_state(str(tmp_path))
    resumed, ends = [], []
    for _ in range(3 if saved_at % 12 else 2):
        for (batch,) in batches:
            run.record(CLASSES[batch] + 1 + batch % 8 / 8)
            resumed.append(batch.tolist())
            if accelerator.gradient_state.end_of_dataloader:
                ends.append(saved_at + len(resumed))
    assert resumed[: 36 - saved_at] == rows[saved_at:]
    assert ends[:2] == [12 * (saved_at // 12) + 12, 12 * (saved_at // 12) + 24]


def test_leaving_an_epoch_early_ends_it() -> None:
    accelerator = Accelerator(cpu=True)
    batches = AcceleratedLoader(make("Loader")[0], accelerator)
    for _ in batches:
        break
    assert not accelerator.gradient_state.in_dataloader


def test_other_data_is_refused() -> None:
    accelerator = Accelerator(cpu=True)
    with pytest.raises(
        TypeError, match=r"training data must be a Loader, or .* \(got DataLoader with a BatchSampler\)"
    ):
        AcceleratedLoader(DataLoader(TensorDataset(ROWS), batch_size=5), accelerator)
    sharded, _ = make("BatchSampler", rank=0, world_size=2, all_reduce=lambda sums: sums)
    listing = Sampler(CLASSES, 5, seed=2, rank=0, world_size=2)
    with pytest.raises(
        ValueError, match=r"on several processes, training data must be a Loader, or .* \(got a Sampler"
    ):
        AcceleratedLoader(DataLoader(TensorDataset(ROWS), batch_size=5, sampler=listing), accelerator)
    with pytest.raises(ValueError, match=r"must be created with group=True for 1 processes \(got world_size=2\)"):
        AcceleratedLoader(sharded, accelerator)


PREPARED = """
import json, os, sys, warnings
from pathlib import Path

warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from integrations.test_accelerate import CLASSES, ROWS, Accelerator, DataLoader, Learn2Mix, TensorDataset
from l2m_fast import Sampler

accelerator = Accelerator(cpu=True)
options = {"mixing": Learn2Mix(0.5), "seed": 2, "update_every": 3, "lookahead": 2, "group": True}
sampler = Sampler(CLASSES, 6, **options)
data = accelerator.prepare(DataLoader(TensorDataset(ROWS), batch_size=6, sampler=sampler))
rows = []
for _ in range(3):
    for (batch,) in data:
        sampler.record(CLASSES[batch] + 1 + batch % 8 / 8, rows=batch)
        rows.append(batch.tolist())
(Path(sys.argv[2]) / f"{os.environ['RANK']}.json").write_text(json.dumps(rows))
"""


def test_accelerate_deals_the_batches_of_a_flat_sampler_to_their_ranks(tmp_path: Path) -> None:
    expected, _ = bare_loop(3, batch_size=12, update_every=3, lookahead=2)
    check_global_batches(torchrun(PREPARED, tmp_path), tmp_path, expected)


PROGRAM = """
import json, os, sys, warnings
from pathlib import Path

warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from integrations.test_accelerate import Accelerator, make, train

folder, kind = Path(sys.argv[2]), sys.argv[3]
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
data, run = make(kind, batch_size=6, update_every=3, group=True)
rows, _ = train(accelerator, data, run, 3, (7, folder / "saved"))
data, run = make(kind, batch_size=6, update_every=3, group=True)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
accelerator.register_for_checkpointing(run)
accelerator.load_state(str(folder / "saved"))
resumed = []
for (batch,) in data:
    run.record((batch % 3 + 1).double())
    resumed.append(batch.tolist())
assert resumed == rows[7:10]
(folder / f"{os.environ['RANK']}.json").write_text(json.dumps(rows))
"""


@pytest.mark.parametrize("kind", ["Loader", "BatchSampler"])
def test_two_processes_share_global_batches(tmp_path: Path, kind: str) -> None:
    expected, _ = bare_loop(3, batch_size=12, update_every=3)
    check_global_batches(torchrun(PROGRAM, tmp_path, kind), tmp_path, expected)
