"""Class losses: sums of recorded losses on the CPU and on devices, and `cross_entropy`."""

from __future__ import annotations
