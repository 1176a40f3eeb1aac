"""Description of the machine."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from l2m_experiments.machine import cpu_model

FIRST_OF_TWO = (
    "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nstepping\t: 2\n"
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"{FIRST_OF_TWO}\n{FIRST_OF_TWO.replace('25', '26')}", "AMD EPYC (family 25, model 1, stepping 2)"),
        ("model name\t: POWER\nflags\t\t:\n", "POWER"),
        ("processor\t: 0\nCPU part\t: 0xd40\n\n", platform.machine()),
        ("", platform.machine()),
    ],
)
def test_a_processor_is_described_by_name_and_numbers(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_model(tmp_path / "cpuinfo") == name


def test_a_processor_has_a_name_without_the_file(tmp_path: Path) -> None:
    assert cpu_model(tmp_path / "cpuinfo") == (platform.processor() or platform.machine())
