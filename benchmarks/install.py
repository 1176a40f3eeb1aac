"""Install the libraries of the rivals: `python -m benchmarks.install`, which is `make bench-peers`.

A rival that cannot be installed does not stop the others: the benchmarks report it as missing.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.environments import ENVIRONMENTS, INSTALL_LOG, python_of
from benchmarks.rivals import Install, rivals


def main() -> None:
    """Install every library, in the running environment or in a separate one."""
    for install in dict.fromkeys(rival.install for rival in rivals() if rival.install is not None):
        python = Path(sys.executable)
        if install.environment is not None:
            python = python_of(install.environment)
            if not python.exists():
                venv.create(ENVIRONMENTS / install.environment, symlinks=True, with_pip=True)
        sys.stdout.write(f"== {' '.join(install.packages)}\n")
        sys.stdout.flush()
        _install(install, python)


def _install(install: Install, python: Path) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", *install.options, *install.packages]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    sys.stdout.write(done.stdout)
    if install.environment is not None:
        log = ENVIRONMENTS / install.environment / INSTALL_LOG
        if done.returncode == 0:
            log.unlink(missing_ok=True)
        else:
            log.write_text(done.stdout)


if __name__ == "__main__":
    main()
