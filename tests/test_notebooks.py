"""The notebooks of `examples/notebooks` run from top to bottom, and show what they promise."""

from pathlib import Path

import nbformat
import pytest

from notebooks import executed

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
FIGURES = {"1_map_cells": 3, "2_classify_cells": 3, "3_perturb_genes": 1, "4_classify_genes": 1}


def test_each_notebook_is_listed():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(FIGURES)
    readme = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    assert all(f"examples/notebooks/{name}.ipynb" in readme for name in FIGURES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_notebooks_run(name, tmp_path):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "clear the outputs before committing"
    cells = executed(notebook, tmp_path)
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs) == FIGURES[name]
    for cell in cells:
        said = "".join(output.get("text", "") for output in cell.outputs)
        assert len(said.splitlines()) < 6, said
