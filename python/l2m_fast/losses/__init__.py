"""Losses of each class: their sums, the window that gathers them, and a cross entropy that sums them as it goes."""

from __future__ import annotations
