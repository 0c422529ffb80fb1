"""Every notebook runs from top to bottom on the results that are in the repository."""

import os
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert {p.stem for p in NOTEBOOKS} >= {"tour", "greedy"}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_runs(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    book = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), "notebooks are kept without output"
    client = nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": os.fspath(path.parent)}})
    client.execute()
    ran = [cell for cell in book.cells if cell.cell_type == "code"]
    assert ran and all(cell.execution_count for cell in ran)
