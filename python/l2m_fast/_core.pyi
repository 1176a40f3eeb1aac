from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str
compiler: str
without_cuda: str
SUM_DIGITS: int

def usable_cpus() -> int: ...
def openmp_threads() -> int: ...
def pool_threads() -> int: ...

class ClassIndex(metaclass=type):
    def __init__(
        self,
        classes: NDArray[Any] | None,
        num_classes: int,
        data_rows: int,
        rows: NDArray[np.int64] | None,
        num_threads: int,
        shuffle: bool,
    ) -> None: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def class_sizes(self) -> NDArray[np.int64]: ...

class Field(metaclass=type):
    def __init__(self, *args: object, **kwargs: object) -> None: ...  # raises: created by functions

def dense(address: int, stride: int, row_bytes: int) -> Field: ...
def row_ids() -> Field: ...
def normalize(
    address: int,
    stride: int,
    row_bytes: int,
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
    channel_size: int,
    dtype: str,
) -> Field: ...

class Policy(metaclass=type):
    def __init__(self, *args: object, **kwargs: object) -> None: ...  # raises: created by functions
    def initial(self, class_sizes: NDArray[np.int64]) -> NDArray[np.float64]: ...
    def update(
        self,
        proportions: NDArray[np.float64],
        class_losses: NDArray[np.float64],
        class_sizes: NDArray[np.int64],
        step: int,
        total_steps: int | None,
    ) -> NDArray[np.float64]: ...

class Proportional(Policy):
    def __init__(self) -> None: ...

class Balanced(Policy):
    def __init__(self) -> None: ...

class Static(Policy):
    def __init__(self, p: NDArray[np.float64]) -> None: ...

class Temperature(Policy):
    def __init__(self, t: float) -> None: ...

class Annealed(Policy):
    def __init__(self, start: float, end: float) -> None: ...

class EffectiveNumber(Policy):
    def __init__(self, beta: float) -> None: ...

class Learn2Mix(Policy):
    def __init__(self, mixing_rate: float, min_share: float, balanced: bool) -> None: ...

class GroupDRO(Policy):
    def __init__(self, step_size: float) -> None: ...

class Loader(metaclass=type):
    def __init__(
        self,
        *,
        index: ClassIndex,
        fields: Sequence[Field],
        described_fields: Sequence[Field],
        owner: object,
        watched: Sequence[tuple[str, object, int]],
        outputs: Sequence[tuple[np.dtype[Any] | None, int, int, list[int]]],
        build: Callable[[list[Any]], Any],
        from_dlpack: Callable[[object], object] | None,
        from_numpy: Callable[[Any], object] | None,
        destination: object,
        include: Sequence[str],
        policy: Policy | tuple[object, str, int, str],
        policy_name: str,
        all_reduce: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None,
        start_all_reduce: Callable[[int, NDArray[np.float64]], None] | None,
        draw_seed: Callable[[], int],
        warn: Callable[[str], None],
        check: Callable[[], None],
        observe: Callable[..., None],
        batch_size: int,
        rank: int,
        world_size: int,
        listed_ranks: int,
        has_classes: bool,
        shuffle: bool,
        grouped: bool,
        drop_last: bool,
        steps_per_epoch: int | None,
        total_steps: int | None,
        update_every: int | None,
        lookahead: int,
        seed: int | None,
        prefetch: int,
        num_threads: int,
        may_use_openmp: bool,
    ) -> None: ...
    def __len__(self) -> int: ...
    def iterate(self, forever: bool) -> Iteration: ...
    def record(self, losses: NDArray[Any], classes: NDArray[Any] | None, step: int | None) -> None: ...
    def record_sums(self, sum: NDArray[np.float64], count: NDArray[np.int64], step: int | None) -> None: ...
    def record_words(self, words: NDArray[np.int64], step: int | None) -> None: ...
    def record_on_device(
        self, add: Callable[[Any], None], device: object, make: Callable[[], object], step: int | None
    ) -> None: ...
    def classes_to_record(self, step: int | None, num_losses: int) -> NDArray[np.int32]: ...
    def update(self) -> None: ...
    def end_epoch(self) -> None: ...
    def set_epoch(self, epoch: int) -> None: ...
    def state(self, step: int | None) -> dict[str, Any]: ...
    def load(self, state: object) -> None: ...
    def apply_pending(self) -> None: ...
    def close(self) -> None: ...
    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def total_step(self) -> int: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def proportions(self) -> NDArray[np.float64]: ...
    @property
    def class_losses(self) -> NDArray[np.float64]: ...
    def batch_proportions(self, step: int | None) -> NDArray[np.float64]: ...
    @property
    def rows(self) -> NDArray[np.int64]: ...
    @property
    def classes(self) -> NDArray[np.int64]: ...

def state_to_bytes(state: object) -> bytes: ...
def state_from_bytes(data: bytes | bytearray | memoryview) -> dict[str, Any]: ...
def values_of_losses(state: object) -> NDArray[np.float64]: ...
def with_values_of_losses(state: object, values: NDArray[np.float64]) -> dict[str, Any]: ...

class Iteration(metaclass=type):
    def __init__(self, *args: object, **kwargs: object) -> None: ...  # raises: created by functions
    def __iter__(self) -> Iteration: ...
    def __next__(self) -> Any: ...

def add_class_loss(
    losses: NDArray[Any],
    classes: NDArray[Any],
    words: NDArray[np.int64],
    num_threads: int | None = None,
) -> int: ...
def nearest_sums(words: NDArray[np.int64]) -> NDArray[np.float64]: ...
def cross_entropy(
    logits: NDArray[Any],
    targets: NDArray[np.int64],
    classes: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    offsets: NDArray[np.float64] | None,
    ignore_index: int,
    label_smoothing: float,
    log_sum_exp: NDArray[np.float64],
    words: NDArray[np.int64],
    num_threads: int | None = None,
) -> tuple[float, float]: ...
def cross_entropy_gradient(
    logits: NDArray[Any],
    targets: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    offsets: NDArray[np.float64] | None,
    ignore_index: int,
    label_smoothing: float,
    log_sum_exp: NDArray[np.float64],
    scale: float,
    gradient: NDArray[Any],
    num_threads: int | None = None,
) -> None: ...
