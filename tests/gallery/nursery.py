"""The process whose forks run the rows: libraries are loaded in it once, and nothing has computed in it before.

A fork of a process whose libraries have threads may wait for one of them forever, so rows are not forks of pytest.
"""

import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from gallery.inputs import h5ad
from gallery.rows import ACCEPTED, faults, tokenize

HEAVY = (
    "geneformer.models.loading",
    "geneformer.compat.networks",
    "peft",
    "geneformer.inference.embedding",
    "geneformer.cli.inference",
    "geneformer.cli.perturb",
    "geneformer.cli.finetune",
    "geneformer.perturbation.run",
    "geneformer.pretraining.run",
    "geneformer.finetuning.estimators",
    "pyarrow.compute",
    "sklearn.metrics",
)
"""Beside what tokenizing needs."""

FAMILIES = sorted(path.stem for path in Path(__file__).parent.glob("family_*.py"))
ROWS = {
    f"{family.removeprefix('family_')}: {row.name}": row
    for family in FAMILIES
    for row in importlib.import_module(f"gallery.{family}").ROWS
}


def serve(connection: Any) -> None:
    """Answer names of rows, each with an empty folder, by what was wrong; nothing instead of a name ends it."""
    sys.argv = ["geneformer"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        assert tokenize(Path(folder), h5ad()(Path(folder))).code == ACCEPTED
        for heavy in HEAVY:
            importlib.import_module(heavy)
        while (job := connection.recv()) is not None:
            name, place = job
            connection.send(faults(ROWS[name], place))
