"""A loader in a Trainer of transformers: the rows of a bare loop, losses with their own batches, exact resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from integrations.torchrun import check_global_batches, torchrun
from l2m_fast import Learn2Mix, Loader
from l2m_fast.integrations.transformers import MixingTrainerMixin

N = 60
ROWS = torch.arange(N)
LABELS = ROWS % 7 % 3
DATA = {"x": (ROWS % 8 / 8)[:, None], "row": ROWS, "labels": LABELS}

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers


class Model(torch.nn.Module):
    """Classifier whose losses are a function of the row, because its learning rate is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(1, 3)
        torch.nn.init.constant_(self.linear.bias, 0.0)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0], [2.0], [-3.0]]))
        self.rows: list[list[int]] = []

    def forward(self, x: torch.Tensor, row: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.linear(x)
        if self.training:
            self.rows.append(row.tolist())
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


class MixingTrainer(MixingTrainerMixin, Trainer):
    pass


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    return TrainingArguments(
        **{
            "output_dir": str(folder), "num_train_epochs": 3, "per_device_train_batch_size": 5, "learning_rate": 0.0,
            "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "logging_strategy": "no", **options,
        }
    )  # fmt: skip


def make(**options: Any) -> Loader:
    return Loader(
        DATA,
        **{
            "batch_size": 5, "classes": LABELS, "mixing": Learn2Mix(0.5), "include": ("step",), "seed": 2, **options,
        },
    )  # fmt: skip


def bare_loop(num_epochs: int, **options: Any) -> tuple[list[list[int]], list[list[float]]]:
    """Return the rows and the proportions of the history of a plain loop."""
    loader, model, rows = make(**options), Model(), []
    for _ in range(num_epochs):
        for batch in loader:
            logits = model.linear(batch["x"])
            loader.record(functional.cross_entropy(logits, batch["labels"], reduction="none"), step=batch["step"])
            rows.append(batch["row"].tolist())
    if options.get("update_every") is None:
        loader.update()
    return rows, [record["proportions"].tolist() for record in loader.history]


@pytest.mark.parametrize("accumulate", [1, 5])  # 12 batches per epoch: the last two accumulate alone
@pytest.mark.parametrize("update_every", [None, 6])
def test_batches_and_mix_are_those_of_a_bare_loop(tmp_path: Path, update_every: int | None, accumulate: int) -> None:
    options = {"update_every": update_every, "lookahead": accumulate - 1}
    loader, model = make(**options), Model()
    evaluated = [{"x": DATA["x"][i], "row": ROWS[i], "labels": LABELS[i]} for i in range(N)]
    trainer = MixingTrainer(
        model,
        arguments(tmp_path, gradient_accumulation_steps=accumulate, eval_strategy="steps", eval_steps=2),
        eval_dataset=evaluated,
        loader=loader,
    )
    result = trainer.train()
    assert result.global_step == 3 * -(-12 // accumulate)
    rows, proportions = bare_loop(3, **options)
    assert model.rows == rows
    assert [record["proportions"].tolist() for record in loader.history] == proportions


@pytest.mark.parametrize("accumulate", [1, 5])
@pytest.mark.parametrize("update_every", [None, 6])
def test_a_checkpoint_resumes_the_run(tmp_path: Path, update_every: int | None, accumulate: int) -> None:
    options = {"update_every": update_every, "lookahead": accumulate - 1}
    common: dict[str, Any] = {"gradient_accumulation_steps": accumulate, "save_strategy": "steps", "save_steps": 1}
    model = Model()
    MixingTrainer(model, arguments(tmp_path, **common), loader=make(**options)).train()
    per_epoch = -(-12 // accumulate)
    for saved in (1, per_epoch - 1, per_epoch, per_epoch + 2):
        trained = saved // per_epoch * 12 + saved % per_epoch * accumulate
        resumed = Model()
        trainer = MixingTrainer(
            resumed, arguments(tmp_path, gradient_accumulation_steps=accumulate), loader=make(**options)
        )
        result = trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{saved}"))
        assert resumed.rows == model.rows[trained:]
        assert result.global_step == 3 * per_epoch
        assert trainer.state.epoch == 3


def test_the_last_checkpoint_is_found(tmp_path: Path) -> None:
    common: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "max_steps": 9}
    MixingTrainer(Model(), arguments(tmp_path, **common), loader=make()).train()
    resumed = Model()
    MixingTrainer(resumed, arguments(tmp_path, **{**common, "max_steps": 14}), loader=make()).train(True)
    assert resumed.rows == bare_loop(2)[0][9:14]  # the Trainer also saves at the end


def test_a_checkpoint_of_another_trainer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(
        FileNotFoundError, match="resume_from_checkpoint must be a checkpoint of a Trainer with this mixin"
    ):
        MixingTrainer(Model(), arguments(tmp_path), loader=make()).train(str(tmp_path / "checkpoint-1"))


def test_a_resume_that_does_not_fit_is_refused_and_leaves_the_trainer_usable(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "gradient_accumulation_steps": 5,
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 2,
    }
    MixingTrainer(Model(), arguments(tmp_path, **options), loader=make(lookahead=4)).train()
    model, checkpoint = Model(), str(tmp_path / "checkpoint-1")
    other = MixingTrainer(model, arguments(tmp_path, gradient_accumulation_steps=2), loader=make(lookahead=4))
    with pytest.raises(
        ValueError, match=r"gradient_accumulation_steps must be that of the checkpoint, 5, .* \(got 2\)"
    ):
        other.train(checkpoint)
    ignoring = arguments(tmp_path, gradient_accumulation_steps=5, ignore_data_skip=True)
    with pytest.raises(ValueError, match="ignore_data_skip must be False"):
        MixingTrainer(Model(), ignoring, loader=make(lookahead=4)).train(checkpoint)
    (tmp_path / "checkpoint-1" / "trainer_state.json").unlink()
    trainer = MixingTrainer(model, arguments(tmp_path, gradient_accumulation_steps=5), loader=make(lookahead=4))
    with pytest.raises(FileNotFoundError):
        trainer.train(checkpoint)
    trainer.train()
    assert len(model.rows) == 12 - 5 + 24  # the loader was restored, and the epoch of the Trainer is shorter


def test_training_that_ends_within_an_epoch_resumes_there(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_train_epochs": 1.5, "save_strategy": "epoch"}
    MixingTrainer(Model(), arguments(tmp_path, **options), loader=make()).train()
    resumed = Model()
    MixingTrainer(resumed, arguments(tmp_path), loader=make()).train(str(tmp_path / "checkpoint-18"))
    assert resumed.rows == bare_loop(3)[0][18:]


def test_losses_of_other_models_are_given_by_an_override(tmp_path: Path) -> None:
    class Sequences(Model):
        def forward(self, x: torch.Tensor, row: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = super().forward(x, row, labels)
            return {**outputs, "logits": outputs["logits"][:, None]}

    with pytest.raises(
        ValueError, match=r"sample_losses\(\) must be overridden .* \(got logits torch.float32 \[5, 1, 3\], "
    ):
        MixingTrainer(Sequences(), arguments(tmp_path), loader=make()).train()

    class SequenceTrainer(MixingTrainer):
        def sample_losses(self, outputs: Any, labels: Any) -> torch.Tensor:
            return super().sample_losses({"logits": outputs["logits"][:, 0]}, labels)

    loader = make()
    SequenceTrainer(Sequences(), arguments(tmp_path), loader=loader).train()
    assert [record["proportions"].tolist() for record in loader.history] == bare_loop(3)[1]


@pytest.mark.parametrize(
    ("loader", "options", "error", "message"),
    [
        ([1, 2], {}, TypeError, r"loader must be a Loader \(got list\)"),
        (lambda: make(include=()), {}, ValueError, r'a Loader of a dict with include=\("step",\)'),
        (lambda: Loader(ROWS, batch_size=5, include=("step",)), {}, ValueError, "a Loader of a dict with"),
        (
            make,
            {"gradient_accumulation_steps": 4},
            ValueError,
            r"lookahead .* gradient_accumulation_steps - 1 = 3, .*got 0",
        ),
        (
            lambda: make(rank=0, world_size=2, all_reduce=lambda sums: sums),
            {},
            ValueError,
            "with group=True for the 1 proc",
        ),
    ],
)
def test_a_wrong_setting_is_named(
    tmp_path: Path, loader: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        MixingTrainer(Model(), arguments(tmp_path, **options), loader=loader() if callable(loader) else loader)


PROGRAM = """
import json, os, sys, warnings
from pathlib import Path

warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from integrations.test_transformers import Model, MixingTrainer, arguments, make

folder = Path(sys.argv[2])
common = {"gradient_accumulation_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 12}


def fit(model, *checkpoint):
    args = arguments(folder, **common, ddp_backend="gloo")
    loader = make(batch_size=6, update_every=3, lookahead=1, group=True)
    MixingTrainer(model, args, loader=loader).train(*checkpoint)


model, resumed = Model(), Model()
fit(model)
fit(resumed, str(folder / "checkpoint-4"))
assert resumed.rows == model.rows[5 + 2 :]  # an epoch of 5 batches is 3 updates
(folder / f"{os.environ['RANK']}.json").write_text(json.dumps(model.rows))
"""


def test_two_processes_share_global_batches(tmp_path: Path) -> None:
    expected, _ = bare_loop(4, batch_size=12, update_every=3, lookahead=1)
    check_global_batches(torchrun(PROGRAM, tmp_path), tmp_path, expected)
