"""Attention weights against `transformers`' BERT, per cell and per pair of genes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertModel

from geneformer.errors import OutOfRangeError, UnknownChoiceError, UnknownGeneError, VocabularyMismatchError
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference import attention as task
from geneformer.inference.attention import cell_attention, gene_attention
from geneformer.models.loading import LoadedModel
from geneformer.options import AttentionOptions, RuntimeOptions
from golden import tiny_config, tiny_model
from small_cells import short_tokens

RUNTIME = RuntimeOptions(device="cpu", dtype="float32", progress=False)


@pytest.fixture(scope="module", params=["V1", "V2"])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def model(version):
    return LoadedModel("tiny", Path("tiny"), tiny_model(version), Vocabulary.load(version), True)


@pytest.fixture(scope="module")
def tokens(version):
    return short_tokens(version, cells=8, length=30)


@pytest.fixture(scope="module")
def reference(version, tokens):
    """Weights of BERT: one tuple of layers per cell."""
    config = tiny_config(version)
    bert = BertModel(config, add_pooling_layer=False).eval()
    bert.set_attn_implementation("eager")
    weights = tiny_model(version).bert.state_dict()
    bert.load_state_dict(weights, strict=False)
    with torch.no_grad():
        return [
            [
                layer[0].numpy()
                for layer in bert(torch.tensor(tokens[row]).long()[None], output_attentions=True).attentions
            ]
            for row in range(len(tokens))
        ]


@pytest.mark.parametrize("layer", [0, -1, -2])
def test_a_cell_attends_to_its_genes_as_in_bert(model, tokens, reference, layer):
    result = cell_attention(tokens, model, AttentionOptions(per="cell", layer=layer), RUNTIME)
    assert result.weights.shape == (len(tokens), len(result.genes))
    for row in range(len(tokens)):
        is_gene = ~np.isin(tokens[row], model.vocabulary.special_ids)
        expected = reference[row][2 + layer].mean(0)[is_gene][:, is_gene].mean(0)
        cell = result.weights[row]
        found = dict(zip(result.genes[cell.indices], cell.data, strict=True))
        assert found.keys() == set(model.vocabulary.gene_of[tokens[row][is_gene]])
        np.testing.assert_allclose(
            [found[gene] for gene in model.vocabulary.gene_of[tokens[row][is_gene]]], expected, atol=1e-6
        )


def test_a_cell_attends_to_chosen_and_heavy_genes_only(model, tokens):
    everything = cell_attention(tokens, model, AttentionOptions(per="cell"), RUNTIME).to_frame()
    chosen = tuple(model.vocabulary.gene_of[tokens[0][2:6]])
    some = cell_attention(tokens, model, AttentionOptions(per="cell", genes=chosen, min_weight=0.03), RUNTIME)
    expected = everything[everything["gene"].isin(chosen) & (everything["attention"] >= 0.03)]
    pd.testing.assert_frame_equal(some.to_frame(), expected.reset_index(drop=True))
    assert list(everything.columns) == ["cell_id", "gene", "symbol", "attention"]
    assert list(everything["cell_id"].unique()) == list(tokens.cell_ids)
    assert everything.groupby("cell_id", sort=False)["attention"].agg(lambda x: x.is_monotonic_decreasing).all()


def by_hand(model, tokens, reference, min_weight=0.0, layer=0):
    sums, seen = {}, {}
    for row in range(len(tokens)):
        mean = reference[row][2 + layer].mean(0)
        for i, one in enumerate(tokens[row]):
            for j, other in enumerate(tokens[row]):
                if {one, other} & set(model.vocabulary.special_ids) or mean[i, j] < min_weight:
                    continue
                pair = (model.vocabulary.gene_of[one], model.vocabulary.gene_of[other])
                sums[pair] = sums.get(pair, 0) + mean[i, j]
                seen[pair] = seen.get(pair, 0) + 1
    return {pair: (sums[pair] / seen[pair], seen[pair]) for pair in sums}


def found_in(table):
    columns = (table["attention"], table["n_cells"])
    return dict(zip(zip(table["source"], table["target"], strict=True), zip(*columns, strict=True), strict=True))


@pytest.mark.parametrize("least", [10, 10**9])
@pytest.mark.parametrize("min_weight", [0.0, 0.03])
def test_genes_have_the_mean_over_the_cells_with_both(model, tokens, reference, min_weight, least, monkeypatch):
    monkeypatch.setattr(task, "_LEAST_MERGED", least)
    result = gene_attention(tokens, model, AttentionOptions(min_weight=min_weight), RUNTIME)
    table, wanted = result.to_frame(), by_hand(model, tokens, reference, min_weight)
    found = found_in(table)
    assert found.keys() == wanted.keys()
    for pair, (weight, n_cells) in wanted.items():
        assert found[pair] == (pytest.approx(weight, abs=1e-5), n_cells)
    assert table["attention"].is_monotonic_decreasing
    assert set(result.genes) >= {gene for pair in wanted for gene in pair}


def test_chosen_genes_by_id_and_symbol(model, tokens, reference):
    everything = by_hand(model, tokens, reference, layer=-1)
    genes = [model.vocabulary.gene_of[token] for token in tokens[0][2:6]]
    named = (genes[0], model.vocabulary.symbol_of(genes[1]), genes[2].lower(), genes[3] + ".4")
    found = found_in(gene_attention(tokens, model, AttentionOptions(genes=named, layer=-1), RUNTIME).to_frame())
    wanted = {pair: value for pair, value in everything.items() if set(pair) <= set(genes)}
    assert found.keys() == wanted.keys()
    assert all(found[pair][0] == pytest.approx(wanted[pair][0], abs=1e-5) for pair in wanted)


def test_memory_that_runs_out_halfway_counts_no_cell_twice(model, tokens, monkeypatch):
    whole = gene_attention(tokens, model, AttentionOptions(), RUNTIME).to_frame()
    usual, failures = task.attention_weights, []

    def failing(query, key, lengths):
        for number, weights in enumerate(usual(query, key, lengths)):
            if number == 2 and len(failures) < 2:
                failures.append(len(lengths))
                raise torch.OutOfMemoryError("out of memory")
            yield weights

    monkeypatch.setattr(task, "attention_weights", failing)
    again = gene_attention(tokens, model, AttentionOptions(), RUNTIME).to_frame()
    assert len(failures) == 2
    found, wanted = found_in(again), found_in(whole)
    assert {pair: n for pair, (_, n) in found.items()} == {pair: n for pair, (_, n) in wanted.items()}
    assert all(found[pair][0] == pytest.approx(wanted[pair][0], abs=1e-6) for pair in wanted)


def test_refusals(model, tokens, version):
    with pytest.raises(OutOfRangeError, match=r"layer=-3, but tiny has 3 layers with attention. Use 0 to -2"):
        gene_attention(tokens, model, AttentionOptions(layer=-3), RUNTIME)
    with pytest.raises(UnknownGeneError, match=r"genes of vocabulary .*'GAPHD'.*--gene .*Did you mean \"GAPDH\""):
        gene_attention(tokens, model, AttentionOptions(genes=("GAPHD",)), RUNTIME)
    other = Vocabulary.load("V2" if version == "V1" else "V1").fingerprint
    with pytest.raises(VocabularyMismatchError):
        gene_attention(short_tokens(version, vocabulary=other), model, AttentionOptions(), RUNTIME)
    with pytest.raises(UnknownChoiceError, match="per='gene' is not known"):
        AttentionOptions(per="gene")
    with pytest.raises(OutOfRangeError, match="min_weight"):
        AttentionOptions(min_weight=1.5)
