"""The command `l2m-experiments` if a package is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("command", "module"), [("demo", "torch"), ("demo", "sklearn"), ("demo", "imblearn"), ("run", "torch")]
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(command: str, module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from l2m_experiments import cli; sys.exit(cli.main([{command!r}]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"l2m-experiments needs {module}: pip install l2m-fast-experiments\n"
