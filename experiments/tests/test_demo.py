"""`l2m-experiments demo`: what it reads, refuses, prints and writes."""

from __future__ import annotations

import gzip
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from l2m_experiments import cli, demo, records
from l2m_experiments.datasets import idx_folder
from l2m_experiments.files import read_idx
from l2m_experiments.imbalance import long_tail
from l2m_experiments.records import Record
from l2m_experiments.report import headline

pytestmark = pytest.mark.usefixtures("one_torch_thread")

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_set(directory: Path, prefix: str, rows_per_class: int, suffix: str = "") -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3, dtype=np.uint8), rows_per_class))
    # The brightness depends on the class, so that a few epochs suffice to learn something.
    images = rng.integers(0, 40, (len(labels), 8, 8), dtype=np.uint8) + 100 * labels[:, None, None]
    write_idx(directory / f"{prefix}-{IMAGES}{suffix}", images)
    write_idx(directory / f"{prefix}-{LABELS}{suffix}", labels)


@pytest.fixture
def idx_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny"
    directory.mkdir()
    write_set(directory, "train", rows_per_class=100)
    write_set(directory, "t10k", rows_per_class=8, suffix=".gz")
    return directory


def fails_with(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, which must end with exit code 2 and one line on standard error, and return that line."""
    assert cli.main(["demo", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


def test_the_demo_trains_every_method_prints_the_comparison_and_writes_runs_and_report(
    idx_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "b"
    arguments = ["--data", str(idx_directory), "--out", str(out), "--seeds", "2", "--epochs", "5", "--batch-size", "10"]
    assert cli.main(["demo", *arguments, "--num-threads", "1", "--mixing-rate", "0.2"]) == 0
    printed, progress = capsys.readouterr()
    done = records.read_all(out)

    assert [line.split(";")[0] for line in progress.splitlines()] == [
        f"run {3 * seed + i + 1} of 6 done: tiny, {method}, seed {seed}"
        for seed in range(2)
        for i, method in enumerate(demo.COMPARED)
    ]
    introduction = (
        "Data: tiny; 111 training images, long-tailed 100:1; 24 test images, 8 per class\n"
        "Training images of class 0 to 2: 100 10 1\n"
        "Budget: 5 epochs of 11 batches of 10; 2 seeds; mixing rate 0.2; Adam, learning rate 0.001\n"
    )
    assert printed.startswith(introduction)
    assert headline(done) in printed
    assert "Loading one epoch (11 batches, medians of 20 interleaved repeats): torch DataLoader" in printed
    written = {line.removeprefix("written: ") for line in printed.splitlines() if line.startswith("written: ")}
    assert written == {str(path) for path in out.iterdir()}
    assert {"demo.jsonl.xz", "report.html", "report.md"} <= {path.name for path in out.iterdir()}
    assert sorted((run.config.method, run.config.seed) for run in done) == sorted(
        (method, seed) for method in demo.COMPARED for seed in range(2)
    )
    for run in done:
        assert (run.config.task, run.config.preset, run.config.epochs, run.config.batch_size) == ("tiny", "demo", 5, 10)
        assert run.config.mixing_rate == 0.2
        assert run.class_sizes == (100, 10, 1)
        assert run.test_class_sizes == (8, 8, 8)
        assert [point.steps for point in run.points] == [0, 11, 22, 33, 44, 55]
        proportions = np.array([point.proportions for point in run.points])
        np.testing.assert_allclose(proportions.sum(axis=1), 1, atol=1e-4)
        if run.config.method == "classical":
            np.testing.assert_allclose(proportions, [np.array([100, 10, 1]) / 111] * 6, atol=1e-4)
        if run.config.method == "learn2mix":
            assert np.abs(proportions[-1] - proportions[0]).max() > 0.01


def test_a_demo_replaces_the_runs_of_an_earlier_one(idx_directory: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(idx_directory), "--out", str(tmp_path / "out"), "--epochs", "4"]
    assert cli.main(["demo", *arguments, "--seeds", "2"]) == 0
    assert cli.main(["demo", *arguments, "--seeds", "1", "--batch-size", "20"]) == 0
    done = records.read_all(tmp_path / "out")
    assert [(run.config.seed, run.config.batch_size) for run in done] == [(0, 20)] * 3


def test_the_demo_on_digits_repeats_its_errors(tmp_path: Path) -> None:
    errors = []
    for out in (tmp_path / "one", tmp_path / "two"):
        assert cli.main(["demo", "--out", str(out), "--seeds", "1", "--epochs", "4", "--batch-size", "100"]) == 0
        errors.append([[point.class_errors for point in run.points] for run in records.read_all(out)])
    assert errors[0] == errors[1]


def test_idx_folders_keep_the_test_set_and_draw_the_training_set_from_the_seed(idx_directory: Path) -> None:
    task, seeds = demo._images(idx_directory)
    first, second, again = task.load(0), task.load(1), task.load(0)
    assert seeds == 3
    assert first.train.classes.bincount().tolist() == [100, 10, 1]
    assert first.test.classes.bincount().tolist() == [8, 8, 8]
    assert (first.test.inputs == second.test.inputs).all()
    assert not (first.train.inputs == second.train.inputs).all()
    assert (first.train.inputs == again.train.inputs).all()
    assert (first.train.inputs.amin(dim=(1, 2, 3)) // 100 == first.train.classes).all()


def test_an_idx_folder_is_an_image_set(idx_directory: Path) -> None:
    images = idx_folder(idx_directory)
    assert images.class_names == ("0", "1", "2")
    assert images.source == "tiny"
    assert images.train[0].shape == (300, 1, 8, 8)
    assert images.test[0].shape == (24, 1, 8, 8)


def test_a_long_tail_falls_exponentially_to_at_least_1() -> None:
    assert long_tail(1000, num_classes=3, imbalance=100) == (1000, 100, 10)
    assert long_tail(5, num_classes=3, imbalance=100) == (5, 1, 1)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_read_idx_returns_what_was_written(tmp_path: Path, suffix: str) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    write_idx(tmp_path / f"images{suffix}", array)
    np.testing.assert_array_equal(read_idx(tmp_path / f"images{suffix}", ndim=3), array)


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def relabel(path: Path, labels: list[int]) -> None:
    write_idx(path, np.array(labels, np.uint8))


def resize(path: Path, shape: tuple[int, ...]) -> None:
    write_idx(path, np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / f"train-{IMAGES}").unlink(), f"has neither train-{IMAGES} nor train-{IMAGES}.gz"),
        (lambda d: cut(d / f"train-{IMAGES}", -1), "is cut short: its header asks for 19216 bytes (got 19215)"),
        (lambda d: cut(d / f"train-{IMAGES}", 10), "is cut short: its header asks for"),
        (lambda d: cut(d / f"train-{IMAGES}", 0), "must start with the IDX magic number 00000803 (got an empty file)"),
        (lambda d: extend(d / f"train-{IMAGES}"), "is too long: its header asks for 19216 bytes (got 19217)"),
        (lambda d: cut(d / f"t10k-{IMAGES}.gz", -9), "cannot be read: "),
        (lambda d: cut(d / f"t10k-{IMAGES}.gz", 40), "cannot be read: "),
        (lambda d: relabel(d / f"train-{IMAGES}", [0, 1, 2]), "magic number 00000803 (got 00000801)"),
        (lambda d: relabel(d / f"train-{LABELS}", [0, 1, 2]), "(got 300 images, 3 labels)"),
        (lambda d: relabel(d / f"train-{LABELS}", [0, 2] * 150), "train class sizes [150, 0, 150]"),
        (lambda d: relabel(d / f"t10k-{LABELS}.gz", [0, 1] * 12), "t10k [12, 12, 0]"),
        (lambda d: relabel(d / f"t10k-{LABELS}.gz", [0, 1, 2, 3] * 6), "train class sizes [100, 100, 100, 0]"),
        (lambda d: resize(d / f"t10k-{IMAGES}.gz", (24, 9, 8)), "(got train (8, 8), t10k (9, 8))"),
        (lambda d: resize(d / f"t10k-{IMAGES}.gz", (0, 8, 8)), "(got 0 images, 24 labels)"),
        (lambda d: (d / f"train-{IMAGES}").unlink() or (d / f"train-{IMAGES}").mkdir(), "cannot be read: "),
    ],
)
def test_damaged_idx_files_are_named_in_one_line(
    damage: Callable[[Path], object],
    message: str,
    idx_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(idx_directory)
    error = fails_with(["--data", str(idx_directory), "--out", str(tmp_path / "out")], capsys)
    assert error.startswith("l2m-experiments demo: ")
    assert message in error
    assert str(idx_directory) in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seeds", "0", "seeds must be at least 1 (got 0)"),
        ("--epochs", "3", "epochs must be at least 4 (got 3)"),
        ("--batch-size", "0", "batch_size must be at least 1 (got 0)"),
        ("--batch-size", "112", "batch_size must be at most the 111 training rows (got 112)"),
        ("--num-threads", "-1", "num_threads must be at least 1 (got -1)"),
        ("--mixing-rate", "2", "mixing_rate"),
        ("--mixing-rate", "nan", "mixing_rate"),
    ],
)
def test_options_out_of_range_are_refused_before_any_work(
    option: str, value: str, message: str, idx_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(idx_directory), "--out", str(tmp_path / "out"), option, value]
    assert message in fails_with(arguments, capsys)
    assert not (tmp_path / "out").exists()


def test_a_missing_data_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path / 'no'} is not a directory" in fails_with(["--data", str(tmp_path / "no")], capsys)


def test_an_output_folder_that_cannot_be_created_is_refused_before_any_work(
    idx_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    error = fails_with(["--data", str(idx_directory), "--out", str(tmp_path / "file")], capsys)
    assert f"runs cannot be written to {tmp_path / 'file'}" in error


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["demo", "--seeds", "many"], ["demo", "--color"]])
def test_invalid_arguments_are_reported_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_interrupt_ends_with_one_line_and_130(
    idx_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("l2m_experiments.runs.train", interrupt)
    assert cli.main(["demo", "--data", str(idx_directory), "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "l2m-experiments: interrupted\n"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture(scope="module")
def classical(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Return a run of classical training with 4 epochs on digits."""
    out = tmp_path_factory.mktemp("demo")
    options = {
        "data": None,
        "seeds": 1,
        "epochs": 4,
        "batch_size": 100,
        "mixing_rate": 0.1,
        "num_threads": 1,
        "out": out,
    }
    demo.demo(Namespace(**options), lambda _: None)
    return next(run for run in records.read_all(out) if run.config.method == "classical")


@pytest.mark.parametrize(
    ("errors", "hint"),
    [
        (
            (90, 80, 75, 70, 69),
            (
                "Classical training hardly learned in this budget (31.0 %, chance is 10.0 %): "
                "raise --epochs before drawing conclusions."
            ),
        ),
        (
            (90, 50, 40, 30, 28),
            (
                "Classical training was still improving (+2.0 points in the last quarter of the budget): "
                "more --epochs may improve it further."
            ),
        ),
        (
            (90, 50, 40, 30, 29.5),
            "Classical training was no longer improving (+0.5 points in the last quarter of the budget).",
        ),
    ],
)
def test_the_hint_says_whether_the_budget_was_long_enough(
    errors: tuple[float, ...], hint: str, classical: Record
) -> None:
    points = tuple(replace(point, test_error=e) for point, e in zip(classical.points, errors, strict=True))
    assert demo.budget_hint([replace(classical, points=points)]) == hint


def test_the_time_of_an_epoch_is_one_line() -> None:
    timed = demo.EpochTime(batches=2, repeats=1, data_loader=0.03, loader=0.002)
    assert str(timed).endswith("torch DataLoader 30.00 ms, this loader 2.00 ms, ratio 15.0")
