"""Every row gets its right answer: no traceback, no hang, nothing written on refusal, no input changed."""

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from gallery.rows import faults

# What rows use is imported once, here: their processes are forks of this one.
for heavy in (
    "anndata",
    "pandas",
    "h5py",
    "scipy.sparse",
    "geneformer.cli.tokenize",
    "geneformer.tokenization.tokenizer",
    "geneformer.models.loading",
    "geneformer.compat.networks",
    "peft",
):
    importlib.import_module(heavy)

FAMILIES = sorted(path.stem for path in Path(__file__).parent.glob("family_*.py"))
ROWS = {
    f"{family.removeprefix('family_')}: {row.name}": row
    for family in FAMILIES
    for row in importlib.import_module(f"gallery.{family}").ROWS
}


@pytest.mark.skipif(sys.platform == "win32", reason="rows run in forks")
@pytest.mark.parametrize("name", ROWS)
def test_row(name, tmp_path):
    assert not (found := faults(ROWS[name], tmp_path)), "\n".join(found)


def test_names_of_rows_differ():
    names = Counter(
        (family, row.name) for family in FAMILIES for row in importlib.import_module(f"gallery.{family}").ROWS
    )
    assert not [name for name, times in names.items() if times > 1]
