"""Estimated deletions against `transformers`' BERT with a gate on every key, and against deletions that were run."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import cosine_similarity, normalize

import geneformer as gf
from geneformer.datasets import pbmc3k
from geneformer.errors import PairingError
from geneformer.models.encoder import ATTENTION_WINDOW, RELATIVE_CLIP, GeneformerEncoder
from geneformer.models.heads import GeneformerForCells, HeadSpec
from geneformer.perturbation.run import exact_effects
from geneformer.perturbation.screen import (
    GatedCell,
    agreement,
    genes_of,
    head_of,
    screen_deletions,
    screen_gene_effects,
    sum_embeddings,
)
from models.reference_bert import ours, random_bert, small_config
from small_plans import planned, small_cells

SPECIAL = (0, 1, 2, 3)
CELL = torch.tensor([2, 17, 44, 9, 31, 58, 23, 12, 50, 3])
N = len(CELL)


@pytest.fixture(scope="module")
def bert():
    return random_bert(small_config(initializer_range=0.3)).double()


@pytest.fixture(scope="module")
def encoder(bert):
    return ours(bert).double().bert


def gated_states(bert, ids, gates, positions=None, moved=None):
    """BERT with log-gates added to the scores of all keys: states after every layer."""
    mask = torch.log(gates).expand(1, 1, len(ids), len(ids))
    positions = torch.arange(len(ids)) if positions is None else positions
    embedded = bert.bert.embeddings.word_embeddings(ids) + (0 if moved is None else moved)
    found = bert.bert(
        inputs_embeds=embedded[None], position_ids=positions[None], attention_mask=mask, output_hidden_states=True
    )
    return [states[0] for states in found.hidden_states]


def gated_cell(encoder, n_layers=2, ids=CELL):
    return GatedCell(encoder, sum_embeddings(encoder, ids, torch.arange(len(ids))), n_layers)


def slopes(number, x, step=1e-5):
    """Central differences of a number, one for every element of `x`."""
    found = torch.empty_like(x)
    for place in range(x.numel()):
        each = torch.zeros_like(x).view(-1)
        each[place] = step
        found.view(-1)[place] = (number(x + each.view_as(x)) - number(x - each.view_as(x))) / (2 * step)
    return found


@pytest.mark.parametrize("kept", [0, 2**28], ids=["computed again", "kept"])
@pytest.mark.parametrize("block", [1, 2**20], ids=["small blocks", "one block"])
def test_slopes_of_gates_and_embeddings_are_finite_differences(bert, encoder, monkeypatch, kept, block):
    monkeypatch.setattr("geneformer.perturbation.screen._KEPT", kept)
    monkeypatch.setattr("geneformer.perturbation.screen._BLOCK", block)
    monkeypatch.setattr("geneformer.perturbation.screen._LEAST_ROWS", 7)
    torch.manual_seed(1)
    ids = torch.cat([CELL[:-1], torch.arange(4, 16), CELL[-1:]])  # more than a small block
    grads = torch.randn(2, len(ids), 16, dtype=torch.double)
    with torch.inference_mode():
        cell = gated_cell(encoder, ids=ids)
    gates = torch.ones(len(ids), dtype=torch.double)
    for n_layers in (1, 2):
        with torch.inference_mode():
            found = cell.pull(grads, n_layers, gates="slopes", embedded=True)
        with torch.no_grad():
            states = gated_states(bert, ids, gates)
            assert torch.allclose(cell.states[n_layers], states[n_layers])
            for grad, told, embedded in zip(grads, found.gates, found.embedded, strict=True):

                def number(gates, moved=None, grad=grad, n_layers=n_layers):
                    return (gated_states(bert, ids, gates, moved=moved)[n_layers] * grad).sum()

                by_gate = slopes(number, gates)
                assert torch.allclose(told, by_gate, rtol=1e-6, atol=1e-7)
                way = torch.randn(len(ids), 16, dtype=torch.double)
                along = slopes(lambda x, way=way, number=number: number(gates, x * way), torch.zeros(1).double())
                assert torch.allclose((embedded * way).sum(), along[0], rtol=1e-6)


def test_a_closed_gate_is_a_deletion_at_old_positions(bert):
    with torch.no_grad():
        for place in range(1, N - 1):
            gates = torch.ones(N, dtype=torch.double)
            gates[place] = 0
            others = torch.arange(N) != place
            closed = gated_states(bert, CELL, gates)
            gone = gated_states(bert, CELL[others], gates[others], positions=torch.arange(N)[others])
            assert all(torch.allclose(a[others], b) for a, b in zip(closed, gone, strict=True))


def test_pairs_add_up_to_removals(encoder):
    grads = torch.randn(3, N, 16, dtype=torch.double)
    cell = gated_cell(encoder)
    pairs, removals = (cell.pull(grads, 2, gates=gates).gates for gates in ("pairs", "removals"))
    assert torch.allclose(pairs.sum(1), removals)
    assert not pairs.diagonal(dim1=1, dim2=2).any()


def weak_encoder(influence, config=None):
    """An encoder with sharp attention, of which little is kept, and with positions that differ little."""
    model = random_bert(config or small_config(initializer_range=0.3, vocab_size=60))
    encoder = ours(model).double().bert
    with torch.no_grad():
        encoder.embeddings.position_embeddings.weight.mul_(influence)
        for layer in encoder.encoder.layer:
            layer.attention.self.query.weight.mul_(3)
            layer.attention.output.dense.weight.mul_(influence)
    return encoder


def weights(is_gene, pooling):
    rank = torch.arange(int(is_gene.sum()), dtype=torch.double)
    found = 1 / (1 + rank / 100) if pooling == "rank" else torch.ones_like(rank)
    return found / found.sum()


def run_exactly(encoder, layer, pooling, states=None, head_network=None, ids=CELL):
    """Every deletion, one run of the network each."""
    is_gene = genes_of(ids, SPECIAL)

    def read(ids, genes):
        with torch.no_grad():
            cu_seqlens = torch.tensor([0, len(ids)])
            hidden = encoder(ids, cu_seqlens, layer=layer)
            vector = hidden[0] if pooling == "cls" else weights(genes, pooling).to(hidden) @ hidden[genes]
            proba = None
            if head_network is not None:
                pooled = head_network.embed(ids, cu_seqlens).double()
                proba = head_network.heads[0](pooled)[0].softmax(0)
        return hidden, vector, proba

    hidden, vector, proba = read(ids, is_gene)
    shifts, probabilities, similarities = [], [], []
    for place in is_gene.nonzero()[:, 0]:
        others = torch.arange(len(ids)) != place
        genes = is_gene[others]
        new_hidden, new_vector, new_proba = read(ids[others], genes)
        if pooling == "cls":
            similarities.append(cosine_similarity(new_vector, vector, dim=0))
        else:
            similarity = cosine_similarity(new_hidden[genes], hidden[others][genes], dim=1)
            similarities.append(weights(genes, pooling).to(similarity) @ similarity)
        if states is not None:
            shifts.append(normalize(states, dim=1) @ (normalize(new_vector, dim=0) - normalize(vector, dim=0)))
        if new_proba is not None:
            probabilities.append(new_proba - proba)
    return [torch.stack(x, -1).numpy() if x else None for x in (shifts, probabilities, similarities)]


@pytest.mark.parametrize("layer", [0, -1])
@pytest.mark.parametrize("pooling", ["mean", "rank", "cls"])
def test_shifts_are_those_of_deletions_that_change_little(layer, pooling):
    states = torch.randn(2, 16, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    errors = []
    for influence in (1e-2, 1e-3):
        encoder = weak_encoder(influence)
        exact, _, _ = run_exactly(encoder, layer, pooling, states)
        found = screen_deletions(
            encoder, CELL, layer=layer, pooling=pooling, special_ids=SPECIAL, states=states, probes=0
        )
        assert found.places.tolist() == list(range(1, N - 1))
        assert found.shifts.dtype == np.float32
        assert found.similarity is None
        errors.append(np.abs(found.shifts - exact).max() / np.abs(exact).max())
    assert errors[1] < 0.2 * errors[0]
    assert errors[1] < 0.02


@pytest.mark.parametrize("pooling", ["mean", "rank", "cls"])
@pytest.mark.parametrize("positions", [0.0, 1.0])
def test_similarities_are_those_of_deletions_that_change_little(pooling, positions):
    encoder = weak_encoder(0.01)
    with torch.no_grad():
        encoder.embeddings.position_embeddings.weight.mul_(positions)
    _, _, exact = run_exactly(encoder, 0, pooling)
    cell = screen_deletions(encoder, CELL, layer=0, pooling=pooling, special_ids=SPECIAL, probes=300, cuts=N)
    # Between moves and gates there are cross terms, which are left out.
    room = 0.5 if positions else 0.3
    assert np.allclose(1 - cell.similarity, 1 - exact, rtol=room, atol=0.03 * (1 - exact).max())


def small_classifier(encoder, pooling):
    config = encoder.config
    config.geneformer_heads = [HeadSpec(name="x", classes=("a", "b", "c")).to_dict()]
    config.geneformer_pooling, config.geneformer_special_ids = pooling, list(SPECIAL)
    network = GeneformerForCells(config).double().eval()
    network.bert = encoder
    with torch.no_grad():
        network.heads[0].weight.mul_(20)
    return network


@pytest.mark.parametrize("pooling", ["mean", "rank", "cls", "attention", "pooler"])
def test_probabilities_are_those_of_deletions_that_change_little(pooling):
    errors = []
    for influence in (1e-2, 1e-3):
        torch.manual_seed(0)
        network = small_classifier(weak_encoder(influence), pooling)
        _, exact, _ = run_exactly(network.bert, -1, "mean", head_network=network)
        found = screen_deletions(
            network.bert, CELL, layer=-1, pooling="mean", special_ids=SPECIAL, head=head_of(network, CELL), probes=0
        )
        assert found.probability_shifts.shape == (3, N - 2)
        assert np.abs(found.probability_shifts.sum(0)).max() < 1e-6
        errors.append(np.abs(found.probability_shifts - exact).max() / np.abs(exact).max())
    assert errors[1] < 0.2 * errors[0]
    assert errors[1] < 0.02


def test_the_same_seed_gives_the_same_numbers(encoder):
    wanted = {"layer": 0, "pooling": "mean", "special_ids": SPECIAL}
    first, again, other = (screen_deletions(encoder, CELL, seed=seed, **wanted).similarity for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_cell_needs_two_genes(encoder):
    found = screen_deletions(encoder, torch.tensor([2, 17, 3]), layer=0, pooling="mean", special_ids=SPECIAL)
    assert not len(found.places)
    assert found.similarity is None
    two = screen_deletions(encoder, torch.tensor([17, 18]), layer=0, pooling="cls", special_ids=SPECIAL)
    assert np.isfinite(two.similarity).all()


@pytest.mark.parametrize("extension", [RELATIVE_CLIP, ATTENTION_WINDOW])
def test_attention_of_its_own_is_refused(extension):
    encoder = GeneformerEncoder(small_config(**{extension: 4})).eval()
    with pytest.raises(PairingError, match="exact"):
        screen_deletions(encoder, CELL, layer=0, pooling="mean", special_ids=SPECIAL)


def test_agreement_counts_from_either_end():
    exact = np.array([5.0, 4.0, -9.0, 0.1, 0.2])
    found = agreement(np.array([5.0, 0.0, -9.0, 0.1, 0.2]), exact, 2)
    assert found["highest"] == 0.5
    assert found["strongest"] == 1.0
    assert found["spearman"] == pytest.approx(0.7)


@pytest.mark.parametrize("layer", [0, -1])
def test_real_cells(layer):
    mini = gf.load_model("mini")
    tokens = gf.pp.tokenize(pbmc3k()[:3].copy(), vocabulary="V1", max_length=160)
    cells = [torch.as_tensor(np.asarray(tokens[row])).long() for row in range(3)]
    states = torch.stack([mini.network.bert(cell, torch.tensor([0, 160]), layer=layer).mean(0) for cell in cells[1:]])
    wanted = {"layer": layer, "pooling": "mean", "special_ids": mini.vocabulary.special_ids.tolist()}
    exact, _, similar = run_exactly(mini.network.bert, layer, "mean", states.detach(), ids=cells[0])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = screen_deletions(mini.network.bert, cells[0], states=states.detach(), **wanted)
    for estimated, shift in zip(found.shifts, exact, strict=True):
        worth = agreement(estimated, shift, 20)
        assert worth["spearman"] > 0.95
        assert min(worth["highest"], worth["strongest"]) >= 0.8
    assert agreement(-found.similarity, -similar, 20)["spearman"] > 0.99


def test_effects_on_every_gene_are_estimated():
    plan = planned(small_cells(2, 40), gene_effects=True)
    for row in range(2):
        [cell] = plan.token_rows(np.array([row]))
        place_of = {int(token): place for place, token in enumerate(cell)}
        exact = exact_effects(plan, np.array([row]), [plan.targets.of_cell(cell)]).to_pandas()
        exact = exact[exact["effect"] == "gene_similarity"]
        token_of = plan.model.vocabulary.token_of
        pairs = [[place_of[token_of[gene]] for gene in exact[name].astype(str)] for name in ("genes", "target")]
        screened = screen_gene_effects(
            plan.model.encoder, torch.as_tensor(cell), layer=-1, special_ids=(0, 1), probes=8
        )
        assert spearmanr(1 - exact["value"].to_numpy(), screened[pairs[0], pairs[1]]).statistic > 0.8
