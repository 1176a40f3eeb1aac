"""The demo: three methods on small long-tailed images, trained, recorded and reported like any other runs."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from l2m_experiments import datasets, models, records, runs
from l2m_experiments.imbalance import long_tail, shuffled_rows
from l2m_experiments.method import class_sizes
from l2m_experiments.methods import METHODS
from l2m_experiments.records import Record
from l2m_experiments.report import headline, report
from l2m_experiments.rows import labeled
from l2m_experiments.task import Protocol, Rows, Task, TaskData
from l2m_experiments.tasks import digits
from l2m_experiments.user_input import InputError
from l2m_fast import Learn2Mix, Loader

COMPARED = ("learn2mix", "classical", "balanced")
MIN_EPOCHS = 4  # the report compares methods at quarters of the budget
_LEARNING_RATE = 1e-3


def demo(arguments: Namespace, say: Callable[[str], None]) -> None:
    """Train the demo's methods on digits or on a folder of images, and report the comparison.

    Args:
        arguments: data, seeds, epochs, batch_size, mixing_rate, num_threads and out.
        say: Called with each text to print.

    Raises:
        InputError: An option is out of range, a data file is missing or damaged, or the output folder cannot be written.
    """
    task, seeds = _digits() if arguments.data is None else _images(arguments.data)
    given = {name: getattr(arguments, name) for name in ("epochs", "batch_size", "mixing_rate")}
    protocol = replace(task.protocol, **{name: value for name, value in given.items() if value is not None})
    task, seeds = replace(task, protocol=protocol), seeds if arguments.seeds is None else arguments.seeds
    data = task.load(0)
    _check(protocol, seeds, arguments.num_threads, len(data.train.classes))
    records.make_folder(arguments.out)
    say(_introduction(task, data, seeds))
    packed = arguments.out / "demo.jsonl.xz"
    # The demo always trains anew, so its runs are collected elsewhere and replace those of an earlier demo at the end.
    with TemporaryDirectory() as folder:
        options = runs.Options(
            "demo", runs.Budget("epochs"), seeds, torch.device("cpu"), arguments.num_threads, Path(folder)
        )
        runs.execute(runs.plan([(task, METHODS[name]) for name in COMPARED], options), options)
        records.pack([options.folder], packed)
    done = records.read_all(packed)
    say(f"\n{headline(done)}\n")
    say(budget_hint(done))
    say(str(time_epoch(data.train, batch_size=protocol.batch_size)))
    for path in (packed, *report(packed, arguments.out)):
        say(f"written: {path}")


@dataclass(frozen=True)
class EpochTime:
    """Time of one epoch through each loader, without a model.

    Attributes:
        batches: Batches per epoch.
        repeats: Number of timed epochs, which alternate between the loaders.
        data_loader: Median seconds of torch's DataLoader.
        loader: Median seconds of this package's loader.
    """

    batches: int
    repeats: int
    data_loader: float
    loader: float

    def __str__(self) -> str:
        """Return both times and their ratio in one line."""
        return (
            f"Loading one epoch ({self.batches} batches, medians of {self.repeats} interleaved repeats): torch DataLoader "
            f"{self.data_loader * 1e3:.2f} ms, this loader {self.loader * 1e3:.2f} ms, "
            f"ratio {self.data_loader / self.loader:.1f}"
        )


def time_epoch(train: Rows, *, batch_size: int, repeats: int = 20) -> EpochTime:
    """Measure the delivery of one epoch of batches, with the default number of threads of each loader.

    Args:
        train: Rows to load.
        batch_size: Rows per batch.
        repeats: Number of epochs timed with each loader, after one that does not count.
    """
    # Class mixing delivers full batches only. Without its last, short batch, DataLoader delivers the same number of rows.
    rival = DataLoader(TensorDataset(train.inputs, train.classes), batch_size=batch_size, shuffle=True, drop_last=True)
    with Loader((train.inputs, train.classes), batch_size=batch_size, classes=train.classes, seed=0) as loader:
        seconds = [(_seconds(rival), _seconds(loader)) for _ in range(repeats + 1)][1:]
        medians = np.median(seconds, axis=0)
        return EpochTime(len(loader), repeats, data_loader=float(medians[0]), loader=float(medians[1]))


def _seconds(batches: Iterable[object]) -> float:
    start = perf_counter()
    for _ in batches:
        pass
    return perf_counter() - start


def _digits() -> tuple[Task, int]:
    """Return the task on digits and its default number of seeds."""
    return _task("digits", digits.load, Protocol(32, _LEARNING_RATE, 0.1, 80, 3, "adam-fused")), 5


def _images(folder: Path) -> tuple[Task, int]:
    """Return the task on a folder of IDX files, long-tailed 100:1, and its default number of seeds.

    Each seed draws its own training set; the test set consists of the first rows of each class of the test files.
    """
    images = datasets.idx_folder(folder)
    num_classes = len(images.class_names)
    sizes = long_tail(int(np.bincount(images.train[1]).min()), num_classes, imbalance=100)
    test_size = int(np.bincount(images.test[1]).min())
    test = np.concatenate([np.flatnonzero(images.test[1] == k)[:test_size] for k in range(num_classes)])

    def load(seed: int) -> TaskData:
        shuffled = shuffled_rows(images.train[1], seed)
        train = np.concatenate([rows[:size] for rows, size in zip(shuffled, sizes, strict=True)])
        train_rows, test_rows = (
            labeled(torch.from_numpy(inputs[rows]), labels[rows])
            for (inputs, labels), rows in ((images.train, train), (images.test, test))
        )
        return TaskData(train_rows, test_rows, images.class_names, images.source)

    return _task(images.source, load, Protocol(min(128, sum(sizes)), _LEARNING_RATE, 0.1, 12, 60, "adam-fused")), 3


def _task(name: str, load: Callable[[int], TaskData], protocol: Protocol) -> Task:
    data = load(0)
    *_, height, width = data.train.inputs.shape
    num_classes = len(data.class_names)
    chance = 100 / num_classes

    def model(_: TaskData) -> nn.Module:
        # On a CPU, convolutions with so few channels take about half the time in this memory format.
        network = models.small_cnn(height, width, num_classes)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations
        return network

    return Task(
        name,
        "classification",
        f"{name}, long-tailed {_imbalance(data):.0f}:1, small CNN",
        load,
        model,
        lambda images: images.float().div_(255),
        protocol,
        learned=(100 - chance) * 3 / 4,
    )


def _imbalance(data: TaskData) -> float:
    sizes = class_sizes(data)
    return float(sizes[0] / sizes[-1])


def budget_hint(done: Sequence[Record]) -> str:
    """Return whether the budget was long enough for classical training, since otherwise a comparison says little."""
    classical = [run for run in done if run.config.method == "classical"]
    accuracy = 100 - np.mean([[point.test_error for point in run.points] for run in classical], axis=0)
    if accuracy[-1] < 100 - classical[0].learned:
        chance = 100 / len(classical[0].class_names)
        return (
            f"Classical training hardly learned in this budget ({accuracy[-1]:.1f} %, chance is {chance:.1f} %): "
            "raise --epochs before drawing conclusions."
        )
    gain = accuracy[-1] - accuracy[math.ceil((len(accuracy) - 1) * 3 / 4)]
    trend = "was still improving" if gain >= 1 else "was no longer improving"
    advice = ": more --epochs may improve it further." if gain >= 1 else "."
    return f"Classical training {trend} ({gain:+.1f} points in the last quarter of the budget){advice}"


def _check(protocol: Protocol, seeds: int, num_threads: int, num_rows: int) -> None:
    for name, value, minimum in (
        ("seeds", seeds, 1),
        ("epochs", protocol.epochs, MIN_EPOCHS),
        ("batch_size", protocol.batch_size, 1),
        ("num_threads", num_threads, 1),
    ):
        if value < minimum:
            msg = f"{name} must be at least {minimum} (got {value})"
            raise InputError(msg)
    if protocol.batch_size > num_rows:
        msg = f"batch_size must be at most the {num_rows} training rows (got {protocol.batch_size})"
        raise InputError(msg)
    try:
        Learn2Mix(mixing_rate=protocol.mixing_rate)
    except ValueError as error:
        raise InputError(str(error)) from error


def _introduction(task: Task, data: TaskData, seeds: int) -> str:
    sizes, protocol = class_sizes(data), task.protocol
    test_rows = len(data.test.classes)
    return (
        f"Data: {task.name}; {sizes.sum()} training images, long-tailed {_imbalance(data):.0f}:1; "
        f"{test_rows} test images, {test_rows // len(sizes)} per class\n"
        f"Training images of class 0 to {len(sizes) - 1}: {' '.join(map(str, sizes))}\n"
        f"Budget: {protocol.epochs} epochs of {sizes.sum() // protocol.batch_size} batches of {protocol.batch_size}; "
        f"{'1 seed' if seeds == 1 else f'{seeds} seeds'}; mixing rate {protocol.mixing_rate}; "
        f"Adam, learning rate {protocol.learning_rate}"
    )
