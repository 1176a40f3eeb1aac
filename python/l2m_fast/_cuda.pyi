UNFINISHED: int

def device_count() -> int: ...
def add_class_loss(
    losses: int,
    loss_type: str,
    classes: int,
    class_bytes: int,
    classes_signed: bool,
    n: int,
    totals: tuple[int, int, int, int, int],
    stream: int,
) -> None: ...
def add_grouped_class_loss(
    losses: int, loss_type: str, segments: int, size: int, totals: tuple[int, int, int, int, int], stream: int
) -> None: ...
