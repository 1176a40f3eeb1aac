"""The demo behind `l2m-experiments demo`: Learn2Mix, classical and balanced sampling on one loader."""

from __future__ import annotations

from l2m_experiments.demo.comparison import Comparison, Settings, compare
from l2m_experiments.demo.data import Source, Split, digits, idx
from l2m_experiments.demo.report import conclusion, introduction, make_directory, write_files

__all__ = [
    "Comparison",
    "Settings",
    "Source",
    "Split",
    "compare",
    "conclusion",
    "digits",
    "idx",
    "introduction",
    "make_directory",
    "write_files",
]
