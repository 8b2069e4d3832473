"""Runs cells of a notebook in a kernel of its own, on one thread."""

import os
from pathlib import Path
from typing import Any

import nbclient
import nbformat

SOURCE = Path(__file__).parents[1] / "src"


def executed(cells, folder):
    """Cells with their outputs: text of code, or a whole notebook; the first error ends it and is raised."""
    content: Any = cells
    if not hasattr(cells, "cells"):
        content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text.strip()) for text in cells])
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    client = nbclient.NotebookClient(
        content, kernel_name="python3", timeout=300, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)
    return [cell for cell in content.cells if cell.cell_type == "code"]
