"""Records of runs: where they lie, how they are written and read, and what tells configurations apart."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from l2m_fast.experiments.files import InputError

Record = dict[str, Any]

_KEYS = {"config", "kind", "learned", "class_names", "warm_up_seconds", "epochs"}
# By these a record may differ from others of its task.
_OF_A_RUN = {"method", "seed"}
_OF_A_SEED = {"class_sizes", "steps_per_epoch"}


def file_name(name: str) -> str:
    """Returns the name of a task or method as a part of a path."""
    return re.sub(r"[^\w.=-]+", "_", name)


def path_of(out: Path, task: str, method: str, seed: int) -> Path:
    """Returns where the record of a run lies."""
    return out / file_name(task) / file_name(method) / f"seed-{seed}.json"


def write(path: Path, record: Record) -> None:
    """Writes a record whole or not at all.

    Raises:
        InputError: It cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}"
        raise InputError(msg) from error


def read(path: Path) -> Record:
    """Reads a record.

    Raises:
        InputError: It is none.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as a record of a run: {error}"
        raise InputError(msg) from error
    missing = _KEYS - record.keys() if isinstance(record, dict) else _KEYS
    if missing:
        msg = f"{path} is not a record of a run: it has no {', '.join(sorted(missing))}"
        raise InputError(msg)
    return dict(record)


def read_all(folder: Path) -> dict[Path, Record]:
    """Reads every record below a folder, in the order of task, method and seed.

    Raises:
        InputError: One cannot be read.
    """
    return {path: read(path) for path in sorted(folder.rglob("seed-*.json"), key=lambda path: (len(path.name), path))}


def check_alike(found: dict[Path, Record], config: Record) -> None:
    """Raises unless the records are of the configuration `config`, whatever their method and seed.

    Args:
        found: Records of the same task.
        config: As in a record, of any method; class sizes are compared with those of its seed alone.

    Raises:
        InputError: One differs; the message names its file and every key that does.
    """
    for path, record in found.items():
        other = record["config"]
        free = _OF_A_RUN if other.get("seed") == config["seed"] else _OF_A_RUN | _OF_A_SEED
        differing = [
            f"{key} {_shown(other.get(key))} (here {_shown(config.get(key))})"
            for key in {**config, **other}
            if key not in free and other.get(key) != config.get(key)
        ]
        if differing:
            msg = f"{path} is of another configuration: {'; '.join(differing)}. Choose another folder, or move it away"
            raise InputError(msg)


def check_writable(folder: Path) -> None:
    """Makes a folder, before hours of work end in front of a locked door.

    Raises:
        InputError: It cannot be made, or nothing can be written to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"cannot write to the folder {folder}: {error.strerror}"
        raise InputError(msg) from error


def _shown(value: object) -> str:
    text = "missing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
