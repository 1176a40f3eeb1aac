"""Processes that exit while a loader works."""

from __future__ import annotations

import pytest

from loader.lifecycle import THREADS, run


@pytest.mark.parametrize("num_threads", THREADS)
def test_a_process_may_exit_with_batches_in_flight(num_threads: int) -> None:
    program = """
        data = np.zeros((20000, 4096), np.uint8)
        loader = Loader((data, np.arange(20000)), batch_size=512, format="numpy", num_threads=int(sys.argv[1]), prefetch=16)
        batches = iter(loader)
        kept = [next(batches) for _ in range(3)]
        """
    assert run(program, num_threads) == ""


def test_a_process_may_exit_with_tensors_of_a_batch_alive() -> None:
    program = """
        import torch
        loader = Loader(torch.zeros(20000, 4096), batch_size=512, num_threads=2, prefetch=16)
        kept = [batch for batch, _ in zip(loader, range(3))]
        views = [batch[3] for batch in kept]
        torch.kept = loader, views  # outlives this module
        """
    assert run(program) == ""


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("attempt", range(4))
def test_a_process_may_exit_while_a_daemon_thread_is_inside_next(num_threads: int, attempt: int) -> None:
    program = """
        data = np.zeros((1 << 14, 1 << 12), np.uint8)
        loader = Loader(data, batch_size=1 << 13, steps_per_epoch=10**9, format="numpy", num_threads=int(sys.argv[1]))
        began = threading.Event()
        def consume():
            with contextlib.suppress(RuntimeError):  # RuntimeError: the loader is closed
                for batch in loader:
                    began.set()
        threading.Thread(target=consume, daemon=True).start()
        began.wait()
        time.sleep(int(sys.argv[2]) / 500)
        """
    assert run(program, num_threads, attempt) == ""


@pytest.mark.parametrize(
    "act",
    [
        "class_loss(losses, classes, 10)",
        "Loader(data, classes=classes, batch_size=8, format='numpy', num_threads=2)",
        "iter(loader)",
        "loader.record(losses, classes)",
        "loader.state_dict()",
    ],
)
def test_a_process_may_exit_while_a_daemon_thread_is_in_the_core(act: str) -> None:
    program = """
        from l2m_fast import class_loss
        classes = np.arange(1 << 18) % 10
        losses, data = np.ones(len(classes)), np.zeros((len(classes), 8), np.uint8)
        loader = Loader(data, classes=classes, batch_size=8, format="numpy", num_threads=2)
        began = threading.Event()
        def repeat():
            with contextlib.suppress(RuntimeError):  # RuntimeError: the loader is closed
                while True:
                    eval(sys.argv[1])
                    began.set()
        threading.Thread(target=repeat, daemon=True).start()
        began.wait()
        """
    assert run(program, act) == ""
