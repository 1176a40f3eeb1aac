"""Experiments with class-mixing policies: tasks, methods, training, records and reports, all on the loader l2m-fast."""

from __future__ import annotations
