"""`geneformer tokenize` from the shell's side; what it computes is tested in `tests/tokenization`."""

import json

import anndata
import datasets
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from typer.testing import CliRunner

import geneformer as gf
from geneformer import cli
from geneformer.files.manifest import Manifest

pytestmark = pytest.mark.contract

CELLS, GENES = 30, 600


@pytest.fixture(scope="module")
def counts():
    """Cells with made-up counts of real genes."""
    rng = np.random.default_rng(0)
    vocabulary = gf.Vocabulary.load("V1")
    genes = rng.choice(vocabulary.genes.astype(str), size=GENES, replace=False)
    obs = pd.DataFrame(
        {"cell_type": rng.choice(["B", "T"], CELLS), "donor": "d1"}, index=[f"cell{i}" for i in range(CELLS)]
    )
    matrix = sp.csr_matrix(rng.poisson(0.4, size=(CELLS, GENES)).astype(np.float32))
    return anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=genes))


@pytest.fixture
def file(counts, tmp_path):
    path = tmp_path / "blood.h5ad"
    counts.write_h5ad(path)
    return path


def tokenize(*arguments):
    return CliRunner().invoke(cli.app, ["tokenize", *map(str, arguments)])


@pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")
def test_it_writes_what_the_function_returns(counts, file, tmp_path):
    result = tokenize(file, "-o", tmp_path / "out.dataset", "--keep", "cell_type", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["n_cells"], report["n_written"], report["output"]) == (CELLS, CELLS, str(tmp_path / "out.dataset"))
    written, returned = gf.read_dataset(tmp_path / "out.dataset"), gf.pp.tokenize(counts, keep=("cell_type",))
    assert all(np.array_equal(written[row], returned[row]) for row in range(CELLS))
    assert written.cell_ids.tolist() == list(counts.obs_names)
    assert written.columns == ["cell_id", "source", "cell_type", "length"]
    assert set(written.column("source")) == {"blood"}
    assert written.vocabulary == gf.Vocabulary.load("V1").fingerprint
    assert list(datasets.load_from_disk(str(tmp_path / "out.dataset"))["cell_type"]) == list(counts.obs["cell_type"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blood.h5ad", "out.dataset"]


def test_it_ends_with_a_table(file, tmp_path):
    result = tokenize(file, "-o", tmp_path / "out.dataset")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert all(line in result.stderr for line in ("cells read", "tokens per cell", "genes of blood"))


def test_its_manifest_repeats_the_run(file, tmp_path):
    first = tokenize(file, "-o", tmp_path / "a.dataset", "--vocabulary", "V2", "--counts", "--max-length", 50)
    assert first.exit_code == 0, first.output
    manifest = tmp_path / "a.dataset" / "geneformer_manifest.json"
    assert tokenize(file, "-o", tmp_path / "b.dataset", "--config", manifest).exit_code == 0
    a, b = (gf.read_dataset(tmp_path / f"{name}.dataset") for name in "ab")
    assert a.table.equals(b.table)
    assert b.has_counts
    assert b.lengths.max() == 50
    assert Manifest.read(b.path).options == Manifest.read(a.path).options


def test_nothing_is_overwritten_unasked(file, tmp_path):
    assert tokenize(file, "-o", tmp_path / "out.dataset").exit_code == 0
    refused = tokenize(file, "-o", tmp_path / "out.dataset")
    assert refused.exit_code == 1
    assert "GF401" in refused.stderr
    assert tokenize(file, "-o", tmp_path / "out.dataset", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["missing.h5ad"], "GF201"),
        (["--vocabulary", "V3"], "GF302"),
        (["--layer", "count"], "GF208"),
        (["--keep", "cell_typ"], "GF208"),
        (["--chunk-size", 0], "GF102"),
    ],
)
def test_a_refusal_writes_nothing(file, tmp_path, arguments, code):
    result = tokenize(file, *arguments, "-o", tmp_path / "out.dataset")
    assert result.exit_code == 1
    assert code in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["blood.h5ad"]
