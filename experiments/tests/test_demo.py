"""`l2m-experiments demo`: what it reads, refuses, prints and writes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from l2m_experiments import cli, demo
from l2m_experiments.demo.train import EpochTime, train
from l2m_experiments.files import read_idx
from l2m_experiments.imbalance import long_tail
from l2m_fast import Proportional

pytestmark = pytest.mark.usefixtures("one_torch_thread")

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_set(directory: Path, prefix: str, rows_per_class: int, suffix: str = "") -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3, dtype=np.uint8), rows_per_class))
    # The brightness tells the class, so that a few epochs are enough to learn something.
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
    """Runs the command, which must end with exit code 2 and one line on standard error; returns that line."""
    assert cli.main(["demo", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


def test_miniature_run_prints_the_table_and_writes_figure_and_json(
    idx_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "b"
    arguments = ["--data", str(idx_directory), "--out", str(out), "--seeds", "2", "--epochs", "5", "--batch-size", "10"]
    assert cli.main(["demo", *arguments, "--num-threads", "1"]) == 0
    printed, progress = capsys.readouterr()
    record = json.loads((out / "demo.json").read_text(encoding="utf-8"))

    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert [line.split(";")[0] for line in progress.splitlines()] == [
        f"run {3 * seed + i + 1} of 6 done: {method}, seed {seed}"
        for seed in range(2)
        for i, method in enumerate(record["methods"])
    ]
    assert record["config"] == {
        "data": "tiny",
        "class_sizes": [100, 10, 1],
        "test_rows_per_class": 8,
        "seeds": 2,
        "epochs": 5,
        "batch_size": 10,
        "mixing_rate": 0.1,
        "num_threads": 1,
    }
    assert record["checkpoints"] == {"25": 2, "50": 3, "100": 5}
    assert set(record["versions"]) == {"python", "l2m-fast", "numpy", "torch", "scikit-learn", "matplotlib"}
    assert record["epoch_time"]["batches"] == 11
    assert list(record["methods"]) == ["Learn2Mix", "classical", "balanced"]
    lines = printed.splitlines()
    for method, measures in record["methods"].items():
        row = next(line for line in lines if line.startswith(method))
        for name in ("accuracy", "worst_class_accuracy"):
            by_seed = np.array(measures[name]["by_seed"])
            assert by_seed.shape == (2, 5)
            np.testing.assert_allclose(measures[name]["mean"], by_seed.mean(axis=0), atol=1e-5)
            np.testing.assert_allclose(measures[name]["spread"], by_seed.std(axis=0, ddof=1), atol=1e-5)
            for epoch in record["checkpoints"].values():
                assert f"{measures[name]['mean'][epoch - 1]:.1f} ± {measures[name]['spread'][epoch - 1]:.1f}" in row
        proportions = np.array(measures["proportions"]["by_seed"])
        assert proportions.shape == (2, 6, 3)
        np.testing.assert_allclose(proportions.sum(axis=2), 1, atol=1e-5)
    learned, fixed = (np.array(record["methods"][m]["proportions"]["mean"]) for m in ("Learn2Mix", "classical"))
    np.testing.assert_allclose(fixed, np.broadcast_to(np.array([100, 10, 1]) / 111, (6, 3)), atol=1e-5)
    np.testing.assert_allclose(learned[0], fixed[0], atol=1e-5)
    assert np.abs(learned[-1] - learned[0]).max() > 0.01
    for line in record["conclusion"]:
        assert line in lines


def test_miniature_run_on_digits_with_one_seed_gives_no_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--out", str(tmp_path), "--seeds", "1", "--epochs", "4", "--batch-size", "100"]) == 0
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    assert "±" not in printed
    assert "one seed says nothing about chance" in printed
    assert all(measures["accuracy"]["spread"] is None for measures in record["methods"].values())


def test_equal_seeds_and_mixing_repeat_the_run() -> None:
    split = demo.digits().split(3)

    def run(seed: int) -> NDArray[np.float64]:
        return train(split, Proportional(), epochs=3, batch_size=32, seed=seed, after_epoch=lambda: None).recalls

    np.testing.assert_array_equal(run(0), run(0))
    assert not np.array_equal(run(0), run(1))


def test_digits_are_split_into_a_long_tail_and_a_balanced_test_set() -> None:
    source = demo.digits()
    first, second = source.split(0), source.split(1)
    np.testing.assert_array_equal(np.bincount(first.train_labels), source.class_sizes)
    np.testing.assert_array_equal(np.bincount(first.test_labels), [source.test_rows_per_class] * 10)
    assert first.train_images.dtype == first.test_images.dtype == np.uint8
    assert first.train_images.max() == 255
    assert not np.array_equal(first.test_images, second.test_images)
    np.testing.assert_array_equal(first.test_images, source.split(0).test_images)


def test_idx_split_keeps_the_test_set_and_draws_the_training_set_by_seed(idx_directory: Path) -> None:
    source = demo.idx(idx_directory)
    first, second = source.split(0), source.split(1)
    assert source.class_sizes == (100, 10, 1)
    np.testing.assert_array_equal(np.bincount(first.train_labels), source.class_sizes)
    np.testing.assert_array_equal(np.bincount(first.test_labels), [8, 8, 8])
    np.testing.assert_array_equal(first.test_images, second.test_images)
    assert not np.array_equal(first.train_images, second.train_images)
    np.testing.assert_array_equal(first.train_images.min(axis=(1, 2)) // 100, first.train_labels)


def test_long_tail_falls_exponentially_and_never_to_nothing() -> None:
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


def test_a_data_directory_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{tmp_path / 'no'} is not a directory" in fails_with(["--data", str(tmp_path / "no")], capsys)


def test_an_output_directory_that_cannot_be_made_is_refused_before_any_work(
    idx_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    error = fails_with(["--data", str(idx_directory), "--out", str(tmp_path / "file")], capsys)
    assert f"cannot make the output directory {tmp_path / 'file'}" in error


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["demo", "--seeds", "many"], ["demo", "--colour"]])
def test_arguments_that_cannot_be_read_take_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_interrupt_ends_with_one_line_and_130(
    idx_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: demo.Settings) -> demo.Comparison:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "compare", interrupted)
    assert cli.main(["demo", "--data", str(idx_directory), "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "l2m-experiments: interrupted\n"


def comparison(learn2mix: list[float], classical: list[float], balanced: list[float]) -> demo.Comparison:
    """One whose accuracies, one for each seed, hold for all of its four epochs and two classes."""
    source = demo.Source("made up", (10, 1), 5, lambda seed: demo.digits().split(seed), seeds=2, epochs=4, batch_size=4)
    finals = {"Learn2Mix": learn2mix, "classical": classical, "balanced": balanced}
    return demo.Comparison(
        demo.Settings(source, seeds=len(learn2mix), epochs=4, batch_size=4, mixing_rate=0.1, num_threads=1),
        recalls={method: np.tile(np.array(of)[:, None, None], (1, 4, 2)) for method, of in finals.items()},
        proportions={method: np.full((len(of), 5, 2), 0.5) for method, of in finals.items()},
        epoch_time=EpochTime(batches=2, repeats=1, data_loader=0.03, loader=0.002),
        seconds=1.0,
    )


def test_the_conclusion_says_so_when_learn2mix_wins_and_when_it_does_not() -> None:
    said = demo.conclusion(comparison([80, 82], [70, 71], [85, 88]))
    assert "At the end of the budget balanced has the highest mean test accuracy, 86.5 %." in said
    assert "Against classical, in points of accuracy, Learn2Mix ends ahead by 10.5 ± 0.7." in said
    assert "Against balanced, in points of accuracy, Learn2Mix ends behind by 5.5 ± 0.7." in said
    assert "no longer rising" in said
    assert "torch DataLoader 30.00 ms, this loader 2.00 ms, ratio 15.0" in said


def test_differences_within_the_spread_are_called_level() -> None:
    said = demo.conclusion(comparison([80, 82], [84, 80], [81, 81]))
    assert "Against classical, in points of accuracy, Learn2Mix ends level (-1.0 ± 4.2)." in said
    assert "Against balanced, in points of accuracy, Learn2Mix ends level (+0.0 ± 1.4)." in said


def test_a_budget_in_which_classical_training_did_not_learn_is_called_too_short() -> None:
    said = demo.conclusion(comparison([80, 82], [60, 62], [81, 81]))
    assert "Classical training hardly learned in this budget (61.0 %, chance is 50.0 %)" in said
