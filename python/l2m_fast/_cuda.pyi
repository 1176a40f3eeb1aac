from collections.abc import Sequence

PARTIALS: int

def why_no_device() -> str: ...
def why_not_on_current_device() -> str: ...
def add_class_loss(
    losses: int,
    loss_type: str,
    classes: int,
    class_bytes: int,
    classes_signed: bool,
    n: int,
    totals: tuple[int, int, int, int],
    stream: int,
) -> None: ...
def cross_entropy(
    logits: int,
    logit_type: str,
    targets: tuple[int, int, int, int, int, float, int],
    losses: tuple[int, int, int, str, int, int, int],
    classes: int,
    class_bytes: int,
    classes_signed: bool,
    totals: tuple[int, int, int, int],
    stream: int,
) -> None: ...
def cross_entropy_gradient(
    logits: int,
    logit_type: str,
    targets: tuple[int, int, int, int, int, float, int],
    log_sum_exp: int,
    total_weight: int,
    of_loss: int,
    of_loss_type: str,
    gradient: int,
    stream: int,
) -> None: ...

class Gather:
    def __init__(self, fields: Sequence[tuple[int, int, int, tuple[str, int, int, int, int] | None]]) -> None: ...
    def __call__(self, rows: int, sizes: Sequence[int], outs: Sequence[int], stream: int) -> None: ...
