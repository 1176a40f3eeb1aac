"""Train with Ray Train on two workers, each of which has its own loader."""

from __future__ import annotations

import ray.train
import torch
from ray.train.torch import TorchTrainer

from l2m_fast import Learn2Mix, Loader


def train_worker() -> None:
    """Train a classifier on the part of each batch that belongs to this worker."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(600, 16, generator=generator), torch.randint(3, (600,), generator=generator)
    # Ray has initialized torch.distributed. Do not pass the loader to ray.train.torch.prepare_data_loader().
    loader = Loader((x, y), batch_size=32, classes=y, mixing=Learn2Mix(), group=True, seed=0)
    model = ray.train.torch.prepare_model(torch.nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        for inputs, targets in loader:
            losses = torch.nn.functional.cross_entropy(model(inputs), targets, reduction="none")
            loader.record(losses)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
    ray.train.report({"proportions": loader.proportions.tolist(), "rank": ray.train.get_context().get_world_rank()})


if __name__ == "__main__":
    trainer = TorchTrainer(train_worker, scaling_config=ray.train.ScalingConfig(num_workers=2))
    print(trainer.fit().metrics)
