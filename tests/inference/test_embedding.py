"""Embeddings against the published package's values and against `transformers`' BERT; what is refused before work."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from geneformer.errors import (
    NoCellsError,
    OutOfRangeError,
    PairingError,
    SequenceTooLongError,
    UnknownVocabularyError,
    VocabularyMismatchError,
)
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.embedding import embed
from geneformer.models.loading import LoadedModel
from geneformer.options import EmbedOptions, RuntimeOptions
from golden import golden_table, golden_tokens, tiny_config, tiny_model
from small_cells import dataset_of, short_tokens

RUNTIME = RuntimeOptions(device="cpu", dtype="float32", progress=False)
CLOSE = {"atol": 1e-5, "rtol": 0}
LAYERS = 3


@pytest.fixture(scope="module")
def models():
    return {
        version: LoadedModel("tiny", Path("tiny"), tiny_model(version), Vocabulary.load(version), True)
        for version in ("V1", "V2")
    }


@pytest.fixture(scope="module")
def bert():
    """The same weights in `transformers`, by version."""
    made = {}
    for version in ("V1", "V2"):
        model = BertForMaskedLM(tiny_config(version)).eval()
        model.load_state_dict(tiny_model(version).state_dict(), strict=False)
        model.tie_weights()
        made[version] = model
    return made


def run(tokens, model, **options):
    return embed(tokens, model, EmbedOptions(**options), RUNTIME)


@pytest.mark.parametrize(
    ("version", "pooling", "layer"),
    [("V1", "mean", 0), ("V1", "mean", -1), ("V2", "mean", -1), ("V2", "cls", 0), ("V2", "cls", -1)],
)
def test_cells_are_those_of_the_published_package(models, version, pooling, layer):
    some = range(0, 60, 6)
    tokens = golden_tokens(version).take(some)
    table = golden_table(f"embs_{version}_{'cell' if pooling == 'mean' else 'cls'}_{layer}").iloc[some]
    result = run(tokens, models[version], pooling=pooling, layer=layer)
    np.testing.assert_allclose(result.values, table.drop(columns="cell_id"), **CLOSE)
    assert result.cells.column("cell_id").to_pylist() == list(table["cell_id"])


def test_genes_are_those_of_the_published_package(models):
    result = run(golden_tokens("V1"), models["V1"], pooling="gene")
    golden = golden_table("embs_V1_gene_-1")
    np.testing.assert_allclose(result.to_frame().loc[golden.index].drop(columns="n_cells"), golden, **CLOSE)


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_every_layer_is_that_of_bert(models, bert, version):
    tokens, vocabulary = short_tokens(version), models[version].vocabulary
    states = []
    for row in range(len(tokens)):
        ids = torch.tensor(tokens[row]).long()[None]
        with torch.no_grad():
            states.append(bert[version].bert(ids, output_hidden_states=True).hidden_states)
    for layer in range(0, -LAYERS - 1, -1):
        by_hand, sums, seen = [], {}, {}
        for row, hidden in enumerate(states):
            values = hidden[LAYERS + layer][0].numpy()
            is_gene = ~np.isin(tokens[row], vocabulary.special_ids)
            assert is_gene.sum() < len(is_gene) or version == "V1"
            by_hand.append(values[is_gene].mean(0))
            for token, value in zip(tokens[row], values, strict=True):
                sums[token] = sums.get(token, 0) + value
                seen[token] = seen.get(token, 0) + 1
        np.testing.assert_allclose(run(tokens, models[version], layer=layer).values, by_hand, **CLOSE)
        genes = run(tokens, models[version], layer=layer, pooling="gene")
        assert list(genes.genes) == [vocabulary.gene_of[token] for token in sorted(sums)]
        assert list(genes.n_cells) == [seen[token] for token in sorted(sums)]
        np.testing.assert_allclose(genes.values, [sums[t] / seen[t] for t in sorted(sums)], **CLOSE)
        if version == "V2":
            first = [hidden[LAYERS + layer][0, 0].numpy() for hidden in states]
            np.testing.assert_allclose(run(tokens, models["V2"], layer=layer, pooling="cls").values, first, **CLOSE)


@pytest.mark.parametrize("pooling", ["mean", "gene"])
def test_memory_that_runs_out_changes_nothing(models, pooling, monkeypatch):
    tokens, calls = short_tokens(), []
    whole = run(tokens, models["V1"], pooling=pooling)
    network = models["V1"].network.bert
    forward = network.forward

    def failing(ids, *args, **kwargs):
        calls.append(len(ids))
        if len(ids) > 90:
            raise torch.OutOfMemoryError("out of memory")
        return forward(ids, *args, **kwargs)

    monkeypatch.setattr(network, "forward", failing)
    halved = run(tokens, models["V1"], pooling=pooling)
    assert max(calls) > 90
    np.testing.assert_allclose(halved.values, whole.values, atol=2e-6)
    if pooling == "gene":
        assert list(halved.n_cells) == list(whole.n_cells)


def test_provenance_says_how_it_was_made(models):
    told = run(short_tokens(cells=2), models["V1"], layer=0).provenance
    assert told["model"] == "tiny"
    assert told["vocabulary_fingerprint"] == Vocabulary.load("V1").fingerprint
    assert told["embedding"] == {"pooling": "mean", "layer": 0, "truncate": False}
    assert told["geneformer_version"]


def test_tokens_of_another_vocabulary_are_refused(models):
    theirs = Vocabulary.load("V2").fingerprint
    with pytest.raises(VocabularyMismatchError, match=rf"vocabulary {theirs[:12]}, but tiny expects V1 .*=\"V1\""):
        run(short_tokens(vocabulary=theirs), models["V1"])


def test_unsigned_tokens_that_cannot_fit_are_refused(models):
    with pytest.raises(UnknownVocabularyError, match="do not start with <cls>"):
        run(dataset_of([[50, 60], [70, 80]]), models["V2"])
    with pytest.raises(UnknownVocabularyError, match="do not look like V2"):
        run(short_tokens("V1"), models["V2"])
    with pytest.raises(UnknownVocabularyError, match="found token id 25426"):
        run(dataset_of([[5, 25_426]]), models["V1"])


def test_no_cells_are_refused(models):
    with pytest.raises(NoCellsError, match="no cells"):
        run(short_tokens(cells=0), models["V1"])


def test_cells_that_are_too_long_need_consent(models):
    long = dataset_of([np.arange(2, 2052), np.arange(2, 60)])
    with pytest.raises(SequenceTooLongError, match=r"1 of 2 cells have more than the 2,048 tokens.*longest: 2,050"):
        run(long, models["V1"])
    cut = dataset_of([np.arange(2, 2050), np.arange(2, 60)])
    np.testing.assert_allclose(run(long, models["V1"], truncate=True).values, run(cut, models["V1"]).values, atol=2e-6)


def test_cls_needs_cls(models):
    with pytest.raises(PairingError, match="which vocabulary V1 does not have"):
        run(short_tokens(), models["V1"], pooling="cls")
    mixed = short_tokens("V2", vocabulary=Vocabulary.load("V2").fingerprint)
    rows = [mixed[row][1:] if row == 3 else mixed[row] for row in range(len(mixed))]
    with pytest.raises(PairingError, match="some cells do not start with <cls>"):
        run(dataset_of(rows, vocabulary=mixed.vocabulary), models["V2"], pooling="cls")


def test_layers_that_do_not_exist_are_refused(models):
    with pytest.raises(OutOfRangeError, match=r"layer=-4, but tiny has 3 layers. Use 0 to -3"):
        run(short_tokens(), models["V1"], layer=-4)
