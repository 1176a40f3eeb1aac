"""Networks of the tasks, in plain torch except MobileNetV3."""

from __future__ import annotations

import math

import torch
from torch import nn


def lenet(num_classes: int) -> nn.Module:
    """Create LeNet-5 with ReLU and max pooling: float32 `[B, 1, 28, 28]` -> logits `[B, K]` (paper, section 4.1)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 4 * 4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, num_classes),
    )


def large_lenet(num_classes: int) -> nn.Module:
    """Create the paper's Large LeNet: float32 `[B, 3, 32, 32]` -> logits `[B, K]`.

    It has three convolutions of 16, 32 and 64 channels, 500 hidden units, and dropout.
    """
    return nn.Sequential(
        *(nn.Conv2d(3, 16, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 4 * 4, 500), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(500, num_classes),
    )


def small_cnn(height: int, width: int, num_classes: int, channels: int = 1) -> nn.Module:
    """Create a CNN of two convolutions and two linear layers: float32 `[B, channels, height, width]` -> logits `[B, K]`."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )


def mlp(num_inputs: int, num_outputs: int) -> nn.Module:
    """Create a network with one hidden layer of 64 ReLU units: float32 `[B, d]` -> `[B, num_outputs]`."""
    return nn.Sequential(nn.Linear(num_inputs, 64), nn.ReLU(), nn.Linear(64, num_outputs))


def autoencoder(num_inputs: int) -> nn.Module:
    """Create linear layers d-128-32-128-d with a final sigmoid: float32 `[B, d]` in 0 .. 1 -> the same (paper, section 4.3)."""
    return nn.Sequential(
        *(nn.Linear(num_inputs, 128), nn.ReLU(), nn.Linear(128, 32)),
        *(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, num_inputs), nn.Sigmoid()),
    )


def has_torchvision() -> bool:
    """Return whether torchvision is installed in a build for this torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return False
    return True


class _ResidualBlock(nn.Module):
    """Basic block of He et al. (2016): two convolutions of 3 x 3, whose output is added to the input."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *(_convolution(channels_in, channels_out, 3, stride), nn.ReLU()),
            _convolution(channels_out, channels_out, 3, 1),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and channels_in == channels_out
            else _convolution(channels_in, channels_out, 1, stride)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the sum after ReLU."""
        return torch.relu(self.residual(images) + self.shortcut(images))


def resnet18(num_classes: int) -> nn.Module:
    """Create ResNet-18 with random weights: float32 `[B, 3, H, W]` -> logits `[B, K]`.

    The layers and the distribution of the weights are those of He et al. (2016, arXiv 1512.03385, table 1) in torchvision.
    """
    layers: list[nn.Module] = [_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)]
    channels = 64
    for wider, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_ResidualBlock(channels, wider, stride), _ResidualBlock(wider, wider, 1)]
        channels = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def _convolution(channels_in: int, channels_out: int, size: int, stride: int) -> nn.Module:
    """Create a convolution without bias, which keeps the size at stride 1, and its batch normalization."""
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


def mobilenet_v3_small(num_classes: int) -> nn.Module:
    """Create torchvision's MobileNetV3 Small with random weights: float32 `[B, 3, H, W]` -> logits `[B, K]`."""
    from torchvision.models import mobilenet_v3_small as build

    model: nn.Module = build(num_classes=num_classes)
    return model


class Transformer(nn.Module):
    """One transformer encoder layer and the mean over words: token ids `[B, L]`, int64 -> logits `[B, K]`.

    64 dimensions, 4 heads, 128 hidden units, sinusoidal positions (paper, appendix C). Id 0 is padding, which
    is neither attended to nor averaged over, unlike in the authors' code. Every row must have a word.
    """

    def __init__(self, num_words: int, length: int, num_classes: int) -> None:
        super().__init__()
        width = 64
        self.embedding = nn.Embedding(num_words, width, padding_idx=0)
        self.positions: torch.Tensor
        self.register_buffer("positions", _positions(length, width), persistent=False)
        self.encoder = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=128, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, num_classes))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits of each row."""
        padding = ids == 0
        words = self.encoder(self.embedding(ids) + self.positions[: ids.shape[1]], src_key_padding_mask=padding)
        words = words.masked_fill(padding.unsqueeze(2), 0)
        logits: torch.Tensor = self.head(words.sum(dim=1) / (~padding).sum(dim=1, keepdim=True))
        return logits


def _positions(length: int, width: int) -> torch.Tensor:
    """Return the sinusoids `[length, width]` of Vaswani et al. (2017), section 3.5."""
    angles = torch.arange(length).unsqueeze(1) * torch.exp(torch.arange(0, width, 2) * (-math.log(10000) / width))
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)
