"""Records of runs: what was run, on which data, and how each epoch went.

While experiments run, each run is a JSON file of its own, FOLDER/TASK/METHOD/seed-N.json. It is written atomically when
the run ends, so an interrupted program leaves complete records only. `pack` turns the runs of a study into one compressed
file, FOLDER/STUDY.jsonl.xz, with one run per line. Everything that reads runs accepts both.
"""

from __future__ import annotations

import json
import lzma
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from l2m_experiments.task import Kind
from l2m_experiments.user_input import InputError

_PACKED = ".jsonl.xz"


@dataclass(frozen=True)
class Point:
    """State of a model at the end of an epoch; point 0 is before training.

    Errors are means over rows: percent of misclassified rows, or squared error. NaN if training diverged.

    Attributes:
        epoch: Number of epochs so far.
        steps: Number of steps so far.
        seconds: Training time so far, data and compute, without warm-up and evaluation.
        data_seconds: Part of `seconds` spent waiting for the next batch.
        compute_seconds: The rest of `seconds`: forward, backward, optimizer step, recording the losses.
        train_error: Error on the training set, or on rows spread evenly over it if it is large.
        test_error: Error on the test set.
        class_errors: Test error of each class, `[K]`.
        worst_class_error: Largest of the class errors; for classification, 100 minus the worst-class accuracy.
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

    @property
    def macro_error(self) -> float:
        """Mean of the class errors."""
        return sum(self.class_errors) / len(self.class_errors)


@dataclass(frozen=True)
class Config:
    """Configuration of a run; the records of one folder differ in task, method and seed only.

    Attributes:
        task: Name of the task, including what a study changed.
        method: Name of the method, including parameters that differ from their defaults.
        seed: Seed of the sampled data, the initial weights and the batches.
        preset: "quick" or "paper".
        budget: "epochs" or "seconds": which of the next two ends training.
        epochs: Number of epochs in the protocol.
        seconds: Number of seconds in the protocol.
        batch_size: Number of rows per batch.
        learning_rate: Learning rate of the optimizer at the beginning.
        mixing_rate: Mixing rate of Learn2Mix, unless the method sets another.
        optimizer: Name of the torch optimizer.
        device: "cpu" or "cuda".
        schedule: Name of the schedule of the learning rate.
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
    schedule: str = "constant"  # earlier records have none


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        config: Configuration of the run.
        kind: Kind of the task.
        description: One line about data, imbalance and model.
        source: Names of the data files.
        class_names: Name of each class.
        class_sizes: Number of training rows of each class.
        test_class_sizes: Number of test rows of each class.
        learned: Largest final test error of classical training for which comparisons are valid.
        paper: Figures of the paper, see `Task`.
        environment: Versions, commit, processor, threads and date.
        warm_up_seconds: Time the method took before its first batch.
        points: Points 0 to the last epoch.
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
    """Return the path of a run's own file."""
    task, method = (name.replace(" ", "_") for name in (config.task, config.method))
    return folder / task / method / f"seed-{config.seed}.json"


def is_there(path: Path) -> bool:
    """Return whether the file or folder exists.

    Raises:
        InputError: The path cannot be looked up.
    """
    try:
        return path.exists()
    except OSError as error:
        msg = f"{path} cannot be looked up: {error.strerror}"
        raise InputError(msg) from error


def make_folder(folder: Path) -> None:
    """Create the folder of runs, so that a folder that cannot be written is reported before hours of work.

    Raises:
        InputError: The folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"runs cannot be written to {folder}: {error.strerror}"
        raise InputError(msg) from error


def write(folder: Path, record: Record) -> Path:
    """Write a run to a file of its own, atomically, and return the path.

    Raises:
        InputError: The file cannot be written.
    """
    path = path_of(folder, record.config)
    _write_atomically(path, _format(_content(record)).encode())
    return path


def pack(sources: Sequence[Path], path: Path) -> int:
    """Write all runs of the sources to one compressed file; the sources are kept.

    The bytes depend on the runs only, not on the time or on the order of the sources.

    Args:
        sources: Folders of runs or packed files; `path` may be one of them.
        path: Packed file to write, STUDY.jsonl.xz.

    Returns:
        Number of runs.

    Raises:
        InputError: The name does not end in .jsonl.xz, two sources have the same run, a run cannot be read, or the file
            cannot be written.
    """
    if not path.name.endswith(_PACKED) or path.name == _PACKED:
        msg = f"a file of packed runs must be named STUDY{_PACKED} (got {path.name!r:.200})"
        raise InputError(msg)
    records = _sorted([record for source in sources for record in read_all(source)])
    for first, second in pairwise(records):
        if _key(first) == _key(second):
            task, method, seed = _key(first)
            msg = f"every run must be given once (got {task}, {method}, seed {seed} twice)"
            raise InputError(msg)
    lines = "".join(json.dumps(_content(record), allow_nan=False, separators=(",", ":")) + "\n" for record in records)
    _write_atomically(path, lzma.compress(lines.encode(), preset=9))
    return len(records)


def read(path: Path) -> Record:
    """Read a run from its own file.

    Raises:
        InputError: The file cannot be read, or is not a complete record.
    """
    try:
        return _parse(path.read_bytes(), str(path))
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise InputError(msg) from error


def read_all(path: Path) -> list[Record]:
    """Read all runs of a folder or packed file, sorted by task, method and seed.

    Raises:
        InputError: See `read_studies`.
    """
    return _sorted([record for records in read_studies(path).values() for record in records])


def read_studies(path: Path) -> dict[str, list[Record]]:
    """Read the runs of each study in a folder, or of one packed file.

    Returns:
        Runs by study, sorted by task, method and seed. A packed file is a study of its own; runs in files of their own form
        the study "".

    Raises:
        InputError: There are no runs, one is not complete, or the folder or file cannot be read.
    """
    if not is_there(path) or not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        msg = f"{path} does not exist or cannot be read"
        raise InputError(msg)
    runs = sorted(path.glob("*/*/seed-*.json"))
    packed = sorted(path.glob(f"*{_PACKED}")) if path.is_dir() else [path]
    studies = {"": [read(run) for run in runs], **{file.name.removesuffix(_PACKED): _unpack(file) for file in packed}}
    found = {study: _sorted(records) for study, records in studies.items() if records}
    if not found:
        msg = f"{path} has no runs: expected TASK/METHOD/seed-N.json, as `l2m-experiments run --out` writes, or STUDY{_PACKED}"
        raise InputError(msg)
    return found


def differences(wanted: Config, found: Config) -> str:
    """Describe the entries in which two configurations differ; empty if they are equal."""
    names = [field.name for field in fields(Config) if getattr(wanted, field.name) != getattr(found, field.name)]
    return ", ".join(f"{name} {getattr(found, name)!r} (wanted {getattr(wanted, name)!r})" for name in names)


def _key(record: Record) -> tuple[str, str, int]:
    return record.config.task, record.config.method, record.config.seed


def _sorted(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=_key)


def _write_atomically(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror}"
        raise InputError(msg) from error


def _unpack(path: Path) -> list[Record]:
    try:
        lines = lzma.decompress(path.read_bytes()).splitlines()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise InputError(msg) from error
    except lzma.LZMAError as error:
        msg = f"{path} is not a complete xz file: {error}"
        raise InputError(msg) from error
    return [_parse(line, f"line {number} of {path}") for number, line in enumerate(lines, start=1)]


def _parse(text: bytes, origin: str) -> Record:
    try:
        content = json.loads(text)
        columns = {name: map(_none_to_nan, column) for name, column in content.pop("points").items()}
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
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"{origin} is not a complete record of a run: {error}"
        raise InputError(msg) from error


def _content(record: Record) -> dict[str, Any]:
    """Return what is written: points by column, rounded to five digits, since a study has hundreds of runs."""
    content = asdict(record)
    columns = {field.name: [_round(point[field.name]) for point in content["points"]] for field in fields(Point)}
    return content | {"points": columns}


def _format(content: dict[str, Any]) -> str:
    # One line per entry and column keeps the file readable.
    return (
        "{\n" + ",\n".join(f"{json.dumps(name)}: {_format_value(value)}" for name, value in content.items()) + "\n}\n"
    )


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{\n " + ",\n ".join(f"{json.dumps(name)}: {_format_value(inner)}" for name, inner in value.items()) + "\n}"
        )
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None  # JSON has neither NaN nor infinity
    return [_round(v) for v in value] if isinstance(value, tuple) else value


def _none_to_nan(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_none_to_nan(v) for v in value)
    return math.nan if value is None else value
