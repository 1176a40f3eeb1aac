"""A stand-in for torchvision, for rivals that import it without using it. It may be missing, or built for another torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType

_MODULES = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")


class _StandIn(ModuleType):
    """A module in which every public name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Let `import torchvision` find an empty module."""
    real = {name: sys.modules.pop(name) for name in _MODULES if name in sys.modules}
    for name in _MODULES:
        sys.modules[name] = _StandIn(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    try:
        yield
    finally:
        for name in _MODULES:
            del sys.modules[name]
        sys.modules.update(real)
