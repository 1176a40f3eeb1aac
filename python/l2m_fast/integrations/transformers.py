"""`MixingTrainerMixin`: a `Loader` whose mix follows the losses in a Trainer of Hugging Face transformers."""

from __future__ import annotations

import json
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from l2m_fast._checks import shortened, truncated
from l2m_fast.loader import Loader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import TrainerControl, TrainerState, TrainingArguments

_STATE_NAME = "l2m_fast.json"


class MixingTrainerMixin:
    """Mixin for a Trainer that trains on the batches of a `Loader`, records their losses and saves its state.

    Put it before the Trainer::

        class MyTrainer(MixingTrainerMixin, Trainer):
            pass


        loader = Loader(
            {"input_ids": ids, "labels": labels}, batch_size=32, classes=labels, mixing=Learn2Mix(), include=("step",)
        )
        MyTrainer(model, args, loader=loader).train()

    The loss is that of the Trainer. The losses that the mix follows are those of `sample_losses()`; override it unless
    the model is a classifier. Evaluation records nothing. A checkpoint contains the state of the loader, and
    `train(resume_from_checkpoint=...)` resumes after its last batch.

    On several processes, create the loader after the `TrainingArguments`, which initialize torch.distributed, with
    `group=True`.

    Args:
        *args: Arguments of the Trainer.
        loader: Loader of a dict, with `include=("step",)`. If the Trainer accumulates gradients over n batches, which it
            takes together, it needs `lookahead >= n - 1`.
        **kwargs: Keyword arguments of the Trainer.
    """

    def __init__(self, *args: Any, loader: Loader, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check(loader, self.args)  # type: ignore[attr-defined]
        self.loader = loader
        self._batches = _Batches(loader)
        self.add_callback(_LoaderCallback(loader))  # type: ignore[attr-defined]

    # ---- methods of a Trainer

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of the loader."""
        return DataLoader(self._batches, batch_size=None)

    def num_examples(self, dataloader: DataLoader[Any]) -> int:
        """Return the number of samples of an epoch."""
        if dataloader.dataset is self._batches:
            return len(self.loader) * self.loader.batch_size
        num: int = super().num_examples(dataloader)  # type: ignore[misc]
        return num

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, from a checkpoint if one is given."""
        self._batches.num_trained = 0
        if resume_from_checkpoint:
            self._resume(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """Return the loss of the Trainer. In training, record the losses of the samples."""
        names = self.label_names  # type: ignore[attr-defined]
        step, labels = inputs.pop("step", None), inputs.get(names[0]) if names else None
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)  # type: ignore[misc]
        if step is not None and torch.is_grad_enabled():
            with torch.no_grad():
                self.loader.record(self.sample_losses(outputs, labels), step=step)
        return (loss, outputs) if return_outputs else loss

    # ---- for subclasses

    def sample_losses(self, outputs: Any, labels: Any) -> torch.Tensor:
        """Return the loss of each sample of a batch, shape `[batch_size]`: the cross entropy of a classifier.

        Args:
            outputs: Outputs of the model.
            labels: Labels of the batch; None if it has none.
        """
        logits = outputs.get("logits") if isinstance(outputs, dict) else None
        if (
            logits is None
            or labels is None
            or logits.ndim != 2
            or labels.shape != logits.shape[:1]
            or labels.is_floating_point()
        ):
            got = [None if x is None else f"{x.dtype} {list(x.shape)}" for x in (logits, labels)]
            msg = (
                "sample_losses() must be overridden unless the model returns a dict with logits [n, C], and labels are "
                f"integers [n] (got logits {got[0]}, labels {got[1]})"
            )
            raise ValueError(msg)
        return functional.cross_entropy(logits.float(), labels, reduction="none")

    # ---- states

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        args = self.args  # type: ignore[attr-defined]
        saved = {
            "loader": self.loader.state_dict(),  # on all processes
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
        }
        if args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"  # type: ignore[attr-defined]
            (folder / _STATE_NAME).write_text(json.dumps(saved))

    def _resume(self, checkpoint: str | bool) -> None:
        args = self.args  # type: ignore[attr-defined]
        if args.ignore_data_skip:
            msg = "ignore_data_skip must be False, because the loader resumes at its next batch by itself (got True)"
            raise ValueError(msg)
        folder: Any = get_last_checkpoint(args.output_dir) if checkpoint is True else checkpoint
        if folder is None:
            return  # the Trainer raises
        file = Path(folder) / _STATE_NAME
        if not file.exists():
            msg = f"resume_from_checkpoint must be a checkpoint of a Trainer with this mixin (got one without {file})"
            raise FileNotFoundError(msg)
        saved = json.loads(file.read_text())
        accumulated = saved["gradient_accumulation_steps"]
        if args.gradient_accumulation_steps != accumulated:
            msg = (
                f"gradient_accumulation_steps must be that of the checkpoint, {accumulated}, or the Trainer resumes at another "
                f"batch (got {args.gradient_accumulation_steps})"
            )
            raise ValueError(msg)
        self.loader.load_state_dict(saved["loader"])
        self._batches.num_trained = self.loader.step % len(self.loader)


class _Batches(IterableDataset[Any]):
    """Batches of a loader, for a DataLoader that passes them on.

    Attributes:
        num_trained: Number of batches of a resumed epoch that the Trainer is going to skip. None stands for each.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self.num_trained = 0

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        num_trained, self.num_trained = self.num_trained, 0
        yield from repeat(None, num_trained)
        yield from self._loader


class _LoaderCallback(TrainerCallback):
    """Callback that ends the epochs of the loader."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End the epoch, because a Trainer counts batches and leaves the iterator unfinished."""
        if self._loader.step == len(self._loader):  # not where training ends within an epoch
            self._loader.end_epoch()


def _check(loader: Any, args: TrainingArguments) -> None:
    """Raise unless a Trainer with these arguments can train on the loader."""
    if not isinstance(loader, Loader):
        msg = f"loader must be a Loader (got {truncated(type(loader).__name__)})"
        raise TypeError(msg)
    source = loader._source
    if not isinstance(loader._data, dict) or "step" not in source.include:
        msg = (
            'loader must be a Loader of a dict with include=("step",), so that losses find their batch (got data of type '
            f"{truncated(type(loader._data).__name__)} and include={shortened(source.include)})"
        )
        raise ValueError(msg)
    if source.world_size != args.world_size or (args.world_size > 1 and loader._group is None):
        msg = (
            f"loader must be created with group=True for the {args.world_size} processes of the Trainer (got "
            f"world_size={source.world_size})"
        )
        raise ValueError(msg)
    ahead = args.gradient_accumulation_steps - 1
    if source.lookahead < ahead:
        msg = (
            f"lookahead of the loader must be at least gradient_accumulation_steps - 1 = {ahead}, because the Trainer "
            f"takes these batches together (got {source.lookahead})"
        )
        raise ValueError(msg)
