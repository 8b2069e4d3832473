"""Tokens of real cells equal to those of the published package, for both generations."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from geneformer.genes.vocabulary import Vocabulary
from geneformer.options import TokenizeOptions
from geneformer.tokenization.tokenizer import tokenize_counts

pytestmark = pytest.mark.contract

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def in_ties_by_id(ids, counts, vocabulary):
    """Token ids with those of equal value sorted, because the published order among them is undefined."""
    medians = np.ones(vocabulary.size)
    medians[vocabulary.token_ids] = vocabulary.medians
    values = np.round(counts / medians[ids], 9)
    inner = np.isin(ids, vocabulary.token_ids)
    ordered = np.array(ids)
    ordered[inner] = ordered[inner][np.lexsort((ids[inner], -values[inner]))]
    return ordered.tolist()


@pytest.mark.parametrize("name", ["V1", "V2"])
def test_tokens_equal_the_published_ones(name):
    published = pq.read_table(GOLDEN / f"tokens_{name}.parquet")
    options = TokenizeOptions(vocabulary=name, counts=True)
    ours, report = tokenize_counts(GOLDEN / "pbmc_120_cells.h5ad", options)
    vocabulary = Vocabulary.load(name)
    assert ours.cell_ids.tolist() == published.column("cell_id").to_pylist()
    assert ours.lengths.tolist() == published.column("length").to_pylist()
    packed = ours.gather(range(len(ours)), counts=True)
    for cell, ids in enumerate(published.column("input_ids").to_pylist()):
        scaled = packed.counts[packed.cu_seqlens[cell] : packed.cu_seqlens[cell + 1]]
        by_id = dict(zip(ours[cell].tolist(), scaled, strict=True))
        assert set(ids) == set(ours[cell].tolist())
        theirs = np.array(ids)
        in_their_order = np.array([by_id[token] for token in ids])
        assert in_ties_by_id(ours[cell], scaled, vocabulary) == in_ties_by_id(theirs, in_their_order, vocabulary)
        if "counts" in published.column_names:
            np.testing.assert_allclose(in_their_order, published.column("counts")[cell].as_py(), rtol=1e-9)
    assert report.n_written == 120
    assert report.warnings == ()
