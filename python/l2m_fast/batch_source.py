"""What a loader's batches are made of and how: its arguments, checked and converted to what the core takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from l2m_fast import _core
from l2m_fast._checks import choice, flag, shortened, whole
from l2m_fast.arguments import can_pin, cuda_device, row_ids, torch_from_dlpack
from l2m_fast.data.fields import fields_of, with_included
from l2m_fast.data.labels import class_ids
from l2m_fast.distributed import warn_of_ranks
from l2m_fast.losses.sums import MAX_COUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from l2m_fast.data.device import DeviceBatches, PinnedBatches
    from l2m_fast.data.fields import BuildBatch, Field, Format

_MAX_THREADS = 1024
_INCLUDABLE = ("rows", "classes", "step")


@dataclass(frozen=True)
class BatchSource:
    """What batches are made of and how: everything that stays the same over a run but the proportions.

    Attributes:
        fields: Of the data.
        build: Makes a batch of the list of its arrays and of what is included.
        include: What a batch has besides its fields.
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
        total_steps: Batches of the whole training; None: unknown.
        update_every: Steps of a window of losses; None: an epoch.
        lookahead: Batches that may have been taken beyond the one whose losses are recorded.
        prefetch: Batches prepared ahead.
        num_threads: Threads used at most.
        device: CUDA device of the batches; None: they are on the CPU.
        pin_memory: Batches are in pinned memory.
        from_dlpack: Makes a tensor of a DLPack capsule; None: batches are numpy arrays.
    """

    fields: list[Field]
    build: BuildBatch
    include: tuple[str, ...]
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
    total_steps: int | None
    update_every: int | None
    lookahead: int
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

    def loader(self, **how: Any) -> _core.Loader:
        """Return the core's loader.

        Args:
            **how: Its arguments about mixing and seed.
        """
        core_fields = [field.in_core() for field in self.fields]
        outputs = [field.output(field.batch_dtype) for field in self.fields]
        prefetch = self.prefetch
        destination: DeviceBatches | PinnedBatches | None = None
        if self.device is not None:
            from l2m_fast.data.device import DeviceBatches

            to_device = DeviceBatches(self.fields, self.device, self.batch_size, self.prefetch)
            core_fields, outputs, destination = to_device.core_fields, to_device.outputs, to_device
            prefetch += to_device.ahead
        elif self.pin_memory:
            import torch

            from l2m_fast.data.device import PinnedBatches

            destination = PinnedBatches(
                [
                    (field.row_shape, getattr(torch, field.batch_dtype or "", field.torch_dtype))
                    for field in self.fields
                ],
                self.batch_size,
            )
        from_numpy = None
        if self.format == "torch":
            import torch

            from_numpy = torch.from_numpy
        return _core.Loader(
            index=self.index,
            fields=core_fields,
            owner=(self.fields, self.index),
            watched=[field.watched for field in self.fields],
            outputs=outputs,
            build=self.build,
            from_dlpack=self.from_dlpack,
            from_numpy=from_numpy,
            destination=destination,
            include=list(self.include),
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            has_classes=not self.classless,
            shuffle=self.shuffle,
            grouped=self.grouped,
            drop_last=self.drop_last,
            steps_per_epoch=self.steps_per_epoch,
            total_steps=self.total_steps,
            update_every=self.update_every,
            lookahead=self.lookahead,
            prefetch=prefetch,
            num_threads=self.num_threads,
            **how,
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
            "update_every": self.update_every,
            "lookahead": self.lookahead,
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

    update_every, lookahead = arguments["update_every"], arguments["lookahead"]
    update_every = None if update_every is None else whole("update_every", update_every, 1, MAX_COUNT)
    total_steps = arguments["total_steps"]
    include = _checked_include(arguments["include"])

    fields, build = fields_of(data, batch_format)
    device = cuda_device(arguments["device"], {field.array.device for field in fields if field.on_cuda}, batch_format)
    num_rows = fields[0].num_rows
    ids, num_classes, labels = class_ids(arguments["classes"], num_rows)
    rows = row_ids(arguments["rows"], num_rows)
    source = BatchSource(
        fields=fields,
        build=with_included(data, build, len(fields), include),
        include=include,
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
        total_steps=None if total_steps is None else whole("total_steps", total_steps, 1, MAX_COUNT),
        update_every=update_every,
        lookahead=whole("lookahead", lookahead, 0, 2**16 if update_every is None else min(update_every, 2**16)),
        prefetch=whole("prefetch", arguments["prefetch"], 0, 2**16),
        num_threads=num_threads,
        device=device,
        pin_memory=device is None and can_pin(pin_memory, batch_format),
        from_dlpack=from_dlpack,
    )
    return source, labels


def _checked_include(include: Any) -> tuple[str, ...]:
    is_list = isinstance(include, (tuple, list))
    names = {name for name in include if isinstance(name, str)} if is_list else set()
    if not is_list or len(names) < len(include) or not names <= set(_INCLUDABLE):
        msg = f"include must be a tuple of any of {_INCLUDABLE}, each once (got {shortened(include)})"
        raise (ValueError if is_list else TypeError)(msg)
    return tuple(include)


def _checked_rank(rank: object, world_size: object) -> tuple[int, int]:
    if rank is None and world_size is None:
        warn_of_ranks()
    size = 1 if world_size is None else whole("world_size", world_size, 1)
    if rank is None and size > 1:
        msg = f"rank must be an int in [0, {size - 1}] where world_size is given (got None)"
        raise TypeError(msg)
    return 0 if rank is None else whole("rank", rank, 0, size - 1), size
