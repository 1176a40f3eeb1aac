"""`MixingCallback`: a loader or sampler whose mix follows the losses in a Lightning `Trainer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from l2m_fast._checks import shortened
from l2m_fast.integrations import run_of

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytorch_lightning import LightningModule, Trainer

    from l2m_fast.loader import Loader
    from l2m_fast.samplers import BatchSampler


class MixingCallback(Callback):
    """Callback that records the losses of every training batch, saves the state of the loader, and logs the mix.

    The train dataloader is a `Loader`, or a DataLoader with a `BatchSampler` or `Sampler`. Return per-sample losses from
    `training_step`::

        def training_step(self, batch, batch_idx):
            losses = cross_entropy(self(batch[0]), batch[1], reduction="none")
            return {"loss": losses.mean(), "losses": losses}

    A checkpoint of the Trainer then contains the state of the loader; `fit(ckpt_path=...)` resumes after the last batch.
    Validation records nothing. Put it before callbacks that save checkpoints in `on_train_batch_end`, except
    ModelCheckpoint, which the Trainer calls last.

    On several processes, create the loader in `train_dataloader()`, where torch.distributed is initialized, and pass
    `group=True`. Create the Trainer with `use_distributed_sampler=False` if there is a sampler.

    Args:
        key: Key of the per-sample losses in what `training_step` returns.
        log: If True, log `proportion/CLASS` and `class_loss/CLASS` at the end of each epoch.
    """

    def __init__(self, key: str = "losses", *, log: bool = True) -> None:
        self._key, self._log = key, log
        self._run: Loader | BatchSampler | None = None
        self._restored: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the loader, and resume it."""
        trainer.fit_loop.setup_data()  # reloads the train dataloader if that is due
        self._run = run_of(trainer.train_dataloader)
        if self._restored is not None:
            self._run.load_state_dict(self._restored)
            self._restored = None
            # The Trainer has created an iterator already, whose workers, if any, have drawn batches.
            iter(trainer.fit_loop._data_fetcher)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the state of the last loader if the Trainer has reloaded the train dataloader."""
        run = run_of(trainer.train_dataloader)
        if run is not self._run:
            run.load_state_dict(self._mixing_run.state_dict())
            self._run = run
            iter(trainer.fit_loop._data_fetcher)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the losses, and end the epoch with its last batch, because a Trainer leaves the iterator unfinished."""
        if not isinstance(outputs, dict) or self._key not in outputs:
            got = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
            msg = (
                f'training_step must return a dict with "loss" and the loss of each sample, "{self._key}" '
                f"(got {shortened(got)})"
            )
            raise TypeError(msg)
        self._mixing_run.record(outputs[self._key])
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._mixing_run.end_epoch()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the mix."""
        if not self._log:
            return
        run = self._mixing_run
        labels = run.class_labels or range(run.num_classes)
        pl_module.log_dict({f"proportion/{label}": p for label, p in zip(labels, run.proportions, strict=True)})
        pl_module.log_dict({f"class_loss/{label}": x for label, x in zip(labels, run.class_losses, strict=True)})

    @property
    def _mixing_run(self) -> Loader | BatchSampler:
        assert self._run is not None
        return self._run

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loader. On several processes, all of them must call this."""
        if self._restored is not None:  # not used yet
            return self._restored
        return {} if self._run is None else self._run.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the state when training begins."""
        self._restored = dict(state_dict) or None
