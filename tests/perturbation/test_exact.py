"""Exact effects against a slow reference on `transformers`' BERT, over edits, poolings, lengths and batch sizes."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.perturbation.edits import Perturbation, Step
from geneformer.perturbation.exact import Deletions, ExactRunner, PerturbedModel, possible_edits
from models.reference_bert import ours, random_bert, small_config
from perturbation import reference

SPECIAL = (0, 1, 2, 3)


@dataclass(frozen=True)
class Words:
    """As much of a vocabulary as the runner looks at."""

    special_ids: np.ndarray


@pytest.fixture(scope="module")
def bert():
    return random_bert(small_config(num_hidden_layers=3), seed=3)


@pytest.fixture(scope="module")
def model(bert):
    return PerturbedModel("small", Words(np.array(SPECIAL)), ours(bert).bert)


def run(model, cells, perturbations, options, states=None, tokens_per_batch=None):
    """Effects by cell and perturbation: similarity or shifts, and similarities of genes."""
    runtime = RuntimeOptions(device="cpu", dtype="float32", progress=False, tokens_per_batch=tokens_per_batch)
    runner = ExactRunner(model, options, runtime, states)
    found = {}

    def take(edits, effects, pairs):
        start = 0
        for place, edit in enumerate(edits):
            stop = start + len(edit.edited.tokens)
            genes = None
            if effects.genes is not None:
                other = (pairs.weight[start:stop] > 0).numpy()
                values = effects.genes[start:stop].numpy()[other]
                genes = dict(zip(edit.edited.tokens[other].tolist(), values.tolist(), strict=True))
            cell = effects.similarity if effects.shifts is None else effects.shifts
            found[edit.cell, edit.perturbation.name] = (cell[place].numpy(), genes)
            start = stop

    rows = [np.array(cell) for cell in cells]
    runner.run(rows, possible_edits(rows, [perturbations] * len(cells), model), take)
    return found


def check(bert, model, cells, perturbations, options, states=None, tokens_per_batch=None):
    found = run(model, cells, perturbations, options, states, tokens_per_batch)
    goals = None if states is None else list(torch.from_numpy(states))
    n_expected = 0
    for place, cell in enumerate(cells):
        for perturbation in perturbations:
            expected = reference.effects(
                bert, cell, [(s.edit, s.tokens, s.dose) for s in perturbation.steps], SPECIAL, 32,
                layer=options.layer, pooling=options.pooling, goals=goals,
            )  # fmt: skip
            if expected is None:
                assert (place, perturbation.name) not in found
                continue
            n_expected += 1
            value, genes = found[place, perturbation.name]
            np.testing.assert_allclose(value, expected[0], atol=2e-6)
            if options.gene_effects:
                assert genes.keys() == expected[1].keys()
                np.testing.assert_allclose([genes[g] for g in genes], [expected[1][g] for g in genes], atol=2e-6)
    assert len(found) == n_expected


@st.composite
def cases(draw):
    pooling = draw(st.sampled_from(["mean", "rank", "cls"]))
    cells = [
        [2, *genes, 3] if pooling == "cls" else genes
        for genes in draw(
            st.lists(st.lists(st.integers(4, 59), min_size=2, max_size=30, unique=True), min_size=1, max_size=3)
        )
    ]
    everyone = sorted({token for cell in cells for token in cell if token > 3})
    group = st.lists(st.sampled_from(everyone) | st.integers(4, 59), min_size=1, max_size=3, unique=True).map(tuple)
    step = st.builds(
        Step, st.sampled_from(["delete", "overexpress", "inhibit", "activate"]), group, st.sampled_from([0.25, 1.0])
    )
    steps = draw(st.lists(st.lists(step, min_size=1, max_size=2), min_size=1, max_size=4))
    named = [Perturbation(f"p{number}", tuple(some)) for number, some in enumerate(steps)]
    every = [Perturbation(f"d{token}", (Step("delete", (token,)),)) for token in everyone[:12]]
    return pooling, cells, named + (every if draw(st.booleans()) else [])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(cases(), st.sampled_from([0, -1, -2]), st.booleans(), st.booleans(), st.sampled_from([8, 64, 4096]))
def test_effects_equal_the_reference(bert, model, case, layer, gene_effects, with_states, tokens_per_batch):
    pooling, cells, perturbations = case
    options = PerturbOptions(pooling=pooling, layer=layer, gene_effects=gene_effects)
    states = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32) if with_states else None
    check(bert, model, cells, perturbations, options, states, tokens_per_batch)


@pytest.mark.parametrize("pooling", ["mean", "rank", "cls"])
@pytest.mark.parametrize("layer", [0, -1, -3])
def test_every_gene_of_a_cell_as_long_as_the_model_takes(bert, model, pooling, layer):
    genes = np.random.default_rng(1).permutation(np.arange(4, 60))[:32].tolist()
    cell = [2, *genes[:30], 3] if pooling == "cls" else genes
    every = [Perturbation(str(token), (Step("delete", (token,)),)) for token in sorted(set(cell) - set(SPECIAL))]
    check(bert, model, [cell], every, PerturbOptions(pooling=pooling, layer=layer))


@pytest.mark.parametrize("added", [(57,), (57, 58), (57, 58, 59)])
def test_a_full_cell_that_gains_genes(bert, model, added):
    cell = [token for token in range(4, 60) if token not in (57, 58, 59)][:32]
    check(bert, model, [cell], [Perturbation("more", (Step("overexpress", added),))], PerturbOptions(gene_effects=True))


def test_pairs_with_an_anchor(bert, model):
    cell = list(range(10, 30))
    pairs = [Perturbation(str(t), (Step("delete", (15, t)),)) for t in cell if t != 15]
    check(bert, model, [cell], pairs, PerturbOptions(gene_effects=True))


@pytest.mark.parametrize("deleted", [[0], [31], [3, 4, 5], [2, 9, 30], list(range(32))])
def test_the_shared_first_layer_is_the_first_layer(model, deleted):
    cell = torch.arange(4, 36)
    with torch.inference_mode():
        found = Deletions(model.encoder, cell).states(deleted)
        rows = torch.cat([torch.cat([cell[:i], cell[i + 1 :]]) for i in deleted])
        cu_seqlens = torch.arange(len(deleted) + 1) * 31
        torch.testing.assert_close(found, model.encoder(rows, cu_seqlens, layer=-2), atol=2e-6, rtol=0)


def test_deletions_may_come_in_any_order_of_calls(model):
    cell = torch.arange(4, 36)
    with torch.inference_mode():
        whole = Deletions(model.encoder, cell)
        later, earlier = whole.states([20, 21]), whole.states([3, 20])
        fresh = Deletions(model.encoder, cell).states([3, 20])
        torch.testing.assert_close(earlier, fresh)
        torch.testing.assert_close(earlier[31:], later[:31])


def test_the_shared_first_layer_without_the_lean_way(model):
    cell = torch.arange(4, 36)
    with torch.inference_mode():
        lean = Deletions(model.encoder, cell).states([5, 6])
    with torch.no_grad():
        torch.testing.assert_close(Deletions(model.encoder, cell).states([5, 6]), lean)
