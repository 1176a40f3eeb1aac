"""The installation and its public names."""

from __future__ import annotations

import l2m_fast


def test_build_info_describes_the_installation() -> None:
    information = l2m_fast.build_info()
    assert set(information) == {
        "version",
        "compiler",
        "cuda_built",
        "without_cuda",
        "cuda_usable",
        "usable_cpus",
        "pool_threads",
    }
    assert information["version"].count(".") == 2
    assert information["compiler"]
    assert information["usable_cpus"] >= 1
    assert information["pool_threads"] >= 0
    assert information["cuda_built"] == (information["without_cuda"] == "")
    assert information["cuda_usable"] <= information["cuda_built"]


def test_everything_public_is_importable_from_the_top() -> None:
    assert all(getattr(l2m_fast, name) is not None for name in l2m_fast.__all__)
    assert {"Loader", "Learn2Mix", "class_loss", "ClassLoss", "build_info"} <= set(l2m_fast.__all__)
