"""A checkpoint folder, opened by its path, gives the embeddings the published package extracted."""

import numpy as np
import pandas as pd
import pytest
import torch

from geneformer.models.encoder import mean_pool
from geneformer.models.loading import load_model
from golden import SPECIALS, golden_table, golden_tokens, save_tiny_checkpoint

pytestmark = pytest.mark.contract

CLOSE = {"atol": 1e-5, "rtol": 0}
every_layer = pytest.mark.parametrize("layer", [0, -1])


@pytest.fixture(scope="module", params=["V1", "V2"])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def loaded(version, tmp_path_factory):
    return load_model(save_tiny_checkpoint(version, tmp_path_factory.mktemp(version)))


@pytest.fixture(scope="module")
def states(loaded, version):
    """Tokens of the golden cells, and their states by layer."""
    tokens = golden_tokens(version)
    packed = tokens.gather(np.arange(len(tokens)))
    input_ids = torch.from_numpy(packed.input_ids).long()
    cu_seqlens = torch.from_numpy(packed.cu_seqlens)
    with torch.inference_mode():
        hidden = {layer: loaded.network.bert(input_ids, cu_seqlens, layer=layer) for layer in (0, -1)}
    return input_ids, cu_seqlens, hidden


def values(table: pd.DataFrame) -> np.ndarray:
    return table.drop(columns="cell_id", errors="ignore").to_numpy()


def test_the_vocabulary_is_recognized_by_its_size(loaded, version):
    assert loaded.vocabulary.name == version
    assert loaded.has_head


@every_layer
def test_cell_embeddings_are_means_over_genes(version, states, layer):
    input_ids, cu_seqlens, hidden = states
    is_gene = ~torch.isin(input_ids, torch.tensor(SPECIALS[version]))
    before = torch.nn.functional.pad(is_gene.cumsum(0), (1, 0))
    found = mean_pool(hidden[layer][is_gene], before[cu_seqlens])
    golden = golden_table(f"embs_{version}_cell_{layer}")
    assert list(golden["cell_id"]) == list(golden_tokens(version).cell_ids)
    np.testing.assert_allclose(found, values(golden), **CLOSE)


@every_layer
def test_cls_embeddings_are_the_first_states(version, states, layer):
    if version == "V1":
        pytest.skip("V1 has no <cls>")
    _, cu_seqlens, hidden = states
    golden = values(golden_table(f"embs_{version}_cls_{layer}"))
    np.testing.assert_allclose(hidden[layer][cu_seqlens[:-1]], golden, **CLOSE)


@every_layer
def test_gene_embeddings_are_means_over_cells(version, states, layer, loaded):
    input_ids, _, hidden = states
    golden = golden_table(f"embs_{version}_gene_{layer}")
    token_of = loaded.vocabulary.token_of | loaded.vocabulary.special_tokens
    found = [hidden[layer][input_ids == token_of[name]].mean(0).numpy() for name in golden.index]
    np.testing.assert_allclose(np.stack(found), values(golden), **CLOSE)
