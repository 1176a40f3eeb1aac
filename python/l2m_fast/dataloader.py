"""Arguments of a `Loader` that replaces a DataLoader of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from l2m_fast._checks import shortened, truncated

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


def loader_arguments(dataloader: DataLoader[Any], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the data and the keyword arguments of a `Loader` that delivers the batches of a DataLoader.

    Args:
        dataloader: DataLoader to replace.
        options: Further arguments, and replacements of those that come from the DataLoader.

    Raises:
        TypeError: `dataloader` is not a DataLoader.
        ValueError: A Loader cannot replace it, or both select rows.
    """
    from torch.utils import data as torch_data

    if not isinstance(dataloader, torch_data.DataLoader):
        msg = f"dataloader must be a DataLoader of torch (got {truncated(type(dataloader).__name__)})"
        raise TypeError(msg)
    if type(dataloader) is not torch_data.DataLoader:
        _refuse(f"it is a {truncated(type(dataloader).__name__)}", dataloader)
    for name, plain in (
        ("collate_fn", torch_data.default_collate),
        ("worker_init_fn", None),
        ("generator", None),
    ):
        if getattr(dataloader, name) is not plain:
            _refuse(f"it has a {name}", dataloader)
    data, rows = _memory_of(dataloader.dataset, dataloader)
    arguments = {"batch_size": dataloader.batch_size, "drop_last": dataloader.drop_last, "rows": rows, "shuffle": False}
    if dataloader.batch_size is None or type(dataloader.batch_sampler) is not torch_data.BatchSampler:
        _refuse("it has a batch_sampler, or batch_size=None", dataloader)
    sampler = dataloader.sampler
    if getattr(sampler, "generator", None) is not None:
        _refuse("its sampler has a generator", dataloader)
    if type(sampler) in (torch_data.RandomSampler, torch_data.SequentialSampler):
        arguments["shuffle"] = type(sampler) is torch_data.RandomSampler
        if len(sampler) != len(dataloader.dataset) or getattr(sampler, "replacement", False):  # type: ignore[arg-type]
            _refuse("its sampler draws with replacement, or another number of rows", dataloader)
    elif type(sampler) is torch_data.SubsetRandomSampler:
        drawn = [int(i) for i in sampler.indices]
        arguments["rows"], arguments["shuffle"] = drawn if rows is None else [rows[i] for i in drawn], True
    else:
        _refuse(f"it has a {truncated(type(sampler).__name__)}", dataloader)
    if arguments["rows"] is not None and "rows" in options:
        msg = (
            "rows must not be given with a DataLoader of a Subset or with a SubsetRandomSampler, which selects the rows "
            f"(got {shortened(options['rows'])}): select them there, or pass the data to Loader"
        )
        raise ValueError(msg)
    return data, {**arguments, "pin_memory": dataloader.pin_memory, **options}


def _memory_of(dataset: Any, dataloader: DataLoader[Any]) -> tuple[Any, list[int] | None]:
    """Return the arrays of a dataset, and the ids of its rows; None: all rows."""
    import torch
    from torch.utils import data as torch_data

    if type(dataset) is torch_data.Subset:
        data, rows = _memory_of(dataset.dataset, dataloader)
        indices = [int(i) for i in dataset.indices]
        return data, indices if rows is None else [rows[i] for i in indices]
    if type(dataset) is torch_data.TensorDataset:
        return dataset.tensors, None
    if type(dataset) is torch_data.StackDataset:
        parts = dataset.datasets
        if all(isinstance(part, torch.Tensor) for part in (parts.values() if isinstance(parts, dict) else parts)):
            return parts, None
    if not isinstance(dataset, torch.Tensor):
        _refuse(f"its dataset is a {truncated(type(dataset).__name__)}", dataloader)
    return dataset, None


def _refuse(reason: str, dataloader: DataLoader[Any]) -> NoReturn:
    data = truncated(type(dataloader.dataset).__name__)
    msg = (
        "dataloader must be plain, over tensors in memory: a TensorDataset, a StackDataset of tensors or a Subset of one, "
        f"in order or shuffled (got a DataLoader of a {data}; {reason}). Pass arrays to Loader (classes= and mixing= "
        "replace a sampler of classes), or keep the DataLoader and give it a BatchSampler of l2m_fast"
    )
    raise ValueError(msg)
