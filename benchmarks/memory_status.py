"""Memory of this process; Linux only."""

from __future__ import annotations

from pathlib import Path


def reset_peak() -> None:
    """Let the peak of the resident memory begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_status(key: str) -> int:
    """Return a size from /proc/self/status in bytes: VmRSS is the resident memory now, VmHWM its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    msg = f"/proc/self/status has no {key}"
    raise RuntimeError(msg)
