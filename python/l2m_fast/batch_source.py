"""`BatchSource`: the arguments of a loader, checked and converted for the core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from l2m_fast import _core
from l2m_fast._checks import check_choice, checked_bool, checked_int, shortened
from l2m_fast.arguments import can_pin, cuda_device, default_prefetch, row_ids, torch_from_dlpack, was_forked
from l2m_fast.data.fields import fields_of, with_included
from l2m_fast.data.labels import class_ids
from l2m_fast.distributed import warn_about_ranks
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
    """Everything that determines the batches and stays constant during a run; only the proportions change.

    Attributes:
        fields: Fields of the data.
        build: Function that builds a batch from the list of its arrays and its extra entries.
        include: Names of the extra entries of a batch.
        format: Format of the batches.
        index: Rows of each class.
        batch_size: Number of rows per batch on this rank.
        rank: Rank of this process.
        world_size: Number of ranks.
        listed_ranks: Number of ranks whose rows each batch lists one after the other; then, there is one rank.
        shuffle: Whether rows are drawn in random order.
        grouped: Whether the rows of a batch stay grouped by class.
        drop_last: Whether a short last batch is dropped.
        classless: Whether no classes were given.
        steps_per_epoch: Number of batches per epoch; None: as many as the rows fill.
        total_steps: Number of batches in the whole training; None: unknown.
        update_every: Number of steps per loss window; None: an epoch.
        lookahead: Number of batches that may be taken beyond the one whose losses are recorded.
        prefetch: Number of batches prepared ahead.
        num_threads: Maximum number of threads.
        device: CUDA device of the batches; None: the CPU.
        pin_memory: Whether batches are in pinned memory.
        from_dlpack: Function that converts a DLPack capsule to a tensor; None: batches are NumPy arrays.
    """

    fields: list[Field]
    build: BuildBatch
    include: tuple[str, ...]
    format: Format
    index: _core.ClassIndex
    batch_size: int
    rank: int
    world_size: int
    listed_ranks: int
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
        """Number of rows of a batch across all ranks."""
        return self.batch_size * self.world_size

    @property
    def num_ranks(self) -> int:
        """Number of processes that share the batches, and whose losses are summed."""
        return self.world_size * self.listed_ranks

    @property
    def in_order(self) -> bool:
        """True if rows are delivered in the order of the data, without randomness."""
        return self.classless and not self.shuffle

    def core_loader(self, **kwargs: Any) -> _core.Loader:
        """Return a loader of the core.

        Args:
            **kwargs: Remaining arguments of the core's loader: policy, seed and callbacks.
        """
        core_fields = [field.to_core() for field in self.fields]
        outputs = [field.output(field.batch_dtype) for field in self.fields]
        prefetch = self.prefetch
        destination: DeviceBatches | PinnedBatches | None = None
        if self.device is not None:
            from l2m_fast.data.device import DeviceBatches

            device_batches = DeviceBatches(self.fields, self.device, self.batch_size, self.prefetch)
            core_fields, outputs, destination = device_batches.core_fields, device_batches.outputs, device_batches
            prefetch += device_batches.ahead
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
            described_fields=[field.to_core() for field in self.fields],
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
            listed_ranks=self.listed_ranks,
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
            may_use_openmp=self.format == "torch" and destination is None and not was_forked(),
            **kwargs,
        )


def batch_source(data: object, arguments: dict[str, Any]) -> tuple[BatchSource, list[str] | None]:
    """Check the arguments of a loader; return its batch source, and the class labels if the classes were strings."""
    batch_format: Format = arguments["format"]
    check_choice("format", batch_format, ("torch", "numpy"))
    check_choice("order", arguments["order"], ("shuffled", "grouped"))
    batch_size = checked_int("batch_size", arguments["batch_size"], 1)
    rank, world_size = _checked_rank(arguments["rank"], arguments["world_size"])
    checked_int("batch_size * world_size", batch_size * world_size, 1, 2**31 - 1)
    steps, num_threads = arguments["steps_per_epoch"], arguments["num_threads"]
    num_threads = (
        _core.usable_cpus() if num_threads is None else checked_int("num_threads", num_threads, 0, _MAX_THREADS)
    )
    shuffle, pin_memory = (
        checked_bool("shuffle", arguments["shuffle"]),
        checked_bool("pin_memory", arguments["pin_memory"]),
    )
    from_dlpack = torch_from_dlpack() if batch_format == "torch" else None

    update_every, lookahead = arguments["update_every"], arguments["lookahead"]
    update_every = None if update_every is None else checked_int("update_every", update_every, 1, MAX_COUNT)
    total_steps = arguments["total_steps"]
    include = _checked_include(arguments["include"])

    fields, build = fields_of(data, batch_format)
    device = cuda_device(arguments["device"], {field.array.device for field in fields if field.on_cuda}, batch_format)
    num_rows = fields[0].num_rows
    ids, num_classes, labels = class_ids(arguments["classes"], num_rows)
    rows = row_ids(arguments["rows"], num_rows)
    pin_memory = device is None and can_pin(pin_memory, batch_format)
    prefetch = arguments["prefetch"]
    if prefetch is None:
        on_host = device is None and not pin_memory
        prefetch = default_prefetch(fields, batch_size, num_threads, batch_format, on_host=on_host)
    prefetch = checked_int("prefetch", prefetch, 0, 2**16)
    source = BatchSource(
        fields=fields,
        build=with_included(data, build, len(fields), include),
        include=include,
        format=batch_format,
        index=_core.ClassIndex(ids, num_classes, num_rows, rows, max(num_threads, 1), shuffle),
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        listed_ranks=arguments.get("listed_ranks", 1),
        shuffle=shuffle,
        grouped=arguments["order"] == "grouped",
        drop_last=checked_bool("drop_last", arguments["drop_last"]),
        classless=ids is None,
        steps_per_epoch=None if steps is None else checked_int("steps_per_epoch", steps, 1, MAX_COUNT),
        total_steps=None if total_steps is None else checked_int("total_steps", total_steps, 1, MAX_COUNT),
        update_every=update_every,
        lookahead=checked_int("lookahead", lookahead, 0, 2**16 if update_every is None else min(update_every, 2**16)),
        prefetch=prefetch,
        num_threads=num_threads,
        device=device,
        pin_memory=pin_memory,
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
        warn_about_ranks()
    size = 1 if world_size is None else checked_int("world_size", world_size, 1)
    if rank is None and size > 1:
        msg = f"rank must be an int in [0, {size - 1}] if world_size is given (got None)"
        raise TypeError(msg)
    return 0 if rank is None else checked_int("rank", rank, 0, size - 1), size
