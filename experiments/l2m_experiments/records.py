"""The record of a run: what was run, on what, and how each epoch went; one JSON file a run.

They lie as FOLDER/TASK/METHOD/seed-N.json, blanks in names as underscores. A record is written when its run is finished, and
in one step, so that a killed program leaves whole records only. The points of a run are written column by column, to five
digits: a study has hundreds of runs of hundreds of epochs.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from l2m_experiments.errors import InputError
from l2m_experiments.task import Kind


@dataclass(frozen=True)
class Point:
    """A model at the end of an epoch; point 0 is the one that training begins with.

    Errors are means over rows: percent of wrong classes, or squared error. NaN where training diverged.

    Attributes:
        epoch: Epochs so far.
        steps: Steps so far.
        seconds: Of training so far: data and compute. Neither warm-up nor evaluation.
        data_seconds: Of them, waiting for the next batch.
        compute_seconds: Of them, everything else: forward, backward, optimizer, recording the losses.
        train_error: Of the training set, or of rows spread evenly over it where it is large.
        test_error: Of the test set.
        class_errors: Test error of each class, `[K]`.
        worst_class_error: The largest of them; 100 minus the worst-class accuracy.
        proportions: Class proportions of the next batch, `[K]`.
    """

    epoch: int
    steps: int
    seconds: float
    data_seconds: float
    compute_seconds: float
    train_error: float
    test_error: float
    class_errors: tuple[float, ...]
    worst_class_error: float
    proportions: tuple[float, ...]


@dataclass(frozen=True)
class Config:
    """What decides a run; records of one folder agree in all but task, method and seed.

    Attributes:
        task: Name of the task, with what a study changed in it.
        method: Name of the method, with the parameters that are not the default ones.
        seed: Of the data that are drawn, the first weights and the batches.
        preset: "quick" or "paper".
        budget: "epochs" or "seconds": which of the next two ends training.
        epochs: Of the protocol.
        seconds: Of the protocol.
        batch_size: Rows of a batch.
        learning_rate: Of the optimizer.
        mixing_rate: Of Learn2Mix, where the method does not set another.
        optimizer: Which of torch's optimizers.
        device: "cpu" or "cuda".
    """

    task: str
    method: str
    seed: int
    preset: str
    budget: str
    epochs: int
    seconds: float
    batch_size: int
    learning_rate: float
    mixing_rate: float
    optimizer: str
    device: str


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        config: What decides it.
        kind: What was learned.
        description: Data, imbalance and model in a line.
        source: Which files the data were made of.
        class_names: One of each class.
        class_sizes: Training rows of each class.
        test_class_sizes: Test rows of each class.
        learned: Test error that classical training has to reach for a comparison to count.
        paper: Figures of the paper, see `Task`.
        environment: Versions, commit, processor, threads and date.
        warm_up_seconds: What the method took before its first batch.
        points: One of each epoch.
    """

    config: Config
    kind: Kind
    description: str
    source: str
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]
    test_class_sizes: tuple[int, ...]
    learned: float
    paper: dict[str, dict[str, tuple[float, float]]]
    environment: dict[str, str | int]
    warm_up_seconds: float
    points: tuple[Point, ...]


def path_of(folder: Path, config: Config) -> Path:
    """Where the record of a run lies."""
    task, method = (name.replace(" ", "_") for name in (config.task, config.method))
    return folder / task / method / f"seed-{config.seed}.json"


def is_there(path: Path) -> bool:
    """Whether there is a record.

    Raises:
        InputError: It cannot be told.
    """
    try:
        return path.exists()
    except OSError as error:
        msg = f"{path} cannot be looked for: {error.strerror}"
        raise InputError(msg) from error


def make_folder(folder: Path) -> None:
    """Makes the folder of records, before hours of work end in front of a locked door.

    Raises:
        InputError: It cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"runs cannot be written to {folder}: {error.strerror}"
        raise InputError(msg) from error


def write(folder: Path, record: Record) -> Path:
    """Writes a record; returns its path.

    Raises:
        InputError: It cannot be written.
    """
    path = path_of(folder, record.config)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(_dump(record), encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror}"
        raise InputError(msg) from error
    return path


def read(path: Path) -> Record:
    """Reads a record.

    Raises:
        InputError: It is not a whole record.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        columns = {name: map(_with_nan, column) for name, column in content.pop("points").items()}
        points = tuple(Point(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))
        return Record(
            config=Config(**content.pop("config")),
            class_names=tuple(content.pop("class_names")),
            class_sizes=tuple(content.pop("class_sizes")),
            test_class_sizes=tuple(content.pop("test_class_sizes")),
            paper={
                budget: {method: (mean, spread) for method, (mean, spread) in figures.items()}
                for budget, figures in content.pop("paper").items()
            },
            points=points,
            **content,
        )
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise InputError(msg) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"{path} is not a whole record of a run: {error}"
        raise InputError(msg) from error


def read_all(folder: Path) -> list[Record]:
    """Reads every record of a folder, in the order of task, method and seed.

    Raises:
        InputError: There is none, one is not whole, or the folder cannot be read.
    """
    if not is_there(folder) or not os.access(folder, os.R_OK | os.X_OK):
        msg = f"{folder} is not there, or cannot be read"
        raise InputError(msg)
    paths = sorted(folder.glob("*/*/seed-*.json"))
    if not paths:
        msg = f"{folder} has no runs: expected TASK/METHOD/seed-N.json, as `l2m-experiments run --out` writes them"
        raise InputError(msg)
    records = [read(path) for path in paths]
    return sorted(records, key=lambda record: (record.config.task, record.config.method, record.config.seed))


def differences(wanted: Config, found: Config) -> str:
    """What two configurations differ in, in words; empty where they agree."""
    names = [field.name for field in fields(Config) if getattr(wanted, field.name) != getattr(found, field.name)]
    return ", ".join(f"{name} {getattr(found, name)!r} (wanted {getattr(wanted, name)!r})" for name in names)


def _dump(record: Record) -> str:
    content = asdict(record)
    columns = {name: [_without_nan(point[name]) for point in content["points"]] for name in _POINT}
    # A line for each entry and column: someone will look at it.
    lines = [f"{json.dumps(name)}: {_compact(value)}" for name, value in (content | {"points": columns}).items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


_POINT = tuple(field.name for field in fields(Point))


def _compact(value: Any) -> str:
    if isinstance(value, dict):
        return "{\n " + ",\n ".join(f"{json.dumps(name)}: {_compact(inner)}" for name, inner in value.items()) + "\n}"
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _without_nan(value: Any) -> Any:
    # JSON has no NaN and no infinity.
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return [_without_nan(v) for v in value] if isinstance(value, tuple) else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_with_nan(v) for v in value)
    return math.nan if value is None else value
