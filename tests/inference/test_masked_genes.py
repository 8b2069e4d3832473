"""Predictions at masked genes against `transformers`' BERT, one cell and one gene at a time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertForMaskedLM

from geneformer.errors import (
    AbsentGeneError,
    CheckpointError,
    GeneformerWarning,
    OptionError,
    OutOfRangeError,
    UnknownGeneError,
)
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.masked_genes import predict_masked
from geneformer.models.loading import LoadedModel
from geneformer.options import PredictOptions, RuntimeOptions
from golden import tiny_config, tiny_model
from small_cells import short_tokens

RUNTIME = RuntimeOptions(device="cpu", dtype="float32", progress=False)
COLUMNS = [
    "cell_id",
    "masked_gene",
    "masked_symbol",
    "rank_in_cell",
    "order",
    "predicted_gene",
    "predicted_symbol",
    "probability",
    "rank_of_masked",
    "probability_of_masked",
]


@pytest.fixture(scope="module", params=["V1", "V2"])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def model(version):
    return LoadedModel("tiny", Path("tiny"), tiny_model(version), Vocabulary.load(version), True)


@pytest.fixture(scope="module")
def tokens(version):
    return short_tokens(version, cells=6, length=30)


@pytest.fixture(scope="module")
def genes(model, tokens):
    """One gene of several cells, by id and by symbol."""
    ids = np.concatenate([np.unique(tokens[row]) for row in range(len(tokens))])
    kinds, counts = np.unique(ids[~np.isin(ids, model.vocabulary.special_ids)], return_counts=True)
    first, second = kinds[np.argsort(-counts)][:2]
    assert counts.max() > 1
    return model.vocabulary.gene_of[first], model.vocabulary.symbol_of(model.vocabulary.gene_of[second])


def test_predictions_are_those_of_bert(model, tokens, genes, version):
    options = PredictOptions(genes=genes, n_predictions=4)
    table = predict_masked(tokens, model, options, RUNTIME)
    assert list(table.columns) == COLUMNS
    vocabulary = model.vocabulary
    bert = BertForMaskedLM(tiny_config(version)).eval()
    bert.load_state_dict(tiny_model(version).state_dict(), strict=False)
    bert.tie_weights()
    ids = {vocabulary.token_of.get(name) or vocabulary.token_of[vocabulary.symbols[name]] for name in genes}
    found = table.set_index(["cell_id", "masked_gene"])
    expected = 0
    for row in range(len(tokens)):
        for place, token in enumerate(tokens[row]):
            if token not in ids:
                continue
            expected += 1
            masked = torch.from_numpy(tokens[row].copy()).long()
            masked[place] = vocabulary.mask_id
            with torch.no_grad():
                logits = bert(masked[None]).logits[0, place]
            logits[vocabulary.special_ids.tolist()] = -torch.inf
            chance = torch.softmax(logits, 0)
            lines = found.loc[(tokens.cell_ids[row], vocabulary.gene_of[token])]
            best = chance.topk(4)
            assert list(lines["predicted_gene"]) == [vocabulary.gene_of[i] for i in best.indices]
            np.testing.assert_allclose(lines["probability"], best.values, atol=1e-5)
            assert list(lines["order"]) == [1, 2, 3, 4]
            assert set(lines["rank_of_masked"]) == {int((chance > chance[token]).sum()) + 1}
            np.testing.assert_allclose(lines["probability_of_masked"], float(chance[token]), atol=1e-6)
            assert set(lines["rank_in_cell"]) == {place - (version == "V2")}
    assert len(table) == expected * 4 > 4


def test_symbols_are_told(model, tokens, genes):
    table = predict_masked(tokens, model, PredictOptions(genes=genes), RUNTIME)
    symbol_of = model.vocabulary.symbol_of
    assert list(table["predicted_symbol"]) == [symbol_of(gene) for gene in table["predicted_gene"]]
    assert genes[1] in set(table["masked_symbol"])
    assert not set(table["predicted_gene"]) & set(model.vocabulary.special_tokens)


def test_genes_that_no_cell_expresses_are_left_out(model, tokens, genes):
    present = {model.vocabulary.gene_of[t] for row in range(len(tokens)) for t in tokens[row]}
    absent = next(gene for gene in model.vocabulary.genes if gene not in present)
    asked = (*genes, absent, "NOTAGENE")
    with pytest.warns(GeneformerWarning, match=f"Left out: .*'NOTAGENE'.*{absent}") as caught:
        table = predict_masked(tokens, model, PredictOptions(genes=asked), RUNTIME)
    assert len(caught) == 1
    pd.testing.assert_frame_equal(table, predict_masked(tokens, model, PredictOptions(genes=genes), RUNTIME))
    assert list(table.columns) == COLUMNS
    panel = table.attrs["geneformer"]["panel"]
    assert (panel["asked"], panel["used"]) == (len(asked), len(genes))
    assert panel["left_out"] == ["NOTAGENE", absent]
    with pytest.raises(AbsentGeneError, match=f"None of the 1 genes .*{absent}"):
        predict_masked(tokens, model, PredictOptions(genes=(absent,)), RUNTIME)
    with pytest.raises(AbsentGeneError, match="Not all of the"):
        predict_masked(tokens, model, PredictOptions(genes=(*genes, absent), unknown="error"), RUNTIME)
    with pytest.raises(UnknownGeneError, match="NOTAGENE"):
        predict_masked(tokens, model, PredictOptions(genes=asked, unknown="error"), RUNTIME)


def test_the_tokens_are_left_as_they_are(model, tokens, genes):
    before = [tokens[row].copy() for row in range(len(tokens))]
    predict_masked(tokens, model, PredictOptions(genes=genes), RUNTIME)
    assert all(np.array_equal(before[row], tokens[row]) for row in range(len(tokens)))


def test_refusals(model, tokens, genes):
    with pytest.raises(UnknownGeneError, match=r"genes of vocabulary .*'NOTAGENE'"):
        predict_masked(tokens, model, PredictOptions(genes=("NOTAGENE",)), RUNTIME)
    with pytest.raises(OptionError, match="No genes to mask"):
        predict_masked(tokens, model, PredictOptions(), RUNTIME)
    with pytest.raises(OutOfRangeError, match="n_predictions"):
        predict_masked(tokens, model, PredictOptions(genes=genes, n_predictions=10**6), RUNTIME)
    with pytest.raises(CheckpointError, match="tiny has no vocabulary head"):
        predict_masked(tokens, replace(model, has_head=False), PredictOptions(genes=genes), RUNTIME)
