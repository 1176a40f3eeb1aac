"""`AcceleratedLoader`: a loader or sampler whose mix follows the losses in a training loop of Accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelerate.data_loader import DataLoaderStateMixin
from accelerate.state import GradientState
from accelerate.utils import send_to_device

from l2m_fast.integrations import run_of
from l2m_fast.loader import Loader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator
    from torch.utils.data import DataLoader


class AcceleratedLoader(DataLoaderStateMixin):
    """Batches of a loader on the device of an `Accelerator`, which it tells when an epoch ends.

    Without it, the gradients accumulated at the end of an epoch would not be applied. Use it in place of
    `accelerator.prepare()`, which would deal the batches of a sampler to the processes a second time::

        loader = Loader((x, y), batch_size=64, classes=y, mixing=Learn2Mix(), group=True)
        batches = AcceleratedLoader(loader, accelerator)
        for inputs, targets in batches:
            with accelerator.accumulate(model):
                losses = cross_entropy(model(inputs), targets, reduction="none")
                loader.record(losses)
                ...

    The state of the loader is part of `accelerator.save_state()` and `load_state()`.

    Args:
        data: A `Loader`, or a DataLoader with a `BatchSampler`, created with `group=True` if there are several
            processes; on one process, also a DataLoader with a `Sampler`.
        accelerator: Accelerator of the training.

    Raises:
        TypeError: `data` is neither.
        ValueError: The loader is not one of as many ranks as there are processes.
    """

    def __init__(self, data: Loader | DataLoader[Any], accelerator: Accelerator) -> None:
        self._data, self._run, self._device = data, run_of(data), accelerator.device
        world_size = self._run._source.world_size
        if world_size != accelerator.num_processes:
            msg = (
                f"the loader must be created with group=True for {accelerator.num_processes} processes (got "
                f"world_size={world_size})"
            )
            raise ValueError(msg)
        self.gradient_state = GradientState()
        if not any(registered is self._run for registered in accelerator._custom_objects):
            accelerator.register_for_checkpointing(self._run)

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self._data)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the next epoch, or of the rest of an epoch that was restored."""
        self.begin()
        self.remainder = 0  # every batch is full
        try:
            for num_yielded, batch in enumerate(self._data, 1):
                if isinstance(self._run, Loader):
                    self.end_of_dataloader = self._run.step == len(self._run)
                else:
                    self.end_of_dataloader = num_yielded == self._run.num_batches_of_iteration
                yield send_to_device(batch, self._device, non_blocking=True)
        finally:
            self.end()
