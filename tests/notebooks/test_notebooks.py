"""Every notebook runs from top to bottom on the results that are in the repository."""

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_notebooks():
    assert {p.stem for p in NOTEBOOKS} >= {"tour", "greedy"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a notebook from an empty namespace, in one process for all, so that torch is loaded once."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    emptied = "%reset -f\nassert not get_ipython().run_line_magic('who_ls', '')"
    empty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(emptied)])
    resources = {"metadata": {"path": os.fspath(FOLDER)}}
    with pytest.MonkeyPatch.context() as patches:
        patches.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        client = nbclient.NotebookClient(empty, timeout=120, resources=resources)
        with client.setup_kernel():

            def execute(book):
                for client.nb in (empty, book):
                    client.execute(cleanup_kc=False)

            yield execute


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_runs(path, run):
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), "notebooks are kept without output"
    run(book)
    ran = [cell for cell in book.cells if cell.cell_type == "code"]
    assert ran and all(cell.execution_count for cell in ran)
