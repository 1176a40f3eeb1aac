"""Data of a loader: fields, class ids, and batches on a device."""

from __future__ import annotations
