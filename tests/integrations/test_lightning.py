"""A loader in a Lightning Trainer: the rows of a bare loop, losses with their own batches, and exact resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from integrations.torchrun import check_global_batches, torchrun
from l2m_fast import BatchSampler, Learn2Mix, Loader, Sampler
from l2m_fast.integrations.lightning import MixingCallback

N = 60
ROWS = torch.arange(N)
CLASSES = ROWS % 7 % 3
OPTIONS: dict[str, Any] = {"batch_size": 5, "classes": CLASSES, "mixing": Learn2Mix(0.5), "seed": 2}

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning


def losses_of(rows: torch.Tensor) -> torch.Tensor:
    return CLASSES[rows] + 1 + rows % 8 / 8


class Module(pl.LightningModule):
    """Module whose losses are a function of the row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.rows: list[list[int]] = []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> Any:  # noqa: ARG002
        self.rows.append(batch[0].tolist())
        losses = losses_of(batch[0]) * self.weight
        return {"loss": losses.mean(), "losses": losses}

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0)


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        **{
            "max_epochs": 3, "callbacks": [*callbacks], "accelerator": "cpu", "devices": 1, "logger": False,
            "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
            "default_root_dir": folder, "num_sanity_val_steps": 0, **options,
        }
    )  # fmt: skip


def make(kind: str, **options: Any) -> tuple[Any, Any]:
    """Return the train dataloader, and its loader or sampler."""
    arguments = {**OPTIONS, **options}
    if kind == "Loader":
        loader = Loader((ROWS,), **arguments)
        return loader, loader
    if kind == "Sampler":
        sampler = Sampler(**arguments)
        return DataLoader(TensorDataset(ROWS), batch_size=5, sampler=sampler), sampler
    num_workers = 2 if kind == "BatchSampler, workers" else 0
    batch_sampler = BatchSampler(**arguments, lookahead=2 * num_workers)
    return DataLoader(TensorDataset(ROWS), batch_sampler=batch_sampler, num_workers=num_workers), batch_sampler


def bare_loop(num_epochs: int, **options: Any) -> tuple[list[list[int]], list[list[float]]]:
    """Return the rows and the proportions of the history of a plain loop."""
    loader = Loader((ROWS,), include=("step",), **{**OPTIONS, **options})
    rows = []
    for _ in range(num_epochs):
        for batch, step in loader:
            loader.record(losses_of(batch), step=step)
            rows.append(batch.tolist())
    if options.get("update_every") is None:
        loader.update()
    return rows, [record["proportions"].tolist() for record in loader.history]


KINDS = ["Loader", "BatchSampler", "BatchSampler, workers", "Sampler"]


@pytest.mark.parametrize("update_every", [None, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_mix_are_those_of_a_bare_loop(tmp_path: Path, kind: str, update_every: int | None) -> None:
    data, run = make(kind, update_every=update_every)
    module = Module()
    validation = DataLoader(TensorDataset(ROWS), batch_size=7)
    trainer(tmp_path, MixingCallback()).fit(module, data, validation)
    lookahead = 4 if "workers" in kind else 0
    rows, proportions = bare_loop(3, update_every=update_every, lookahead=lookahead)
    assert module.rows == rows
    assert [record["proportions"].tolist() for record in run.history] == proportions


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saved_at", [4, 12, 16])
def test_a_checkpoint_resumes_the_run(tmp_path: Path, kind: str, saved_at: int, accumulate: int) -> None:
    update_every = 6

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if len(module.rows) == saved_at:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")

    data, _ = make(kind, update_every=update_every)
    module = Module()
    trainer(tmp_path, MixingCallback(), Save(), accumulate_grad_batches=accumulate).fit(module, data)
    lookahead = 4 if "workers" in kind else 0
    assert module.rows == bare_loop(3, update_every=update_every, lookahead=lookahead)[0]

    data, _ = make(kind, update_every=update_every)
    resumed = Module()
    trainer(tmp_path, MixingCallback(), accumulate_grad_batches=accumulate).fit(
        resumed, data, ckpt_path=tmp_path / "saved.ckpt", weights_only=True
    )
    assert resumed.rows == module.rows[saved_at:]


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_an_epoch_resumes_with_the_next(tmp_path: Path, kind: str) -> None:
    data, _ = make(kind)
    module, saver = Module(), pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    trainer(tmp_path, saver, MixingCallback(), enable_checkpointing=True).fit(module, data)
    data, _ = make(kind)
    resumed = Module()
    trainer(tmp_path, MixingCallback()).fit(resumed, data, ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert resumed.rows == module.rows[len(module.rows) // 3 :]


@pytest.mark.parametrize("update_every", [None, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_at_the_validation_after_an_epoch_resumes_with_the_next(
    tmp_path: Path, kind: str, update_every: int | None
) -> None:
    validation = DataLoader(TensorDataset(ROWS), batch_size=7)
    data, _ = make(kind, update_every=update_every)
    module = Module()
    saver = pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}", save_on_train_epoch_end=False)
    trainer(tmp_path, saver, MixingCallback(), enable_checkpointing=True).fit(module, data, validation)
    data, run = make(kind, update_every=update_every)
    resumed = Module()
    trainer(tmp_path, MixingCallback()).fit(
        resumed, data, validation, ckpt_path=tmp_path / "step=12.ckpt", weights_only=True
    )
    assert resumed.rows == module.rows[12:]
    assert run.total_step == 36


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_fit_goes_on(tmp_path: Path, kind: str) -> None:
    data, run = make(kind, update_every=5)
    module, fitted = Module(), trainer(tmp_path, MixingCallback(), max_epochs=1)
    fitted.fit(module, data)
    fitted.fit_loop.max_epochs = 3
    fitted.fit(module, data)
    assert module.rows == bare_loop(3, update_every=5, lookahead=4 if "workers" in kind else 0)[0]
    assert run.total_step == 36


@pytest.mark.parametrize("update_every", [None, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_epochs_that_are_cut_short_resume(tmp_path: Path, kind: str, update_every: int | None) -> None:
    data, _ = make(kind, update_every=update_every)
    module, saver = Module(), pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    trainer(tmp_path, saver, MixingCallback(), enable_checkpointing=True, limit_train_batches=5).fit(module, data)
    assert len(module.rows) == 15
    data, _ = make(kind, update_every=update_every)
    resumed = Module()
    trainer(tmp_path, MixingCallback(), limit_train_batches=5).fit(
        resumed, data, ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True
    )
    assert resumed.rows == module.rows[5:]


@pytest.mark.parametrize("kind", KINDS)
def test_training_that_stops_within_an_epoch_resumes_there(tmp_path: Path, kind: str) -> None:
    data, _ = make(kind, update_every=6)
    module, fitted = Module(), trainer(tmp_path, MixingCallback(), max_steps=17)
    fitted.fit(module, data)
    fitted.save_checkpoint(tmp_path / "stopped.ckpt")
    data, _ = make(kind, update_every=6)
    resumed = Module()
    trainer(tmp_path, MixingCallback(), max_epochs=-1, max_steps=36).fit(
        resumed, data, ckpt_path=tmp_path / "stopped.ckpt", weights_only=True
    )
    assert module.rows + resumed.rows == bare_loop(3, update_every=6, lookahead=4 if "workers" in kind else 0)[0]


@pytest.mark.parametrize("reload", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_at_the_last_batch_of_an_epoch_resumes_with_the_next(
    tmp_path: Path, kind: str, reload: int
) -> None:
    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return make(kind, update_every=6)[0]

    options: dict[str, Any] = {"limit_train_batches": 7, "reload_dataloaders_every_n_epochs": reload}
    module = Module()
    saver = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer(tmp_path, saver, MixingCallback(), enable_checkpointing=True, **options).fit(module, datamodule=Data())
    assert len(module.rows) == 21
    for saved_at in (6, 7, 8, 14):
        resumed = Module()
        trainer(tmp_path, MixingCallback(), **options).fit(
            resumed, datamodule=Data(), ckpt_path=tmp_path / f"step={saved_at}.ckpt", weights_only=True
        )
        assert resumed.rows == module.rows[saved_at:], saved_at


@pytest.mark.parametrize("kind", KINDS)
def test_dataloaders_that_are_reloaded_go_on(tmp_path: Path, kind: str) -> None:
    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return make(kind, update_every=5)[0]

    module = Module()
    trainer(tmp_path, MixingCallback(), reload_dataloaders_every_n_epochs=1).fit(module, datamodule=Data())
    assert module.rows == bare_loop(3, update_every=5, lookahead=4 if "workers" in kind else 0)[0]


def test_a_restored_state_is_kept_until_it_is_used(tmp_path: Path) -> None:
    module, fitted = Module(), trainer(tmp_path, MixingCallback())
    fitted.fit(module, make("Loader")[0])
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    again = trainer(tmp_path, MixingCallback(), max_epochs=3)
    again.fit(Module(), make("Loader")[0], ckpt_path=tmp_path / "last.ckpt", weights_only=True)  # nothing to do
    again.save_checkpoint(tmp_path / "again.ckpt")
    resumed = Module()
    trainer(tmp_path, MixingCallback(), max_epochs=4).fit(
        resumed, make("Loader")[0], ckpt_path=tmp_path / "again.ckpt", weights_only=True
    )
    assert resumed.rows == bare_loop(4)[0][36:]


def test_the_mix_is_logged(tmp_path: Path) -> None:
    data, run = make("Loader")
    fitted = trainer(tmp_path, MixingCallback())
    fitted.fit(Module(), data)
    for k in range(3):
        assert float(fitted.logged_metrics[f"proportion/{k}"]) == pytest.approx(run.proportions[k])
        assert float(fitted.logged_metrics[f"class_loss/{k}"]) == pytest.approx(run.class_losses[k])


@pytest.mark.parametrize("output", [None, "loss alone", {"loss": torch.ones((), requires_grad=True)}], ids=str)
def test_losses_that_are_missing_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Any) -> None:
    module = Module()
    if output == "loss alone":
        output = module.weight * 1
    monkeypatch.setattr(module, "training_step", lambda *_: output)
    with pytest.raises(TypeError, match=r'training_step must return a dict with "loss" and .*, "losses" \(got'):
        trainer(tmp_path, MixingCallback()).fit(module, make("Loader")[0])


def test_another_dataloader_is_an_error(tmp_path: Path) -> None:
    data = DataLoader(TensorDataset(ROWS), batch_size=5)
    with pytest.raises(TypeError, match=r"training data must be a Loader, or .* \(got DataLoader with a BatchSampler"):
        trainer(tmp_path, MixingCallback()).fit(Module(), data)


# ---- several processes

PROGRAM = """
import json, os, sys, warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(sys.argv[1])))
from integrations.test_lightning import CLASSES, ROWS, Module, trainer
from l2m_fast import BatchSampler, Learn2Mix, Loader
from l2m_fast.integrations.lightning import MixingCallback

warnings.simplefilter("ignore")
folder, kind, distributed = Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "True"


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        common = {"classes": CLASSES, "mixing": Learn2Mix(0.5), "update_every": 3, "seed": 2, "group": True}
        if kind == "Loader":
            return Loader((ROWS,), batch_size=6, **common)
        return DataLoader(TensorDataset(ROWS), batch_sampler=BatchSampler(batch_size=6, **common))


class Save(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if len(module.rows) == 7:
            trainer.save_checkpoint(folder / "saved.ckpt")


def fit(module, *callbacks, **options):
    strategy = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": distributed}
    trainer(folder, MixingCallback(), *callbacks, **strategy).fit(module, datamodule=Data(), **options)


module, resumed = Module(), Module()
fit(module, Save())
fit(resumed, ckpt_path=folder / "saved.ckpt", weights_only=True)
assert resumed.rows == module.rows[7:]
(folder / f"{os.environ['RANK']}.json").write_text(json.dumps(module.rows))
"""


@pytest.mark.parametrize(("kind", "distributed"), [("Loader", True), ("BatchSampler", False)])
def test_two_processes_share_global_batches(tmp_path: Path, kind: str, distributed: bool) -> None:
    expected, _ = bare_loop(3, batch_size=12, update_every=3)
    check_global_batches(torchrun(PROGRAM, tmp_path, kind, str(distributed)), tmp_path, expected)


def test_a_sampler_that_lightning_replaces_names_the_setting(tmp_path: Path) -> None:
    done = torchrun(PROGRAM, tmp_path, "BatchSampler", "True")
    assert done.returncode != 0
    assert "use_distributed_sampler=False" in done.stderr
