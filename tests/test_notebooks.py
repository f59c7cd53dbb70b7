"""The notebooks: kept without outputs, in both languages; among the slow tests each is run from its first cell on."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_there_is_one_for_each_task():
    assert [path.stem for path in NOTEBOOKS] == ["evaluate", "finetune", "serve"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_kept_and_texts_are_in_both_languages(path):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path, "code"))
    for cell in cells(path, "markdown"):
        text = "".join(cell["source"])
        assert re.search(r"[a-z]{3}", text) and re.search(r"[\u4e00-\u9fff]", text), text
        for target in re.findall(r"\]\(([\w./]+)\)", text):
            assert (path.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    client.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    said = {
        "".join(out.get("text", "") or str(out.get("data", {}).get("text/plain", "")) for out in cell["outputs"])
        for cell in notebook.cells
        if cell["cell_type"] == "code"
    }
    expected = {"finetune": "星河小店", "evaluate": "byte_perplexity", "serve": "你好"}[path.stem]
    assert any(expected in text for text in said), said
