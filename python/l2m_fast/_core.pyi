from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str
compiler: str
without_cuda: str

def usable_cpus() -> int: ...
def pool_threads() -> int: ...

class ClassIndex(metaclass=type):
    def __init__(
        self,
        classes: NDArray[Any] | None,
        num_classes: int,
        data_rows: int,
        rows: NDArray[np.int64] | None,
        num_threads: int,
        as_given: bool,
    ) -> None: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def class_sizes(self) -> NDArray[np.int64]: ...
    def fingerprint(self, num_threads: int) -> int: ...

class Prefetcher(metaclass=type):
    def __init__(
        self,
        index: ClassIndex,
        fields: Sequence[tuple[int, int, int] | None],
        owner: object,
        watched: Sequence[tuple[str, object, int]],
        outputs: Sequence[tuple[np.dtype[Any] | None, int, int, list[int]]],
        from_dlpack: Callable[[object], object] | None,
        lend: Callable[[int], object] | None,
        transfer: object,
        ahead: int,
        refill: int,
        proportions: NDArray[np.float64],
        seed: int,
        global_batch: int,
        rank: int,
        world_size: int,
        shuffle: bool,
        grouped: bool,
        epoch_is_pass: bool,
        in_order: bool,
        prefetch: int,
        num_threads: int,
    ) -> None: ...
    def begin(self, epoch: int, first_step: int, num_steps: int, last_batch_rows: int, plan_until: int) -> None: ...
    def schedule(self, step: int, proportions: NDArray[np.float64], plan_until: int) -> None: ...
    def run(self, iteration: int, until: int) -> None: ...
    def reseed(self, seed: int) -> None: ...
    def skip(self) -> None: ...
    @property
    def rows(self) -> NDArray[np.int64]: ...
    @property
    def classes(self) -> NDArray[np.int32]: ...
    @property
    def proportions(self) -> NDArray[np.float64]: ...
    @property
    def total_step(self) -> int: ...
    def state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...
    def close(self) -> None: ...

class Guard(metaclass=type):
    def __init__(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *args: object) -> None: ...
    def defer(self, function: object) -> bool: ...

class Iteration(metaclass=type):
    def __init__(
        self,
        guard: Guard,
        prefetcher: Prefetcher,
        number: int,
        turn: Callable[[int], None],
        build: Callable[[list[Any]], Any],
    ) -> None: ...
    def __iter__(self) -> Iteration: ...
    def __next__(self) -> Any: ...

def add_class_loss(
    losses: NDArray[Any], classes: NDArray[Any], sum: NDArray[np.float64], count: NDArray[np.int64], num_threads: int
) -> int: ...
def cross_entropy(
    logits: NDArray[Any],
    targets: NDArray[np.int64],
    classes: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    ignore_index: int,
    label_smoothing: float,
    log_sum_exp: NDArray[np.float64],
    sum: NDArray[np.float64],
    count: NDArray[np.int64],
    num_threads: int,
) -> tuple[float, float]: ...
def cross_entropy_gradient(
    logits: NDArray[Any],
    targets: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    ignore_index: int,
    label_smoothing: float,
    log_sum_exp: NDArray[np.float64],
    scale: float,
    gradient: NDArray[Any],
    num_threads: int,
) -> None: ...
def learn2mix(
    proportions: NDArray[np.float64],
    class_losses: NDArray[np.float64],
    class_sizes: NDArray[np.int64],
    mixing_rate: float,
    min_share: float,
) -> NDArray[np.float64]: ...
def raise_to_min_share(
    proportions: NDArray[np.float64], class_sizes: NDArray[np.int64], min_share: float
) -> NDArray[np.float64]: ...
def compensated_sum(values: NDArray[np.float64]) -> float: ...
def normalise(proportions: NDArray[np.float64], class_sizes: NDArray[np.int64]) -> NDArray[np.float64]: ...
