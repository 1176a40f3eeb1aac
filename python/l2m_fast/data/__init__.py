"""Data of a loader: its fields, the ids of its classes, and the batches made of it on a device."""

from __future__ import annotations
