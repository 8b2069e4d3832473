"""The start from the data: deterministic, genes only, near what it promises."""

import numpy as np
import pytest
import torch

from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import architecture_config
from geneformer.pretraining.start import start_from_spectrum
from small_runs import tokenized, write_architecture, write_cells

VOCABULARY = Vocabulary.load("V1")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tokenized(write_cells(tmp_path_factory.mktemp("cells")))


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    return GeneformerForMaskedLM(architecture_config(write_architecture(tmp_path), vocab_size=VOCABULARY.size))


def started(model, dataset, rows=range(48), seed=0, **limits):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_from_spectrum(model, dataset, np.array(rows), VOCABULARY, 2048, seed, **limits)
    return before, {name: value.clone() for name, value in model.state_dict().items()}


EMBEDDING, BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"


def test_only_gene_embeddings_and_the_bias_change(model, dataset):
    before, after = started(model, dataset)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {EMBEDDING, BIAS}
    specials = VOCABULARY.special_ids.tolist()
    assert torch.equal(before[EMBEDDING][specials], after[EMBEDDING][specials])
    assert torch.isfinite(after[EMBEDDING]).all()
    assert after[EMBEDDING].requires_grad is False
    assert model.bert.embeddings.word_embeddings.weight.requires_grad


def test_it_is_the_same_every_time(model, dataset):
    _, first = started(model, dataset)
    _, again = started(model, dataset)
    _, other = started(model, dataset, seed=1)
    assert torch.equal(first[EMBEDDING], again[EMBEDDING])
    assert not torch.equal(first[EMBEDDING], other[EMBEDDING])


def test_the_bias_is_the_frequency_of_each_gene(model, dataset):
    _, after = started(model, dataset)
    ids = np.concatenate([dataset[row][:2048] for row in range(48)])
    share = np.bincount(ids, minlength=VOCABULARY.size) / len(ids)
    common = np.argsort(-share)[:500]
    np.testing.assert_allclose(np.exp(after[BIAS].numpy()[common]), share[common], rtol=1e-4)
    assert after[BIAS][share == 0].max() < after[BIAS][common].min()


def test_only_the_rows_given_are_read(model, dataset):
    _, some = started(model, dataset, rows=range(10))
    _, same = started(model, dataset.take(range(10)), rows=range(10))
    assert torch.equal(some[EMBEDDING], same[EMBEDDING])
    _, sample = started(model, dataset, max_cells=20)
    _, everything = started(model, dataset)
    assert not torch.equal(sample[BIAS], everything[BIAS])


def test_genes_of_the_same_cells_begin_close(model, dataset):
    """Two groups of cells that share no genes: genes of one group are nearer to each other than to the other group."""
    from small_cells import dataset_of

    rng = np.random.default_rng(0)
    pools = (np.arange(100, 130), np.arange(200, 230))
    rows = [rng.permutation(rng.choice(pools[cell % 2], 20, replace=False)) for cell in range(60)]
    import pyarrow as pa

    counts = pa.array([np.full(20, 500.0) for _ in rows], pa.large_list(pa.float64()))
    _, after = started(model, dataset_of(rows, counts=counts), rows=range(60))
    vectors = after[EMBEDDING].numpy()
    centered = vectors - vectors[np.concatenate(pools)].mean(0)
    one, other = (centered[pool].mean(0) for pool in pools)
    nearer = [np.linalg.norm(centered[gene] - one) < np.linalg.norm(centered[gene] - other) for gene in pools[0]]
    assert np.mean(nearer) > 0.9
