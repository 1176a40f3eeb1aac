"""The other side of peers/elsewhere.py: makes a rival, then delivers its epochs, as asked over pipes.

A request or an answer is one pickle. The first request is a factory and its arguments; then `n` asks for n epochs and is
answered None when they were delivered, "batches" is answered one epoch's batches as arrays, and None at their end, and
None ends the process, as the end of the requests does.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any, BinaryIO


def main() -> None:
    """Serves until the input ends. What libraries print goes to stderr, out of the way of the answers."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = sys.stdin.buffer

    def answer(value: object) -> None:
        pickle.dump(value, answers)
        answers.flush()

    try:
        factory, arguments = pickle.load(requests)
        peer = factory(*arguments)
    except ImportError as error:
        answer(error)
        return
    answer(None)
    try:
        while (request := _next(requests)) is not None:
            if request == "batches":
                for x, y in peer.batches:
                    answer((x.numpy(), y.numpy()))
            else:
                peer.run(request)
            answer(None)
    finally:
        peer.close()


def _next(requests: BinaryIO) -> Any:
    """Returns the next request; None: there is none, or it says so."""
    try:
        return pickle.load(requests)
    except EOFError:
        return None


if __name__ == "__main__":
    main()
