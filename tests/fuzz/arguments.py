"""Arguments of any kind: refused with a short message, or a loader that works."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch

from fuzz import run
from l2m_fast import (
    Annealed,
    Balanced,
    ClassLoss,
    EffectiveNumber,
    GroupDRO,
    Learn2Mix,
    Loader,
    Normalized,
    Static,
    Temperature,
)

_ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 10**5, 2**31, 2**62, 2**64, 10**400, 0.5, float("nan"), float("inf")),
    *("", "y", "numpy", "grouped", "cuda", b"x", [], [1, 2], (), {}, {"a": 1}, set(), object(), print, int),
    *(np.float32(2), np.int8(4), np.zeros(0), np.zeros(3), np.zeros((2, 2)), np.array(3), np.array([None, "a"])),
    *(torch.tensor(3), torch.tensor([3]), torch.zeros(2, 2), torch.zeros(0), torch.zeros(3, requires_grad=True)),
]
_DTYPES = ["u1", "i2", "i8", "f2", "f4", "f8", "c8", "?", "S3", "U2", "M8[s]", "V3", ">f4", "O"]
_TORCH_DTYPES = [
    torch.uint8,
    torch.int64,
    torch.bfloat16,
    torch.float16,
    torch.bool,
    torch.complex64,
    torch.float8_e5m2,
]


def array(rng: random.Random, num_rows: int) -> Any:
    """Return a random array of this number of rows."""
    shape = (num_rows, *(rng.randint(1, 4) for _ in range(rng.randrange(3))))
    if rng.random() < 0.4:
        result: Any = torch.zeros(shape).to(rng.choice(_TORCH_DTYPES))
        if rng.random() < 0.2 and result.ndim > 1:
            result = result.transpose(0, 1).contiguous().transpose(0, 1)
        return result
    result = np.zeros(shape, rng.choice(_DTYPES))
    how = rng.random()
    if how < 0.1:
        return np.asfortranarray(result)
    if how < 0.2:
        return result[::-1]
    if how < 0.25:
        return np.ma.masked_array(result)
    if how < 0.35 and result.ndim > 1:
        return Normalized(np.zeros(shape, np.uint8), 127.5, 64)
    return result


def data(rng: random.Random, num_rows: int, depth: int = 0) -> Any:
    """Return a random structure of arrays."""
    how = rng.random()
    if how < 0.5 or depth > 3:
        return array(rng, num_rows if rng.random() < 0.95 else num_rows + 1)
    if how < 0.55:
        return rng.choice(_ODD)
    items = [data(rng, num_rows, depth + 1) for _ in range(rng.randint(0, 3))]
    if how < 0.7:
        return tuple(items)
    if how < 0.85:
        return items
    return {rng.choice(["a", 1, None, "k" * 300]): item for item in items}


def arguments(rng: random.Random, num_rows: int) -> dict[str, Any]:
    """Return valid arguments, some of them replaced by invalid ones."""
    classes = np.array([rng.randrange(4) for _ in range(num_rows)])
    world_size = rng.choice([None, None, 1, 2, 3])
    given: dict[str, Any] = {
        "batch_size": rng.choice([1, 2, 7, 30]),
        "classes": rng.choice(
            [None, classes, classes.tolist(), [f"c{k}" for k in classes], torch.tensor(classes), classes.astype(object)]
        ),
        "mixing": rng.choice(
            [
                *(None, Balanced(), Learn2Mix(0.5), GroupDRO(0.1), EffectiveNumber(0.9), Temperature(2), Annealed()),
                *(Static([0.25] * 4), Static([1.0]), Static(cast("Any", [[1]])), Static(cast("Any", ["a"]))),
            ]
        ),
        "rows": rng.choice([None, None, [0], np.arange(num_rows)[::2], np.zeros(num_rows, bool), [num_rows - 1, 0]]),
        "shuffle": rng.random() < 0.7,
        "order": rng.choice(["shuffled", "grouped"]),
        "drop_last": rng.random() < 0.3,
        "steps_per_epoch": rng.choice([None, 1, 5]),
        "total_steps": rng.choice([None, 1, 100]),
        "update_every": rng.choice([None, 1, 3]),
        "lookahead": rng.choice([0, 0, 0, 1, 2, 5]),
        "include": rng.choice([(), (), ("rows",), ("step", "classes"), ["rows", "rows"], "rows"]),
        "seed": rng.choice([None, 0, 2**64 - 1]),
        "num_threads": rng.choice([None, 0, 1, 3]),
        "prefetch": rng.choice([0, 1, 4]),
        "rank": None if world_size is None else rng.randrange(world_size),
        "world_size": world_size,
        "all_reduce": rng.choice([None, lambda sums: sums * (world_size or 1), lambda sums: None, lambda sums: sums]),  # noqa: ARG005
        "format": rng.choice(["torch", "numpy"]),
    }
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        given[rng.choice([*given, "num_workers", "device", "pin_memory"])] = rng.choice(_ODD)
    return given


def case(rng: random.Random) -> str:
    """Run one case."""
    num_rows = rng.choice([1, 2, 5, 20, 60])
    refusals = (TypeError, ValueError, IndexError, RuntimeError, MemoryError)
    given = arguments(rng, num_rows)
    if given["num_threads"] is not None and isinstance(given["num_threads"], int) and given["num_threads"] > 8:
        given["num_threads"] = 8
    try:
        loader = Loader(data(rng, num_rows), **given)
    except (TypeError, ValueError, IndexError) as error:
        assert len(str(error)) < 2000, len(str(error))
        return "refused"
    steps = 0
    for _ in range(rng.randint(1, 4)):
        iterator = iter(loader)
        for _ in range(rng.randint(1, 6)):
            try:
                if next(iterator, None) is None:
                    break
                steps += 1
                if rng.random() < 0.5:
                    _record(loader, rng)
            except refusals as error:
                assert len(str(error)) < 2000, len(str(error))
                break
    assert repr(loader)
    state = loader.state_dict()
    assert state["total_step"] >= steps - given["lookahead"]
    loader.load_state_dict(state)
    try:
        next(iter(loader), None)
    except refusals as error:
        assert len(str(error)) < 2000, len(str(error))
    loader.close()
    return "worked"


def _record(loader: Loader, rng: random.Random) -> None:
    of_batch = len(loader.batch_rows)
    losses: list[Any] = [
        *(
            np.ones(of_batch),
            torch.ones(of_batch),
            np.full(of_batch, np.inf),
            torch.ones(of_batch, dtype=torch.bfloat16),
        ),
        ClassLoss(np.ones(loader.num_classes), np.ones(loader.num_classes, np.int64)),
        *_ODD,
    ]
    classes = rng.choice([None, None, np.zeros(of_batch, int), rng.choice(_ODD)])
    before = loader.state_dict()
    try:
        loader.record(rng.choice(losses), classes)
    except (TypeError, ValueError, RuntimeError):
        assert loader.state_dict() == before


if __name__ == "__main__":
    raise SystemExit(run("arguments", case))
