from typing import Any

import numpy as np
from numpy.typing import NDArray

class Pass(metaclass=type):
    def __init__(self, classes: NDArray[np.int16] | None, num_classes: int, num_rows: int) -> None: ...
    def shuffle(self, seed: int, number: int, num_threads: int) -> None: ...

class Planner(metaclass=type):
    def __init__(self, classes: NDArray[np.int16], num_classes: int, batch_size: int) -> None: ...
    def plan(self, num_batches: int) -> None: ...

def add_exact_class_loss(
    losses: NDArray[Any],
    classes: NDArray[Any],
    words: NDArray[np.int64],
    skipped: NDArray[np.int64],
) -> None: ...
