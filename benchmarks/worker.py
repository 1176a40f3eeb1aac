"""Worker of `environments.py`: creates a rival, then delivers its epochs on request.

Requests and answers are pickles over pipes. The first request is a factory and its arguments, answered with the name of the peer.
After that a number n is answered with None once n epochs have been delivered; "batches" is answered with the batches of an epoch as
arrays, and None after the last; None, or the end of the requests, ends the process.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any, BinaryIO


def main() -> None:
    """Serve until the input ends. Output that libraries print goes to stderr, so that it does not mix with the answers."""
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
    answer(peer.name)
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
    """Return the next request, or None at the end."""
    try:
        return pickle.load(requests)
    except EOFError:
        return None


if __name__ == "__main__":
    main()
