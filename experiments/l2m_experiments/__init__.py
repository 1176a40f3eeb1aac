"""The experiments behind `l2m-experiments run`: every method on every task, all on one loader."""

from __future__ import annotations
