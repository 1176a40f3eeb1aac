"""Train a linear model on three classes of different size and difficulty; the mix follows the losses."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from l2m_fast import Learn2Mix, Loader

torch.manual_seed(0)
labels = torch.repeat_interleave(torch.arange(3), torch.tensor([900, 90, 10]))
points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.5, 1.5]])[labels] + torch.randn(len(labels), 2)

model = torch.nn.Linear(2, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with Loader((points, labels), batch_size=50, classes=labels, mixing=Learn2Mix(mixing_rate=0.2), seed=0) as loader:
    for _ in range(8):
        for x, y in loader:
            losses = cross_entropy(model(x), y, reduction="none")
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            loader.record(losses)
        shares = ", ".join(f"{share:.3f}" for share in loader.proportions)
        print(f"epoch {loader.epoch}: next mix {shares}")
