"""The tasks: their data, their models, and the figures of the paper."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from fake_datasets import fake_images
from l2m_experiments import datasets, models
from l2m_experiments.rows import noise_class
from l2m_experiments.task import Rows, Task, TaskData
from l2m_experiments.tasks import TASKS, Preset, task
from l2m_experiments.user_input import InputError

pytestmark = pytest.mark.usefixtures("one_torch_thread")

with_files = pytest.mark.skipif("L2M_DATA" not in os.environ, reason="L2M_DATA names no folder of data files")


# Models.


def test_the_transformer_does_not_see_padding() -> None:
    torch.manual_seed(0)
    model = models.Transformer(num_words=50, length=12, num_classes=2).eval()
    words = torch.randint(1, 50, (3, 7))
    with torch.no_grad():
        short, long = model(words), model(torch.cat((words, torch.zeros(3, 5, dtype=torch.int64)), dim=1))
    torch.testing.assert_close(short, long)


def test_the_transformer_sees_the_order_of_words() -> None:
    torch.manual_seed(0)
    model = models.Transformer(num_words=50, length=12, num_classes=2).eval()
    words = torch.randint(1, 50, (3, 12))
    with torch.no_grad():
        assert (model(words) - model(words.flip(1))).abs().max() > 1e-4


def test_positions_are_the_sinusoids_of_the_transformer_paper() -> None:
    positions = models.Transformer(num_words=5, length=9, num_classes=2).positions
    expected = [
        [(np.sin, np.cos)[i % 2](place / 10000 ** (2 * (i // 2) / 64)) for i in range(64)] for place in range(9)
    ]
    np.testing.assert_allclose(positions, expected, atol=1e-6)


def test_resnet_18_has_the_layers_of_its_paper() -> None:
    torch.manual_seed(0)
    model = models.resnet18(num_classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_689_512  # also those of torchvision's
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in model.modules()) == 17 + 3  # and three of shortcuts
    sizes: list[tuple[int, ...]] = []
    for layer in list(model.children())[2:-3]:
        layer.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[1:])))
    logits = model(torch.randn(2, 3, 224, 224))
    assert logits.shape == (2, 1000)
    assert sizes == [(64, 56, 56)] * 3 + [(128, 28, 28)] * 2 + [(256, 14, 14)] * 2 + [(512, 7, 7)] * 2
    logits.square().mean().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


# Tasks.


IMAGE_TASKS = {
    "mnist": ("mnist", (1, 28, 10)),
    "fashion-mnist": ("fashion_mnist", (1, 28, 10)),
    "fashion-mnist-long-tail": ("fashion_mnist", (1, 28, 10)),
    "fashion-mnist-noise": ("fashion_mnist", (1, 28, 10)),
    "cifar10": ("cifar10", (3, 32, 10)),
    "cifar10-long-tail": ("cifar10", (3, 32, 10)),
    "cifar10-noise": ("cifar10", (3, 32, 10)),
    "imagenette": ("imagenette", (3, 96, 10)),
    "cifar100": ("cifar100", (3, 32, 100)),
    "tiny-imagenet100": ("tiny_imagenet100", (3, 32, 100)),
    "mnist-reconstruction": ("mnist", (1, 28, 10)),
    "fashion-mnist-reconstruction": ("fashion_mnist", (1, 28, 10)),
    "cifar10-reconstruction": ("cifar10", (3, 32, 10)),
}


def check(of: Task, data: TaskData) -> None:
    """Check the data of a task, and one forward and backward pass of its model."""
    num_classes = len(data.class_names)
    for rows in (data.train, data.test):
        assert rows.classes.dtype == torch.int64
        assert rows.classes.shape == (len(rows.inputs),)
        assert torch.bincount(rows.classes, minlength=num_classes).min() > 0
        assert rows.classes.max() == num_classes - 1
        assert rows.inputs.is_contiguous()
        if of.kind == "classification":
            assert rows.targets is rows.classes
        elif of.kind == "regression":
            assert rows.targets is not None
            assert rows.targets.dtype == torch.float32
            assert rows.targets.shape == rows.classes.shape
        else:
            assert rows.targets is None
    assert data.train.inputs.shape[1:] == data.test.inputs.shape[1:]
    model = of.model(data)
    few = slice(0, 4)
    prepared = of.prepare(data.train.inputs[few])
    assert prepared.dtype in (torch.float32, torch.int64)
    targets = None if data.train.targets is None else data.train.targets[few]
    losses = of.losses(model(prepared), prepared, targets)
    assert losses.shape == (4,)
    losses.mean().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def same(one: Rows, other: Rows) -> bool:
    return torch.equal(one.inputs, other.inputs) and torch.equal(one.classes, other.classes)


@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_image_tasks_in_miniature(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data_set, size = IMAGE_TASKS[name]
    images = fake_images(*size)
    monkeypatch.setattr(datasets, data_set, lambda: images)
    of = task(name, "quick")
    first, again, second = of.load(0), of.load(0), of.load(1)
    check(of, first)
    assert same(first.train, again.train)
    assert not same(first.train, second.train)
    assert same(first.test, second.test)
    assert torch.equal(torch.bincount(first.train.classes), torch.bincount(second.train.classes))
    assert first.train.inputs.dtype == torch.uint8


def test_a_class_of_noise_has_images_of_all_other_classes_and_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    images = fake_images(1, 28, 10)
    pixels, classes = images.train
    class_of = {image.tobytes(): k for image, k in zip(pixels, classes.tolist(), strict=True)}
    noisy = noise_class(images)
    for (given, before), (kept, after) in ((images.train, noisy.train), (images.test, noisy.test)):
        assert len(kept) == len(after) == (before < 9).sum()
        assert np.bincount(after).tolist() == [len(given) // 10 * 9 // 10] * 9 + [9 * (len(given) // 100)]
    truth = np.array([class_of[image.tobytes()] for image in noisy.train[0]])
    labels = noisy.train[1]
    assert (truth[labels < 9] == labels[labels < 9]).all()
    assert np.bincount(truth[labels == 9]).tolist() == [10] * 9
    np.testing.assert_array_equal(noise_class(images).train[1], labels)
    monkeypatch.setattr(datasets, "fashion_mnist", lambda: images)
    data = task("fashion-mnist-noise", "quick").load(0)
    assert data.unscored == 9
    assert data.class_names == (*"012345678", "noise")


def test_reconstruction_takes_images_in_0_to_1(monkeypatch: pytest.MonkeyPatch) -> None:
    images = fake_images(1, 28, 10)
    monkeypatch.setattr(datasets, "mnist", lambda: images)
    of = task("mnist-reconstruction", "quick")
    stored = of.load(0).train.inputs
    torch.testing.assert_close(of.prepare(stored), stored.reshape(len(stored), 784) / 255)


def test_images_are_normalized_channel_by_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    images = fake_images(3, 32, 10)
    monkeypatch.setattr(datasets, "cifar10", lambda: images)
    of = task("cifar10", "quick")
    stored = of.load(0).train.inputs[:5]
    prepared = of.prepare(stored)
    for channel, (mean, std) in enumerate([(0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616)]):
        torch.testing.assert_close(prepared[:, channel], (stored[:, channel] / 255 - mean) / std)


def test_digits_are_those_of_the_demo() -> None:
    of = task("digits", "quick")
    data = of.load(0)
    check(of, data)
    assert torch.bincount(data.train.classes).tolist() == [124, 89, 64, 46, 33, 23, 17, 12, 9, 6]
    assert torch.bincount(data.test.classes).tolist() == [50] * 10
    assert same(data.train, of.load(0).train)
    assert not same(data.train, of.load(1).train)


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_mean_estimation_draws_each_row_with_its_mean(preset: Preset) -> None:
    of = task("mean-estimation", preset)
    data = of.load(0)
    check(of, data)
    assert torch.bincount(data.train.classes).tolist() == [1000, 1000, 800, 200]
    assert torch.bincount(data.test.classes).tolist() == [1000] * 4
    assert data.class_names == ("normal", "exponential", "chi-squared", "uniform")
    assert data.test.targets is not None
    draws, means, kinds = data.test.inputs.double(), data.test.targets.double(), data.test.classes
    variance = torch.stack((torch.ones_like(means), means**2, 2 * means, torch.full_like(means, 100 / 3)))
    of_row = variance.gather(0, kinds[None])[0]
    # Standardized sums of 10 draws have mean 0 and variance 1, up to six standard errors of 1000 rows.
    standard = (draws.mean(dim=1) - means) / (of_row / 10).sqrt()
    for kind in range(4):
        assert standard[kinds == kind].mean().abs() < 6 / 1000**0.5
        assert (standard[kinds == kind].square().mean() - 1).abs() < 6 * 2 / 1000**0.5
    assert (draws[kinds == 3] - means[kinds == 3, None]).abs().max() <= 10
    assert means[kinds < 3].min() >= 0
    assert means[kinds < 3].max() <= 1
    assert means[kinds == 3].min() >= 20
    assert means[kinds == 3].max() <= 50
    assert same(data.train, of.load(0).train)
    assert not same(data.train, of.load(1).train)


# Class sizes and test rows of each task; below, N as the paper reports it.
FILE_TASKS: dict[str, tuple[list[int], int]] = {
    "mnist": ([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], 10_000),
    "fashion-mnist": ([6000] * 10, 10_000),
    "fashion-mnist-long-tail": ([6000, 3597, 2156, 1293, 775, 465, 278, 167, 100, 60], 10_000),
    "fashion-mnist-noise": ([5400] * 10, 9000),
    "cifar10": ([5000] * 10, 10_000),
    "cifar10-long-tail": ([5000, 2997, 1797, 1077, 646, 387, 232, 139, 83, 50], 10_000),
    "cifar10-noise": ([4500] * 10, 9000),
    "tiny-imagenet100": ([int(500 * 40 ** (-k / 99) + 1e-9) for k in range(100)], 5000),
    "imdb": ([20_000, 6000], 10_000),
    "adult": ([24_720, 7841], 16_281),
    "wine": ([799, 244], 3249),
    "housing": ([224, 3297, 56, 64], 10_214),
    "mnist-reconstruction": ([5923, 6742, 5958, 6131, 5842, 1084, 1183, 1253, 1170, 1189], 10_000),
    "fashion-mnist-reconstruction": ([6000] * 5 + [1200] * 5, 10_000),
    "cifar10-reconstruction": ([500] * 4 + [5000] * 2 + [500] * 4, 10_000),
}
PAPERS_N = {
    "mnist": 60_000,
    "fashion-mnist": 60_000,
    "cifar10": 50_000,
    "imdb": 26_000,
    "wine": 1043,
    "housing": 3641,
    "mnist-reconstruction": 36_475,
    "fashion-mnist-reconstruction": 36_000,
    "cifar10-reconstruction": 14_000,
}


@with_files
@pytest.mark.parametrize("name", FILE_TASKS)
def test_the_paper_preset_has_the_papers_rows(name: str) -> None:
    sizes, test_rows = FILE_TASKS[name]
    of = task(name, "paper")
    data = of.load(0)
    check(of, data)
    assert torch.bincount(data.train.classes).tolist() == sizes
    assert len(data.test.classes) == test_rows
    assert len(data.train.classes) == PAPERS_N.get(name, sum(sizes))


@with_files
@pytest.mark.parametrize("name", FILE_TASKS)
def test_the_quick_preset_keeps_the_imbalance_and_repeats_by_seed(name: str) -> None:
    of, variant = task(name, "quick"), TASKS[name].variants["quick"]
    data = of.load(3)
    check(of, data)
    expected = variant.train_share * np.array(FILE_TASKS[name][0])
    assert (np.abs(torch.bincount(data.train.classes).numpy() - expected) <= 1).all()
    assert same(data.train, of.load(3).train)
    assert same(data.test, of.load(4).test)


@with_files
def test_imagenette_has_the_papers_rows() -> None:
    of = task("imagenette", "paper")
    data = of.load(0)
    assert len(data.train.classes) == 5207
    assert len(data.test.classes) == 3925
    few = data.train.inputs[:2]
    assert of.prepare(few).shape == (2, 3, 96, 96)
    assert task("imagenette", "quick").prepare(few).shape == (2, 3, 64, 64)


@with_files
def test_columns_are_standardized_by_the_training_half_alone() -> None:
    table = datasets.wine()
    half, test = datasets.split(table.classes, 0.5, stratified=True)
    assert (len(half), len(test)) == (3248, 3249)
    expected = (table.columns[test] - table.columns[half].mean(axis=0)) / table.columns[half].std(axis=0)
    inputs = task("wine", "paper").load(0).test.inputs
    np.testing.assert_allclose(np.sort(inputs, axis=0), np.sort(expected, axis=0), rtol=1e-4, atol=1e-4)


@with_files
def test_words_of_imdb_are_numbered_by_frequency() -> None:
    reviews = datasets.imdb(10_000, 128)
    assert reviews.ids.shape == (50_000, 128)
    assert reviews.ids.max() == 9999
    assert (reviews.ids[:, 0] > 0).all()
    assert np.intersect1d(reviews.train, reviews.test).size == 0
    np.testing.assert_array_equal(np.bincount(reviews.labels[reviews.train]), [20_000, 20_000])
    counts = np.bincount(reviews.ids[reviews.train].ravel())
    # The ids rank words of whole reviews, and these are their beginnings, so the order is approximate.
    assert counts[2:52].min() > counts[1000:].max()


def test_every_task_has_its_name_a_plausible_protocol_and_a_goal_better_than_chance() -> None:
    for name in TASKS:
        for preset in ("quick", "paper"):
            of = task(name, preset)
            assert of.name == name
            assert of.description
            assert 0 < of.protocol.learning_rate < 0.1
            assert 0.01 <= of.protocol.mixing_rate <= 0.1
            assert min(of.protocol.batch_size, of.protocol.epochs, of.protocol.seconds) > 0
            if of.kind == "classification":
                assert of.learned < (50 if name in ("imdb", "adult") else 91)


def test_the_papers_figures_are_those_of_its_tables() -> None:
    assert task("mnist", "paper").paper["0.25E"] == {
        "learn2mix": (95.42, 0.28),
        "classical": (93.14, 0.47),
        "class-balanced-focal": (91.32, 0.57),
        "smote": (92.41, 0.71),
        "importance": (92.44, 0.63),
        "curriculum": (93.30, 0.54),
    }
    assert task("imagenette", "paper").paper["E"] == {"learn2mix": (42.95, 0.33), "classical": (34.53, 0.33)}
    assert task("wine", "quick").paper["E"] == {"learn2mix": (1.75, 0.21), "classical": (2.03, 0.18)}
    assert task("cifar100", "paper").paper == task("digits", "paper").paper == {}
    for name in TASKS:
        assert set(task(name, "paper").paper) in ({"0.25E", "0.5E", "E"}, set())


def test_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="there is no task 'fashion-mnst'; did you mean fashion-mnist\\?"):
        task("fashion-mnst", "quick")


def test_the_bundled_tasks_need_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: str) -> None:
        raise AssertionError(names)

    monkeypatch.setattr(datasets, "locate", refuse)
    for name in ("digits", "mean-estimation"):
        assert len(TASKS[name]("quick").load(0).train.classes) > 0
