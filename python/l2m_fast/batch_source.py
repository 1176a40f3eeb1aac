"""What a loader's batches are made of and how: everything that stays the same over a run but the proportions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from l2m_fast import _core
from l2m_fast._checks import choice, flag, whole
from l2m_fast.arguments import can_pin, cuda_device, row_ids, torch_from_dlpack
from l2m_fast.data.fields import fields_of, normalizing
from l2m_fast.data.labels import class_ids
from l2m_fast.distributed import warn_of_ranks
from l2m_fast.losses.sums import MAX_COUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from l2m_fast.data.fields import Field, Format
    from l2m_fast.mixing import Floats

_MAX_THREADS = 1024


@dataclass(frozen=True)
class BatchSource:
    """Makes prefetchers.

    Attributes:
        fields: Of the data.
        build: Makes a batch of the list of its arrays.
        format: Of the batches.
        index: Rows of each class.
        batch_size: Rows of a batch of this rank.
        rank: Of this process.
        world_size: Number of ranks.
        shuffle: Rows come in random order.
        grouped: Rows of a batch stay grouped by class.
        drop_last: A short last batch is left out.
        classless: There are no classes.
        steps_per_epoch: Given number of batches; None: as many as the rows make.
        prefetch: Batches prepared ahead.
        num_threads: Threads used at most.
        device: CUDA device of the batches; None: they are on the CPU.
        pin_memory: Batches are in pinned memory.
        from_dlpack: Makes a tensor of a DLPack capsule; None: batches are numpy arrays.
    """

    fields: list[Field]
    build: Callable[[list[Any]], Any]
    format: Format
    index: _core.ClassIndex
    batch_size: int
    rank: int
    world_size: int
    shuffle: bool
    grouped: bool
    drop_last: bool
    classless: bool
    steps_per_epoch: int | None
    prefetch: int
    num_threads: int
    device: torch.device | None
    pin_memory: bool
    from_dlpack: Callable[[object], object] | None

    @property
    def global_batch(self) -> int:
        """Rows of a batch over all ranks."""
        return self.batch_size * self.world_size

    @property
    def in_order(self) -> bool:
        """True where rows come in the order of the data, which nothing random decides."""
        return self.classless and not self.shuffle

    def epoch_shape(self) -> tuple[int, int]:
        """Return the steps of an epoch, and the rows of its last batch over all ranks.

        Raises:
            ValueError: The rows make no batch.
        """
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch, self.global_batch
        full, short = divmod(self.index.num_rows, self.global_batch)
        if not self.classless:
            return max(full, 1), self.global_batch
        # In order every row is delivered; in training a rest smaller than world_size is dropped.
        if short >= (1 if self.in_order else self.world_size) and not self.drop_last:
            return full + 1, short
        if full == 0:
            need = "batch_size * world_size must be at most" if self.drop_last else "world_size must be at most"
            msg = f"{need} the number of rows, {self.index.num_rows} (got {self.batch_size} * {self.world_size})"
            raise ValueError(msg)
        return full, self.global_batch

    def prefetcher(self, seed: int, proportions: Floats) -> _core.Prefetcher:
        """Return what plans and fills batches, from the beginning of training on."""
        memory: list[tuple[int, int, int] | None] = [field.memory for field in self.fields]
        outputs = [field.output for field in self.fields]
        prefetch, lend, transfer = self.prefetch, None, None
        if self.device is not None:
            from l2m_fast.data.device import DeviceBatches

            transfer = DeviceBatches(self.fields, self.device, self.batch_size, self.prefetch)
            memory, outputs, lend = transfer.memory, transfer.outputs, transfer.lend
            prefetch += transfer.ahead
        elif self.pin_memory:
            from l2m_fast.data.device import pinned_memory

            lend = pinned_memory([(field.row_shape, field.torch_dtype) for field in self.fields], self.batch_size)
        return _core.Prefetcher(
            self.index,
            memory,
            self.fields,
            [field.watched for field in self.fields],
            outputs,
            self.from_dlpack,
            lend,
            transfer,
            1 if transfer is None else transfer.ahead,
            1 if transfer is None else transfer.refill,
            proportions,
            seed=seed,
            global_batch=self.global_batch,
            rank=self.rank,
            world_size=self.world_size,
            shuffle=self.shuffle,
            grouped=self.grouped,
            epoch_is_pass=self.classless and self.steps_per_epoch is None,
            in_order=self.in_order,
            prefetch=prefetch,
            num_threads=self.num_threads,
        )

    def describe(self) -> dict[str, Any]:
        """Return the fingerprint entries for saved states."""
        return {
            "rows": self.index.num_rows,
            "num_classes": len(self.index.class_sizes),
            "classes": f"{self.index.fingerprint(max(self.num_threads, 1)):016x}",
            "fields": [field.describe() for field in self.fields],
            "global_batch": self.global_batch,
            "order": "grouped" if self.grouped else "shuffled",
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "steps_per_epoch": self.steps_per_epoch,
        }


def batch_source(data: object, arguments: dict[str, Any]) -> tuple[BatchSource, list[str] | None]:
    """Return what batches are made of, checked, and the labels of the classes, where these were strings."""
    batch_format: Format = arguments["format"]
    choice("format", batch_format, ("torch", "numpy"))
    choice("order", arguments["order"], ("shuffled", "grouped"))
    batch_size = whole("batch_size", arguments["batch_size"], 1)
    rank, world_size = _checked_rank(arguments["rank"], arguments["world_size"])
    whole("batch_size * world_size", batch_size * world_size, 1, 2**31 - 1)
    steps, num_threads = arguments["steps_per_epoch"], arguments["num_threads"]
    num_threads = _core.usable_cpus() if num_threads is None else whole("num_threads", num_threads, 0, _MAX_THREADS)
    shuffle, pin_memory = flag("shuffle", arguments["shuffle"]), flag("pin_memory", arguments["pin_memory"])
    from_dlpack = torch_from_dlpack() if batch_format == "torch" else None

    fields, build = fields_of(data, batch_format)
    device = cuda_device(arguments["device"], {field.array.device for field in fields if field.on_cuda}, batch_format)
    num_rows = fields[0].num_rows
    ids, num_classes, labels = class_ids(arguments["classes"], num_rows)
    rows = row_ids(arguments["rows"], num_rows)
    source = BatchSource(
        fields=fields,
        build=build if device is not None else normalizing(fields, build),
        format=batch_format,
        index=_core.ClassIndex(
            ids, num_classes, num_rows, rows, max(num_threads, 1), as_given=ids is None and not shuffle
        ),
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        shuffle=shuffle,
        grouped=arguments["order"] == "grouped",
        drop_last=flag("drop_last", arguments["drop_last"]),
        classless=ids is None,
        steps_per_epoch=None if steps is None else whole("steps_per_epoch", steps, 1, MAX_COUNT),
        prefetch=whole("prefetch", arguments["prefetch"], 0, 2**16),
        num_threads=num_threads,
        device=device,
        pin_memory=device is None and can_pin(pin_memory, batch_format),
        from_dlpack=from_dlpack,
    )
    return source, labels


def _checked_rank(rank: object, world_size: object) -> tuple[int, int]:
    if rank is None and world_size is None:
        warn_of_ranks()
    size = 1 if world_size is None else whole("world_size", world_size, 1)
    if rank is None and size > 1:
        msg = f"rank must be an int in [0, {size - 1}] where world_size is given (got None)"
        raise TypeError(msg)
    return 0 if rank is None else whole("rank", rank, 0, size - 1), size
