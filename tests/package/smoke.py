"""Smoke test of a new installation, with only NumPy. Usage: python smoke.py EXPECTED_CUDA_BUILT (0 or 1)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np

import l2m_fast


def main(cuda_built: bool) -> None:
    """Raise AssertionError unless the installation works."""
    assert importlib.util.find_spec("torch") is None, "the environment must have no torch"
    assert importlib.util.find_spec("_testing") is None
    info = l2m_fast.build_info()
    assert info["cuda_built"] == cuda_built, info
    assert (info["without_cuda"] == "") == cuda_built, info

    x, y = np.arange(3000).reshape(1000, 3), np.arange(1000) % 4

    def make() -> l2m_fast.Loader:
        return l2m_fast.Loader(
            (x, y), batch_size=64, classes=y, mixing=l2m_fast.Learn2Mix(0.5), seed=7, update_every=3, format="numpy"
        )

    def steps(loader: l2m_fast.Loader, count: int) -> list[list[int]]:
        rows = []
        for _ in range(count):
            inputs, targets = next(batches[loader])
            assert (x[loader.batch_rows] == inputs).all()
            loader.record(1.0 + targets)
            rows.append(inputs[:, 0].tolist())
        return rows

    loader = make()
    batches = {loader: iter(loader)}
    steps(loader, 5)
    state, rest = loader.state_dict(), steps(loader, 8)
    resumed = make()
    resumed.load_state_dict(state)
    batches[resumed] = iter(resumed)
    assert steps(resumed, 8) == rest

    sums = l2m_fast.class_loss(np.ones(1000, np.float32), y, 4)
    assert sums.sum.tolist() == sums.count.tolist() == [250] * 4

    doctor = [sys.executable, "-W", "error", "-m", "l2m_fast", "doctor"]
    done = subprocess.run(doctor, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


if __name__ == "__main__":
    main(bool(int(sys.argv[1])))
