"""Every row gets its right answer: no traceback, no hang, nothing written on refusal, no input changed."""

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Libraries and vocabulary are loaded once, here: the processes of rows are forks of this one."""
    folder = tmp_path_factory.mktemp("warm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [])
        assert tokenize(folder, h5ad()(folder)).code == ACCEPTED
    for heavy in HEAVY:
        importlib.import_module(heavy)


@pytest.mark.skipif(sys.platform == "win32", reason="rows run in forks")
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.usefixtures("warm")
def test_row(name, tmp_path):
    assert not (found := faults(ROWS[name], tmp_path)), "\n".join(found)


def test_names_of_rows_differ():
    names = Counter(
        (family, row.name) for family in FAMILIES for row in importlib.import_module(f"gallery.{family}").ROWS
    )
    assert not [name for name, times in names.items() if times > 1]
