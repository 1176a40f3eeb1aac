"""`python -m l2m_fast`: the command `l2m-fast`, or `l2m-fast doctor` without arguments."""

from __future__ import annotations

import sys

from l2m_fast.cli import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:] or ["doctor"]))
