"""The Python blocks of the documents, with those that need a CUDA device."""

from __future__ import annotations

from pathlib import Path

import pytest

from test_examples import DOCUMENTS, run_blocks


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_blocks_of_a_document_run_on_a_gpu(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(document, cuda=True)
