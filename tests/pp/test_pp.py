"""`gf.pp.tokenize`: the options of the task as arguments, and an AnnData that stays as it was."""

import dataclasses
import inspect

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import geneformer as gf
from geneformer.options import TokenizeOptions

pytestmark = pytest.mark.contract


@pytest.fixture
def adata():
    rng = np.random.default_rng(1)
    genes = rng.choice(gf.Vocabulary.load("V1").genes.astype(str), 6000, replace=False)
    counts = sp.csr_matrix(rng.poisson(0.05, (12, 6000)).astype(np.float32))
    return anndata.AnnData(counts, obs=pd.DataFrame({"kind": list("ab") * 6}), var=pd.DataFrame(index=genes))


def test_the_arguments_are_the_options():
    parameters = dict(inspect.signature(gf.pp.tokenize).parameters)
    parameters.pop("adata")
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters.values())
    fields = {field.name: field.default for field in dataclasses.fields(TokenizeOptions)}
    assert {name: parameter.default for name, parameter in parameters.items()} == fields


def test_every_argument_is_documented():
    text = inspect.getdoc(gf.pp.tokenize)
    assert all(f"\n{field.name}\n    " in text for field in dataclasses.fields(TokenizeOptions))


@pytest.mark.filterwarnings("ignore:Transforming to str index")
def test_tokens_come_back_and_nothing_is_written(adata):
    before = adata.copy()
    tokens = gf.pp.tokenize(adata, vocabulary="V2", keep=("kind",), counts=True)
    assert len(tokens) == 12
    assert tokens.columns == ["cell_id", "source", "kind", "length"]
    assert tokens.has_counts
    assert tokens.vocabulary == gf.Vocabulary.load("V2").fingerprint
    assert all(tokens[row][0] == 2 and tokens[row][-1] == 3 for row in range(12))
    assert (adata.X != before.X).nnz == 0
    assert adata.obs.equals(before.obs)
    assert adata.var.equals(before.var)
    assert not adata.uns
