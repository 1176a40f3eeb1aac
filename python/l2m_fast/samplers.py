"""`BatchSampler` and `Sampler`: the batches of a `Loader` as row ids, for torch's DataLoader and any Dataset."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from l2m_fast._checks import checked_int, import_torch, shortened
from l2m_fast.arguments import SAMPLER_REPLACEMENTS, refuse_unknown
from l2m_fast.correction import class_offsets, class_weights
from l2m_fast.losses.class_loss import is_class_loss
from l2m_fast.losses.sums import MAX_COUNT
from l2m_fast.mixing import kind_of
from l2m_fast.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from numpy.typing import ArrayLike
    from torch.distributed import ProcessGroup
    from typing_extensions import Never, Self

    from l2m_fast.correction import Target
    from l2m_fast.losses.sums import ClassSums
    from l2m_fast.mixing import Floats, MixingPolicy


class BatchSampler(Run):
    """Sampler of batches of row ids whose class mix follows the losses, for `DataLoader(dataset, batch_sampler=...)`.

    With the same arguments, its batches have the rows of those of a `Loader`, in the same order. Dataset, transforms,
    `collate_fn` and number of workers are free::

        sampler = l2m_fast.BatchSampler(classes, 64, mixing=l2m_fast.Learn2Mix(), lookahead=4, update_every=100, seed=0)
        for x, y in DataLoader(dataset, batch_sampler=sampler, num_workers=2):
            losses = cross_entropy(model(x), y, reduction="none")
            sampler.record(losses)
            ...

    A DataLoader with workers draws batches before they are needed, and what its `collate_fn` returns does not name its
    rows. Therefore the first `record()` belongs to the first batch drawn, the second to the second, and so on. Call
    `record()` or `skip()` once for each batch that the DataLoader delivers. Batches that have been drawn, but not
    delivered when an epoch is left early, are drawn again later, as if the DataLoader had no workers; without losses, the
    sampler cannot know which were delivered. Needs a DataLoader that delivers batches in order (`in_order=True`, the
    default).

    Args:
        classes: Class of each row of the dataset, shape `[N]`, as for a `Loader`.
        batch_size: Number of rows per batch on each rank.
        mixing: As for a `Loader`.
        rows: As for a `Loader`.
        shuffle: As for a `Loader`.
        order: As for a `Loader`.
        steps_per_epoch: As for a `Loader`.
        total_steps: As for a `Loader`.
        update_every: As for a `Loader`.
        lookahead: Number of batches, in [0, update_every], that are drawn beyond the one whose losses are recorded:
            `num_workers * prefetch_factor` of the DataLoader (whose `prefetch_factor` is 2 by default), and one more
            where a trainer fetches the next batch before it trains on this one.
        seed: As for a `Loader`. None: drawn from torch's default generator.
        rank: As for a `Loader`.
        world_size: As for a `Loader`.
        all_reduce: As for a `Loader`.
        group: As for a `Loader`.

    Raises:
        TypeError, ValueError, IndexError: An argument is invalid.
        ImportError: torch is not installed.
    """

    __slots__ = ("_began", "_drawn", "_first_step", "_follows", "_tracks", "_unrecorded")

    def __init__(
        self,
        classes: torch.Tensor | ArrayLike,
        batch_size: int,
        *,
        mixing: MixingPolicy | None = None,
        rows: torch.Tensor | ArrayLike | None = None,
        shuffle: bool = True,
        order: Literal["shuffled", "grouped"] = "shuffled",
        steps_per_epoch: int | None = None,
        total_steps: int | None = None,
        update_every: int | None = None,
        lookahead: int = 0,
        seed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        all_reduce: Callable[[Floats], object] | None = None,
        group: ProcessGroup | Literal[True] | None = None,
        **unknown: Never,
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, SAMPLER_REPLACEMENTS)
        import_torch(type(self).__name__)  # whose DataLoader takes the batches, and whose generator draws the seed
        try:
            num_rows = len(classes)  # type: ignore[arg-type]
        except TypeError:  # None, a number, an array without dimensions
            msg = f"classes must be an array with the class of each row (got {shortened(classes)})"
            raise TypeError(msg) from None
        if num_rows == 0:
            msg = "classes must have at least one row (got none)"
            raise ValueError(msg)
        # No rows are copied. Without threads, a DataLoader can fork its workers at any time.
        super().__init__(np.broadcast_to(np.zeros(1, np.uint8), num_rows), {
            "batch_size": batch_size, "classes": classes, "mixing": mixing, "rows": rows, "shuffle": shuffle, "order": order,
            "drop_last": False, "steps_per_epoch": steps_per_epoch, "total_steps": total_steps, "update_every": update_every,
            "lookahead": lookahead, "include": ("rows",), "seed": seed, "num_threads": 0, "prefetch": 0, "pin_memory": False,
            "device": None, "rank": rank, "world_size": world_size, "all_reduce": all_reduce, "group": group, "format": "torch",
        })  # fmt: skip
        self._began: int | None = None  # total step at which the newest iteration began; None: it is over
        self._first_step = 0  # its first step in the epoch
        self._follows = kind_of(self._mixing) == "follows losses"
        self._tracks = self._follows  # whether every batch delivered gets losses or is skipped
        self._unrecorded = 0  # total step of the oldest batch without losses
        self._drawn: deque[list[int]] = deque(maxlen=self._source.lookahead + 1)  # rows of the last batches

    @property
    def batch_size(self) -> int:
        """Number of rows per batch on each rank."""
        return self._source.batch_size // self._source.listed_ranks

    # ---- iteration

    @property
    def num_batches_of_iteration(self) -> int:
        """Number of batches of the newest iteration, which are fewer than those of an epoch if it resumes one."""
        return len(self._core) - self._first_step

    def __iter__(self) -> Iterator[list[int]]:
        """Return an iterator over the batches of the next epoch, or over the rest of an epoch that was restored.

        The epoch begins at the first `next()` of the iterator; an iterator that is never advanced changes nothing.

        Raises:
            RuntimeError: At `next()`, if more than `lookahead` batches have no losses and the policy follows losses.
        """
        return _Draws(self)

    def _draw(self, batches: Iterator[Any]) -> list[int]:
        """Return the row ids of the next batch."""
        if self._follows and self._num_unrecorded > self._source.lookahead:
            raise RuntimeError(self._too_many())
        _, rows = next(batches)
        ids: list[int] = rows.tolist()
        self._drawn.append(ids)
        return ids

    def _begin(self) -> Iterator[Any]:
        """Return an iterator of the core over the next epoch, or over one that was restored."""
        self._take_back()
        if self._began is not None and self._core.total_step > self._began:
            self._core.end_epoch()
        self._began = self._unrecorded = self._core.total_step
        self._tracks = self._follows
        return self._core.iterate(forever=False)

    def _take_back(self) -> None:
        """Return to the last batch delivered, if it is known from the losses which that is."""
        core = self._core
        delivered = max(self._unrecorded, core.total_step - self._source.lookahead)
        num_ahead = core.total_step - delivered
        if not self._tracks or num_ahead == 0:
            return
        core.load(core.state(delivered - 1 if delivered > 0 else None))
        for _ in range(num_ahead):
            self._drawn.pop()

    def end_epoch(self) -> None:
        """End the epoch after the last batch with losses, and close its loss window.

        See `Loader.end_epoch()`. A DataLoader iterator of the epoch must not be used any more.
        """
        self._take_back()
        self._began = None
        super().end_epoch()
        self._unrecorded = self._core.total_step

    @property
    def _own_rows(self) -> slice:
        """Rows of this rank in a batch that lists those of several."""
        begin = self._rank * self.batch_size if self._source.listed_ranks > 1 else 0
        return slice(begin, begin + self.batch_size)

    @property
    def _num_unrecorded(self) -> int:
        return self._core.total_step - self._unrecorded

    def _too_many(self) -> str:
        return (
            f"lookahead must be at least the number of batches drawn beyond the one whose losses are recorded "
            f"(got {self._source.lookahead}, and {self._num_unrecorded} batches without losses): set lookahead to "
            "num_workers * prefetch_factor of the DataLoader, plus 1 where a trainer fetches the next batch first, and "
            "call record() or skip() once for each batch (with a StatefulDataLoader, use snapshot_every_n_steps=1)"
        )

    # ---- losses

    def record(
        self,
        losses: torch.Tensor | ArrayLike | ClassSums,
        classes: torch.Tensor | ArrayLike | None = None,
        *,
        rows: torch.Tensor | ArrayLike | None = None,
    ) -> None:
        """Add the per-sample losses of the oldest batch that has none.

        Args:
            losses: Loss of each row of the batch, as for `Loader.record()`.
            classes: Class of each loss, as for `Loader.record()`. None: the classes of the batch.
            rows: Row ids of the batch, to check that the losses are those of the oldest batch without losses.

        Raises:
            RuntimeError: No batch is without losses, or there are more than `lookahead` after this one.
            TypeError, ValueError: As `Loader.record()`, or `rows` are those of another batch. Nothing is added.
        """
        step = self._oldest()
        if rows is not None:
            expected = self._drawn[step - self._core.total_step][self._own_rows]
            given = rows.tolist() if hasattr(rows, "tolist") else rows
            if given != expected:
                msg = (
                    f"rows must be those of the oldest batch without losses, {shortened(expected)} (got "
                    f"{shortened(given)}): call skip() for a batch without losses"
                )
                raise ValueError(msg)
        if classes is None and self._source.listed_ranks > 1 and not is_class_loss(losses):
            classes = self._core.classes_to_record(step, self._source.batch_size)[self._own_rows]
        self._record(losses, classes, step)
        self._unrecorded, self._tracks = step + 1, True

    def skip(self) -> None:
        """Pass over the oldest batch without losses, which gets none.

        Raises:
            RuntimeError: No batch is without losses, or there are more than `lookahead` after this one.
        """
        self._unrecorded, self._tracks = self._oldest() + 1, True

    def class_weights(self, target: Target) -> torch.Tensor:
        """Return target / proportions of each class for the oldest batch without losses, as `Loader.class_weights()`.

        Call it before `record()`, or before `skip()` if the policy needs no losses: one of the two for each batch.

        Raises:
            RuntimeError, TypeError, ValueError: As `record()` and `Loader.class_weights()`.
        """
        weights: torch.Tensor = self._correction(class_weights, target, self._oldest())
        return weights

    def class_offsets(self, target: Target) -> torch.Tensor:
        """Return log(proportions / target) of each class for the oldest batch without losses, as `Loader.class_offsets()`.

        Call it before `record()`, or before `skip()` if the policy needs no losses: one of the two for each batch.

        Raises:
            RuntimeError, TypeError, ValueError: As `record()` and `Loader.class_offsets()`.
        """
        offsets: torch.Tensor = self._correction(class_offsets, target, self._oldest())
        return offsets

    def update(self) -> None:
        """Close the loss window now, as `Loader.update()` does.

        Raises:
            RuntimeError: Batches that have been drawn have no losses yet, or as `Loader.update()`.
        """
        if self._tracks and self._num_unrecorded > 0 and self._source.lookahead > 0:
            msg = (
                f"every batch drawn must have losses when update() is called (got {self._num_unrecorded} without): call it "
                "after the epoch, or end_epoch() to end the epoch here"
            )
            raise RuntimeError(msg)
        super().update()

    def _oldest(self) -> int:
        if self._num_unrecorded == 0:
            msg = "a batch must be drawn before its losses are recorded (got losses for every batch drawn so far)"
            raise RuntimeError(msg)
        if self._num_unrecorded > self._source.lookahead + 1:
            raise RuntimeError(self._too_many())
        return self._unrecorded

    # ---- state

    def state_dict(self, *, shared: bool | None = None) -> dict[str, Any]:
        """Return the state after the last batch with losses, or the last one skipped, as `Loader.state_dict()` does.

        Batches drawn after it are drawn again, up to `lookahead` of them. If neither `record()` nor `skip()` is called, it
        is the state before the last `lookahead` batches drawn, which a DataLoader with workers has not delivered yet.

        Args:
            shared: As for `Loader.state_dict()`.

        Raises:
            ValueError, RuntimeError: As `Loader.state_dict()`.
        """
        last = max(self._unrecorded, self._core.total_step - self._source.lookahead) - 1
        return self._state(shared, last if last >= 0 else None)

    def load_state_dict(self, state_dict: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Restore a saved state, as `Loader.load_state_dict()` does.

        Create a DataLoader iterator afterwards, because an existing one has drawn other batches already.
        """
        super().load_state_dict(state_dict)
        self._drawn.clear()
        self._began = None
        self._unrecorded = self._core.total_step


class _Draws:
    """Iterator over the batches of one epoch. A torchdata StatefulDataLoader saves its position."""

    def __init__(self, sampler: BatchSampler) -> None:
        self._sampler = sampler
        self._batches: Iterator[Any] | None = None  # until the first batch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[int]:
        sampler = self._sampler
        if self._batches is not None:
            return sampler._draw(self._batches)
        self._batches = sampler._begin()
        batch = sampler._draw(self._batches)
        sampler._first_step = sampler._core.step - 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches drawn. Their losses are in the state of the sampler."""
        return {"total_step": self._sampler._core.total_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> list[int]:
        """Draw batches until as many have been drawn as in the saved state. They have been delivered already.

        Return the last one.
        """
        sampler, batch = self._sampler, []
        drawn = checked_int("total_step", state_dict["total_step"], sampler._core.total_step, MAX_COUNT)
        while sampler._core.total_step < drawn:
            batch = next(self)
            sampler._unrecorded = sampler._core.total_step
        return batch


class Sampler(BatchSampler):
    """Sampler of row ids whose every `batch_size` are one batch of a `BatchSampler`, for code that takes a `sampler`.

    Use it with the same batch size: `DataLoader(dataset, batch_size=64, sampler=Sampler(classes, 64))`.

    With several ranks, each process has the rows of all of them: `batch_size` rows of the first rank, then those of the
    second, and so on. This is for trainers that deal the batches of a DataLoader to the processes in turn, such as
    `Accelerator.prepare()`. Losses are recorded for the rows of this rank, and `lookahead` counts batches of this rank.
    """

    __slots__ = ()

    def _planned_ranks(self, arguments: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
        world_size = arguments["world_size"]
        if world_size is None:
            return super()._planned_ranks(arguments)
        world_size = checked_int("world_size", world_size, 1)
        rank = checked_int("rank", arguments["rank"], 0, world_size - 1)
        batch_size = checked_int("batch_size", arguments["batch_size"], 1) * world_size
        planned = {"batch_size": batch_size, "rank": 0, "world_size": 1, "listed_ranks": world_size}
        return rank, {**arguments, **planned}

    def __len__(self) -> int:
        """Return the number of rows per epoch, those of other ranks included."""
        return len(self._core) * self._source.batch_size

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        """Return an iterator over the row ids of the next epoch, or of the rest of an epoch that was restored."""
        return _Rows(_Draws(self))


class _Rows:
    """Iterator over the rows of the batches of one epoch. A torchdata StatefulDataLoader saves its position."""

    def __init__(self, batches: _Draws) -> None:
        self._batches = batches
        self._rest: list[int] = []  # rows of the last batch drawn, in reverse order

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        if not self._rest:
            self._rest = next(self._batches)[::-1]
        return self._rest.pop()

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches drawn, and of rows of the last one that are left."""
        return {**self._batches.state_dict(), "rows_left": len(self._rest)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Draw rows until as many have been drawn as in the saved state. They have been delivered already."""
        last = self._batches.load_state_dict(state_dict)
        self._rest = last[::-1][: state_dict["rows_left"]]
