def device_count() -> int: ...
def add_class_loss(
    losses: int,
    loss_type: str,
    classes: int,
    class_bytes: int,
    classes_signed: bool,
    n: int,
    num_classes: int,
    sum: int,
    count: int,
    unusual: int,
    digits: int,
    stream: int,
) -> None: ...
