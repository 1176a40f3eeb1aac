"""The command `l2m-fast doctor`, which prints versions, the machine, a self-test and the speed, for bug reports.

It needs only NumPy. After a change of the batches that a seed gives, or of the content of saved states,
`python -m l2m_fast.doctor` prints a new table `EXPECTED`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import statistics
import sys
import time
import warnings
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from l2m_fast import Balanced, Learn2Mix, Loader, build_info, class_loss
from l2m_fast._build_info import why_cuda_unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    Formats = dict[str, Callable[[NDArray[Any]], Any]]  # functions that convert a NumPy array to each format

# Digests of the batches of `CASES`, the same on every machine.
EXPECTED = {
    "plain": "41836f86dfc2d5a3",
    "dataset order": "a0fb3b11752d3fc9",
    "balanced": "e951c86f07723fb0",
    "Learn2Mix": "9f02de90c13963a3",
    "rank 0 of 2": "48b88d57f071888f",
    "rank 1 of 2": "3d7c098063123186",
}

_CLASSES = np.array([(row & -row).bit_length() - 1 for row in range(1, 1001)])  # 500 rows, 250, ... and 1: ten classes
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dataset order": {"shuffle": False},
    "balanced": {"classes": _CLASSES, "mixing": Balanced()},
    "Learn2Mix": {"classes": _CLASSES, "mixing": Learn2Mix(0.5), "update_every": 5},
    "rank 0 of 2": {"classes": _CLASSES, "mixing": Balanced(), "rank": 0, "world_size": 2},
    "rank 1 of 2": {"classes": _CLASSES, "mixing": Balanced(), "rank": 1, "world_size": 2},
}
_THREADS_AND_PREFETCH = ((0, 0), (1, 4), (2, 1))  # must give the same batches

SPEED_SECONDS = 4.0
_SPEED_ROWS, _SPEED_BYTES, _SPEED_BATCH = 60_000, 784, 512


def doctor() -> bool:
    """Print the report, and return whether every part of the self-test passed."""
    torch, torch_version = _import_torch()
    info = build_info()
    print("Versions")
    _print_row("l2m_fast", info["version"])
    _print_row("compiler", info["compiler"])
    gil = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else " without the GIL"
    _print_row("Python", f"{platform.python_implementation()} {platform.python_version()}{gil}, {platform.platform()}")
    _print_row("NumPy", np.__version__)
    _print_row("torch", torch_version)
    _print_row("CUDA kernels", cuda_kernels(info, torch))

    print("Machine")
    _print_row("CPUs", f"{_cpus_by_affinity()} by affinity, {_quota()}")
    _print_row("num_threads", f"{info['usable_cpus']} by default")
    _print_row("memory", _memory())

    formats: Formats = {"numpy": np.asarray} if torch is None else {"numpy": np.asarray, "torch": torch.from_numpy}
    print(f"Self-test ({', '.join(formats)})")
    passed = True
    for part in _parts(formats):
        failure = part.failure()
        _print_row(part.name, f"FAILED: {failure}" if failure else "passed")
        passed = passed and not failure

    print(f"Speed (rows of {_SPEED_BYTES} bytes and an int64 label, batch size {_SPEED_BATCH})")
    speeds = _rows_per_second(torch)
    for name, speed in speeds.items():
        _print_row(name, f"{speed / 1e6:.3g} million rows/s")
    own, baseline = speeds.values()
    _print_row("ratio", f"{own / baseline:.3g}")
    return passed


def _print_row(name: str, value: object) -> None:
    print(f"  {name:<14} {value}", flush=True)


# ---- versions


def _import_torch() -> tuple[Any, str]:
    """Return torch and its version, or None and the reason why it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of torch do not concern this package
            import torch
    except ModuleNotFoundError as error:
        return None, "not installed" if error.name == "torch" else f"installed, but not usable: {_one_line(error)}"
    except Exception as error:  # noqa: BLE001  # a broken installation may raise anything
        return None, f"installed, but not usable: {_one_line(error)}"
    cuda = "without CUDA" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
    return torch, f"{torch.__version__}, {cuda}"


def cuda_kernels(info: dict[str, Any], torch: Any) -> str:
    """Return a line that states whether the CUDA kernels are built and usable, and if not, why.

    Creates no CUDA context, and looks for a device only if the kernels are built.

    Args:
        info: Result of `build_info()`.
        torch: Module torch, or None.
    """
    if not info["cuda_built"]:
        return f"not built: {info['without_cuda']}"
    reason = _why_unusable(info["cuda_usable"], torch)
    return f"built, but not usable: {reason}" if reason else "built and usable: a device and its driver were found"


def _why_unusable(device_found: bool, torch: Any) -> str:
    """Return the reason why the kernels cannot be used although they are built; empty if they can be used."""
    if torch is None:
        return "the kernels need torch"
    if torch.version.cuda is None:
        return "torch was built without CUDA"
    if device_found:
        return ""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible} hides every device"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found_by_torch = torch.cuda.is_available()  # warns if the driver is too old
    if caught:
        return _one_line(caught[0].message)
    return why_cuda_unusable() if found_by_torch else "no device or no driver was found"


# ---- machine

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def _read(path: Path) -> str:
    """Return the text of a file, empty if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _cgroups(controller: str, proc: Path, root: Path) -> Iterator[Path]:
    """Yield the folders of the cgroup of this process and of its ancestors, for cgroup versions 1 and 2."""
    for controllers, path in re.findall(r"^\d+:([^:]*):/(.*)$", _read(proc / "self/cgroup"), re.MULTILINE):
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        cgroup = top / path
        yield from (folder for folder in (cgroup, *cgroup.parents) if folder.is_relative_to(top))


def cpu_quota(proc: Path = _PROC, root: Path = _CGROUPS) -> float:
    """Return the number of CPUs that cgroup quotas allow this process to use; infinity without a quota.

    Args:
        proc: Folder of the proc file system.
        root: Folder of the cgroup file system.
    """
    quota = math.inf
    for folder in _cgroups("cpu", proc, root):
        text = _read(folder / "cpu.max") or _read(folder / "cpu.cfs_quota_us") + _read(folder / "cpu.cfs_period_us")
        if found := re.fullmatch(r"(\d+)\s+([1-9]\d*)\s*", text):  # excludes "max" (version 2) and -1 (version 1)
            quota = min(quota, int(found[1]) / int(found[2]))
    return quota


def memory_limit(proc: Path = _PROC, root: Path = _CGROUPS) -> float:
    """Return the number of bytes that cgroup limits allow this process to use; infinity or a huge number if unlimited.

    Args:
        proc: Folder of the proc file system.
        root: Folder of the cgroup file system.
    """
    limit = math.inf
    for folder in _cgroups("memory", proc, root):
        text = (_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")).strip()
        if text.isdigit():
            limit = min(limit, int(text))
    return limit


def _cpus_by_affinity() -> int | str:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "unknown"


def _quota() -> str:
    quota = cpu_quota()
    return "no cgroup quota was found" if quota == math.inf else f"{quota:g} by cgroup quota"


def _memory() -> str:
    kilobytes = dict(re.findall(r"^(\w+): +(\d+) kB$", _read(_PROC / "meminfo"), re.MULTILINE))
    if not {"MemTotal", "MemAvailable"} <= kilobytes.keys():
        return "unknown"
    total, available, limit = (
        int(kilobytes["MemTotal"]) / 2**20,
        int(kilobytes["MemAvailable"]) / 2**20,
        memory_limit() / 2**30,
    )
    limited = f", {limit:.1f} GiB by cgroup limit" if limit < total else ""
    return f"{total:.1f} GiB, {available:.1f} GiB available{limited}"


# ---- self-test


class Part(NamedTuple):
    """Part of the self-test.

    Attributes:
        name: Name of the part.
        expected: Expected result of every run.
        runs: Functions that do a run and return its result, by name.
    """

    name: str
    expected: str
    runs: Mapping[str, Callable[[], str]]

    def failure(self) -> str:
        """Return the expected and the actual results in one line; empty if they are equal."""
        runs_by_outcome: dict[str, list[str]] = {}
        for name, run in self.runs.items():
            try:
                outcome = run()
            except Exception as error:  # noqa: BLE001  # the results of the other runs are still useful
                outcome = _one_line(error)
            runs_by_outcome.setdefault(outcome, []).append(name)
        if list(runs_by_outcome) == [self.expected]:
            return ""
        if len(runs_by_outcome) == 1:
            return f"expected {self.expected}, got {outcome} in every run"
        got = [f"{outcome} in {' and '.join(names)}" for outcome, names in runs_by_outcome.items()]
        return f"expected {self.expected}, got {'; '.join(got)}"


def _parts(formats: Formats) -> Iterator[Part]:
    for name in CASES:
        runs = {
            f"({format}, num_threads={threads}, prefetch={prefetch})": partial(
                batches_digest, name, format, as_format, threads, prefetch
            )
            for format, as_format in formats.items()
            for threads, prefetch in _THREADS_AND_PREFETCH
        }
        yield Part(name, EXPECTED[name], runs)
    # Sums of multiples of 1/64 are exact in any order.
    losses, classes = (np.arange(100_000) % 1000).astype(np.float32) / 64, np.arange(100_000) % 7
    sums, counts = [0.0] * 7, [0] * 7
    for loss, class_id in zip(losses.tolist(), classes.tolist(), strict=True):
        sums[class_id] += loss
        counts[class_id] += 1

    def summed(as_format: Callable[[NDArray[Any]], Any]) -> str:
        result = class_loss(as_format(losses), as_format(classes), 7)
        return f"{result.sum.tolist()} / {result.count.tolist()}"

    yield Part("class_loss", f"{sums} / {counts}", {name: partial(summed, formats[name]) for name in formats})


def batches_digest(
    case: str,
    format: Any = "numpy",
    as_format: Callable[[NDArray[Any]], Any] = np.asarray,
    num_threads: int = 0,
    prefetch: int = 0,
) -> str:
    """Return a digest of three epochs: the rows of each batch, and the proportions and the state after it.

    Args:
        case: Key of `CASES`.
        format: Format of the loader.
        as_format: Function that converts a NumPy array to that format.
        num_threads: Number of threads of the loader.
        prefetch: Number of batches prepared ahead.

    Raises:
        ValueError: A batch contains other rows than `batch_rows`.
    """
    x, y = np.arange(3000, dtype=np.int32).reshape(1000, 3), np.arange(1000)
    digest = hashlib.sha256()
    with Loader(
        (as_format(x), as_format(y)),
        batch_size=32,
        seed=7,
        num_threads=num_threads,
        prefetch=prefetch,
        format=format,
        **CASES[case],
    ) as loader:
        for _ in range(3):
            for inputs, targets in loader:
                rows = np.asarray(loader.batch_rows)
                if not (np.array_equal(inputs, x[rows]) and np.array_equal(targets, y[rows])):
                    msg = f"a batch must contain the rows {rows.tolist()} (got {np.asarray(targets).tolist()})"
                    raise ValueError(msg)
                loader.record(as_format((1 + rows % 5 + np.asarray(loader.batch_classes)).astype(np.float32) / 8))
                state = {key: value for key, value in loader.state_dict().items() if key != "fingerprint"}
                digest.update(rows.astype("<i8").tobytes())
                digest.update(loader.proportions.astype("<f8").tobytes())
                digest.update(json.dumps(state, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _one_line(error: object) -> str:
    text = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
    return " ".join(text.split())[:200]


# ---- speed


def _rows_per_second(torch: Any) -> dict[str, float]:
    """Return the median speeds of this loader and of DataLoader, or of NumPy without torch, in interleaved rounds."""
    x = np.ones((_SPEED_ROWS, _SPEED_BYTES), np.uint8)  # zeros would share one page of memory
    y = np.arange(_SPEED_ROWS)
    data: tuple[Any, Any] = (x, y)
    baseline: Callable[[], Iterable[Any]]
    if torch is None:
        name, baseline = "NumPy", partial(_numpy_batches, x, y)
    else:
        from torch.utils.data import DataLoader, TensorDataset

        data = torch.from_numpy(x), torch.from_numpy(y)
        batches = DataLoader(TensorDataset(*data), batch_size=_SPEED_BATCH, shuffle=True)
        name, baseline = "DataLoader", lambda: batches
    format: Any = "numpy" if torch is None else "torch"
    with Loader(data, batch_size=_SPEED_BATCH, seed=0, format=format) as loader:
        epochs: dict[str, Callable[[], Iterable[Any]]] = {"l2m_fast": lambda: loader, name: baseline}
        speeds: dict[str, list[float]] = {name: [] for name in epochs}
        end = time.perf_counter() + SPEED_SECONDS
        while not speeds[name] or time.perf_counter() < end:
            for loader_name, epoch in epochs.items():
                speeds[loader_name].append(_speed(epoch))
    return {name: statistics.median(measured) for name, measured in speeds.items()}


def _speed(epoch: Callable[[], Iterable[Any]]) -> float:
    """Return rows per second, measured over at least 0.1 s because an epoch may take only a few milliseconds."""
    start, rows, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < 0.1:
        deque(epoch(), maxlen=0)
        rows, elapsed = rows + _SPEED_ROWS, time.perf_counter() - start
    return rows / elapsed


def _numpy_batches(x: NDArray[Any], y: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    permutation = np.random.default_rng().permutation(len(x))
    for i in range(0, len(x), _SPEED_BATCH):
        rows = permutation[i : i + _SPEED_BATCH]
        yield x[rows], y[rows]


if __name__ == "__main__":
    print("EXPECTED = {")
    for case in CASES:
        print(f'    "{case}": "{batches_digest(case)}",')
    print("}")
