"""The example in C survives kill -9 at any time, and is short."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "build/testing/example_train_c"
EPOCHS = 40


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a CSV file of three classes of different size."""
    rng = random.Random(1)
    lines = [
        f"{k},{rng.gauss(k, 1):.3f},{rng.gauss(-k, 1):.3f},{rng.gauss(0, 1):.3f}\n"
        for k, size in enumerate((200, 100, 20))
        for _ in range(size)
    ]
    rng.shuffle(lines)
    path = tmp_path / "data.csv"
    path.write_text("".join(lines))
    return path


def start(data: Path, checkpoint: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PROGRAM, data, data.parent / checkpoint, str(EPOCHS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_training_that_is_killed_ends_like_one_that_is_not(data: Path) -> None:
    rng = random.Random(2)
    started = time.monotonic()
    run = start(data, "untouched")
    expected, errors = run.communicate()
    # Each run gets at most a quarter of the time of a whole training, on any machine.
    longest = (time.monotonic() - started) / 4
    assert (run.returncode, errors) == (0, "")
    assert expected.count("bias") == 3
    killed = 0
    while True:
        run = start(data, "killed")
        try:
            out, errors = run.communicate(timeout=rng.uniform(0, longest))
        except subprocess.TimeoutExpired:
            run.kill()
            run.communicate()
            killed += 1
            continue
        assert (run.returncode, errors) == (0, "")
        break
    assert killed > 0
    assert out == expected
    assert (data.parent / "killed").read_bytes() == (data.parent / "untouched").read_bytes()


def test_a_checkpoint_of_other_data_is_refused(data: Path) -> None:
    run = start(data, "checkpoint")
    run.communicate()
    data.write_text(data.read_text() + "0,1,2,3\n")
    _, errors = start(data, "checkpoint").communicate()
    assert "rows: 320 in the state, 321 here" in errors


def test_the_example_is_short() -> None:
    assert len((ROOT / "examples/c/train.c").read_text().splitlines()) <= 150
