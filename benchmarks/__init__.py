"""Benchmarks of batch formation: the loader, its rivals and the limit, timed side by side."""

from __future__ import annotations
