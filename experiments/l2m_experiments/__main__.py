"""Entry point of `python -m l2m_experiments`, the command `l2m-experiments`."""

from __future__ import annotations

from l2m_experiments.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
