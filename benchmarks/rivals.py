"""Discovery of the rivals in `peers/`, and how they are installed and raced."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from benchmarks import peers
from benchmarks.environments import peer_in_environment
from benchmarks.peers import Peer
from benchmarks.workloads import Fields

Race = Literal["shuffled", "balanced in every batch", "balanced on average"]

_MAX_ROWS_OF_SLOW = 50_000
CONSTRAINTS = Path(__file__).parents[1] / "requirements/constraints.txt"


@dataclass(frozen=True)
class Install:
    """Installation of the library of a rival by `make bench-peers`.

    Attributes:
        packages: Requirements for pip, with versions.
        environment: Name of a separate Python environment, in which the rival then runs. None: the one of the benchmarks.
        options: Options for pip. The default keeps to the versions of the other tools.
    """

    packages: tuple[str, ...]
    environment: str | None = None
    options: tuple[str, ...] = ("-c", str(CONSTRAINTS))


@dataclass(frozen=True)
class Rival:
    """An entry of `RIVALS` in a file of `peers/`.

    Attributes:
        factory: Function of fields and batch size that returns a peer. In the balanced races, `fields.y` has the classes.
            It raises ImportError if the library is not installed.
        race: Rows that an epoch delivers: all in random order, or equal shares of the classes.
        install: Installation of the library. None: it is installed with the benchmarks.
        slow: True if an epoch of half a million rows takes seconds. It then gets at most 50,000 of the rows.
        quick: True if `make bench-quick` races it too.
    """

    factory: Callable[[Fields, int], Peer]
    race: Race = "shuffled"
    install: Install | None = None
    slow: bool = False
    quick: bool = False

    @property
    def environment(self) -> str | None:
        """Name of the rival's separate environment, if it has one."""
        return None if self.install is None else self.install.environment

    def fields_of(self, fields: Fields) -> Fields:
        """Return the part of the fields that the rival gets."""
        return Fields(fields.x[:_MAX_ROWS_OF_SLOW], fields.y[:_MAX_ROWS_OF_SLOW]) if self.slow else fields

    def peer(self, fields: Fields, batch_size: int) -> Peer:
        """Return the peer, in its separate environment if it has one.

        Raises:
            ImportError: The library or the environment is not installed.
        """
        if self.environment is None:
            return self.factory(fields, batch_size)
        return peer_in_environment(self.environment, self.factory, fields, batch_size)


def rivals(race: Race | None = None, *, quick: bool = False) -> list[Rival]:
    """Return the rivals of a race or of all, only the quick ones or all, in the order of their files."""
    names = sorted(module.name for module in pkgutil.iter_modules(peers.__path__))
    found = [rival for name in names for rival in import_module(f"{peers.__name__}.{name}").RIVALS]
    return [rival for rival in found if race in (None, rival.race) and (rival.quick or not quick)]


def installed(
    race: Race,
    fields: Fields,
    batch_size: int,
    miss: Callable[[str, str], None],
    stack: ExitStack,
    *,
    quick: bool = False,
) -> Iterator[tuple[Peer, Fields]]:
    """Yield the peers of the rivals that are installed, with the fields that each of them gets.

    Args:
        race: See `Rival`.
        fields: See `Rival`.
        batch_size: See `Rival`.
        miss: Function that is called with the name and the error of each rival that is not installed.
        stack: Stack that closes the peers.
        quick: See `rivals`.
    """
    for rival in rivals(race, quick=quick):
        its_fields = rival.fields_of(fields)
        try:
            peer = rival.peer(its_fields, batch_size)
        except ImportError as error:
            miss(str(error.name), str(error))
            continue
        stack.callback(peer.close)
        yield peer, its_fields
