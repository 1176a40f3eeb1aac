"""The whole experiment: every method, every seed, on the same splits, weights and number of batches."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from l2m_experiments.demo.data import Source
from l2m_experiments.demo.train import EpochTime, Run, time_epoch, train
from l2m_experiments.errors import InputError
from l2m_fast import Balanced, Learn2Mix, MixingPolicy, Proportional


@dataclass(frozen=True)
class Settings:
    """What to compare on.

    Attributes:
        source: The data.
        seeds: Runs of each method, >= 1; their seeds are 0, 1, ...
        epochs: Budget of a run, >= 4: it is looked at by quarters.
        batch_size: Rows of a batch, from 1 to the training rows.
        mixing_rate: Of Learn2Mix.
        num_threads: Threads of torch, >= 1; the loader takes its own default.

    Raises:
        InputError: A value out of range.
    """

    source: Source
    seeds: int
    epochs: int
    batch_size: int
    mixing_rate: float
    num_threads: int

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("epochs", 4), ("batch_size", 1), ("num_threads", 1)):
            if getattr(self, name) < least:
                msg = f"{name} must be at least {least} (got {getattr(self, name)})"
                raise InputError(msg)
        rows = sum(self.source.class_sizes)
        if self.batch_size > rows:
            msg = f"batch_size must be at most the {rows} training rows (got {self.batch_size})"
            raise InputError(msg)
        try:
            Learn2Mix(mixing_rate=self.mixing_rate)
        except ValueError as error:
            raise InputError(str(error)) from error


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        settings: What was compared on.
        recalls: For each method the test recall of each class, percent, `[seeds, epochs, K]`.
        proportions: For each method the class proportions, `[seeds, epochs + 1, K]`.
        epoch_time: One epoch through torch's DataLoader and through this loader.
        seconds: Wall time of all runs.
    """

    settings: Settings
    recalls: dict[str, NDArray[np.float64]]
    proportions: dict[str, NDArray[np.float64]]
    epoch_time: EpochTime
    seconds: float

    @property
    def accuracy(self) -> dict[str, NDArray[np.float64]]:
        """Test accuracy of each method, percent, `[seeds, epochs]`: the mean recall, since the test set is balanced."""
        return {method: recalls.mean(axis=2) for method, recalls in self.recalls.items()}

    @property
    def worst_class_accuracy(self) -> dict[str, NDArray[np.float64]]:
        """Lowest recall of any class for each method, percent, `[seeds, epochs]`."""
        return {method: recalls.min(axis=2) for method, recalls in self.recalls.items()}


def compare(settings: Settings) -> Comparison:
    """Trains every method with every seed and shows the progress on standard error.

    Within a seed all methods have the same data, initial weights, loader and number of batches. On a terminal the
    progress is a live bar with the time left, elsewhere a line a run.
    """
    mixings: dict[str, MixingPolicy] = {
        "Learn2Mix": Learn2Mix(settings.mixing_rate),
        "classical": Proportional(),
        "balanced": Balanced(),
    }
    runs: dict[str, list[Run]] = {method: [] for method in mixings}
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(settings.num_threads)
    start = time.perf_counter()
    try:
        with tqdm(total=settings.seeds * len(mixings) * settings.epochs, unit="epoch", disable=None) as bar:
            for seed in range(settings.seeds):
                split = settings.source.split(seed)
                for method, mixing in mixings.items():
                    bar.set_description(f"{method}, seed {seed}")
                    runs[method].append(
                        train(
                            split,
                            mixing,
                            epochs=settings.epochs,
                            batch_size=settings.batch_size,
                            seed=seed,
                            after_epoch=bar.update,
                        )
                    )
                    if bar.disable:
                        done, total = sum(map(len, runs.values())), settings.seeds * len(mixings)
                        left = (time.perf_counter() - start) * (total - done) / done
                        tqdm.write(
                            f"run {done} of {total} done: {method}, seed {seed}; about {left:.0f} s left",
                            file=sys.stderr,
                        )
        seconds = time.perf_counter() - start
        epoch_time = time_epoch(split, batch_size=settings.batch_size)
    finally:
        torch.set_num_threads(torch_threads)
    return Comparison(
        settings,
        recalls={method: np.array([run.recalls for run in of_method]) for method, of_method in runs.items()},
        proportions={method: np.array([run.proportions for run in of_method]) for method, of_method in runs.items()},
        epoch_time=epoch_time,
        seconds=seconds,
    )
