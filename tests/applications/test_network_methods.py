"""What each method of network inference reads, against the same written out plainly; and planted networks."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import BertModel

import geneformer as gf
from geneformer.applications.network_inference import gene_labels
from geneformer.inference.cells import gene_positions
from golden import save_tiny_checkpoint, tiny_config, tiny_model
from perturbation import reference
from small_cells import blood
from small_networks import inferred, planned, small_cells, small_model, weights_of

pytestmark = pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_checkpoint("V1", tmp_path_factory.mktemp("V1"))


def rows_of(cells):
    return [row.tolist() for row in cells.tokens]


def named(plan):
    """Token id by the name it has in edges."""
    labels = gene_labels(plan, None)
    used = {int(token) for token in [*plan.genes.sources[:, 0], *plan.genes.targets]}
    return {labels[token]: token for token in used}


def test_correlation_is_that_of_log_counts(folder):
    adata = blood(60)
    options = {"regulators": None, "min_cells": 45, "n_bootstrap": 0, "n_null": 0, "progress": False}
    gf.tl.network(adata, folder, method="correlation", **options)
    edges = adata.uns["network"]
    genes = adata.var_names.get_indexer(edges["source"].head(40)), adata.var_names.get_indexer(edges["target"].head(40))
    known = gene_positions(adata, gf.load_model(folder).vocabulary, None) >= 0
    counts = np.asarray(adata.X.todense(), dtype=np.float64)
    logs = np.log1p(counts / counts[:, known].sum(1, keepdims=True) * 1e4)
    wanted = np.corrcoef(logs[:, np.concatenate(genes)].T)[:40, 40:].diagonal()
    for row, correlation in zip(edges.head(40).itertuples(), wanted, strict=True):
        assert row.weight == pytest.approx(abs(correlation), abs=2e-4)
        assert row.sign == np.sign(correlation)


def test_embeddings_are_averaged_over_cells_and_lose_mean_and_first_component():
    cells = small_cells()
    plan = planned(cells, method="embedding", layer=-1, max_edges=None)
    got = weights_of(inferred(cells, method="embedding", layer=-1, max_edges=None))
    token_of, bert = named(plan), plain_bert()
    sums = {}
    for cell in rows_of(cells):
        for token, state in zip(cell, reference.states(bert, cell, -1).numpy(), strict=True):
            sums.setdefault(token, []).append(state)
    used = sorted(token_of.values())
    means = np.array([np.mean(sums[token], axis=0) for token in used], dtype=np.float64)
    means -= means.mean(0)
    first = np.linalg.svd(means, full_matrices=False)[2][0]
    means -= np.outer(means @ first, first)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert len(got) > 100
    for (source, target), weight in got.items():
        wanted = means[used.index(token_of[source])] @ means[used.index(token_of[target])]
        assert weight == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("direction", ["to", "from"])
def test_attention_is_relative_to_that_between_genes_of_like_ranks(direction):
    cells = small_cells(8, 40)
    options = {"method": "attention", "direction": direction, "max_edges": None}
    got, token_of = weights_of(inferred(cells, **options)), named(planned(cells, **options))
    found = defaultdict(list)
    for cell in rows_of(cells):
        n_classes = max(len(cell) // 8, 1)
        classes = [place * n_classes // len(cell) for place in range(len(cell))]
        weights = np.mean(attention_of(cell), axis=0)
        between = defaultdict(list)
        for one, other in permutations(range(len(cell)), 2):
            between[classes[one], classes[other]].append(weights[one, other])
        for one, other in permutations(range(len(cell)), 2):
            expected = np.mean(between[classes[one], classes[other]])
            pair = (one, other) if direction == "from" else (other, one)
            found[cell[pair[0]], cell[pair[1]]].append(weights[one, other] / expected)
    assert len(got) > 50
    for (source, target), weight in got.items():
        assert weight == pytest.approx(np.mean(found[token_of[source], token_of[target]]), rel=1e-4)


def attention_of(cell):
    """Weights of `transformers`' BERT, layer by layer, averaged over heads."""
    bert = plain_bert()
    bert.set_attn_implementation("eager")
    with torch.no_grad():
        return [layer[0].mean(0).numpy() for layer in bert(torch.tensor([cell]), output_attentions=True).attentions]


def plain_bert():
    bert = BertModel(tiny_config("V1"), add_pooling_layer=False).eval()
    bert.load_state_dict(tiny_model("V1").bert.state_dict(), strict=False)
    return bert


@pytest.mark.parametrize("edit", ["delete", "overexpress"])
def test_perturbation_is_the_shift_of_the_target_less_that_for_matched_genes(edit):
    cells = small_cells(8, 20)
    options = {"method": "perturbation", "edit": edit, "layer": -1, "max_edges": None, "n_bootstrap": 0}
    plan, network = planned(cells, **options), inferred(cells, **options)
    token_of, bert, shifts = named(plan), plain_bert(), defaultdict(list)
    for cell in rows_of(cells):
        for token in set(cell) & set(plan.genes.sources[:, 0].tolist()):
            for target, similarity in (
                reference.effects(bert, cell, [(edit, (token,), 1.0)], (0, 1), 2048, layer=-1, pooling="mean")[
                    1
                ].items()
                if reference.edited(cell, [(edit, (token,), 1.0)], (0, 1), 2048)
                else ()
            ):
                shifts[token, target].append(1 - similarity)
    row_of = {token: row for row, token in enumerate(plan.genes.sources[:, 0].tolist())}
    assert len(network.edges) > 20
    for row in network.edges.head(60).itertuples():
        source, target = token_of[row.source], token_of[row.target]
        assert row.n_cells == sum({source, target} <= set(cell) for cell in rows_of(cells))
        matched = plan.genes.sources[plan.genes.matched[row_of[source]], 0].tolist()
        of_matched = [np.sum(shifts[m, target]) / n for m in matched if (n := together(cells, m, target)) >= 2]
        effect = np.sum(shifts[source, target]) / row.n_cells
        assert row.weight == pytest.approx(effect - np.mean(of_matched), abs=1e-5)
        if len(of_matched) > 2:
            assert row.null_mean == pytest.approx(np.mean(of_matched), abs=1e-5)
            assert row.null_sd == pytest.approx(np.std(of_matched, ddof=1), abs=1e-5)


def together(cells, one, other):
    """Cells with both genes, none where they are one."""
    return sum({one, other} <= set(cell) for cell in rows_of(cells)) if one != other else 0


def test_a_pair_is_compared_with_both_genes_alone():
    cells = small_cells(8, 20)
    number = Counter(token for cell in rows_of(cells) for token in cell)
    (one, _), (other, _) = number.most_common(2)
    genes = [str(small_model().vocabulary.gene_of[token]) for token in (one, other)]
    options = {"regulators": genes, "pairs": ["+".join(genes)], "method": "perturbation", "max_edges": None}
    plan = planned(cells, **options, n_null=0)
    token_of, bert, found = named(plan), plain_bert(), defaultdict(list)
    for cell in rows_of(cells):
        if {one, other} <= set(cell):
            both, first, second = (
                reference.effects(bert, cell, [("delete", edited, 1.0)], (0, 1), 2048, layer=-1, pooling="mean")[1]
                for edited in ((one, other), (one,), (other,))
            )
            for target in set(cell) - {one, other}:
                found[target].append((1 - both[target]) - (1 - first[target]) - (1 - second[target]))
    edges = inferred(cells, **options, n_null=0).edges
    edges = edges[edges["method"] == "interaction"]
    assert len(edges) > 5
    for row in edges.itertuples():
        assert row.weight == pytest.approx(np.mean(found[token_of[row.target]]), abs=1e-5)
        assert {token_of[name] for name in row.source.split("+")} == {one, other}


@pytest.fixture(scope="module")
def planted():
    """Cells, a network in which some genes look at one of three regulators, and which look at which."""
    cells = small_cells(24, 40)
    number = Counter(token for cell in rows_of(cells) for token in cell)
    common = [token for token, _ in number.most_common(24)]
    partners_of = {common[place]: common[6 + place :: 3][:5] for place in range(3)}
    network = tiny_model("V1")
    layer = network.bert.encoder.layer[0].attention.self
    with torch.no_grad():
        layer.query.weight[:16], layer.key.weight[:16] = 0, 0
        network.bert.embeddings.position_embeddings.weight.zero_()  # or what moves up would move more than partners do
        for place, (regulator, partners) in enumerate(partners_of.items()):
            embedded = network.bert.embeddings.word_embeddings.weight
            embedded[regulator, 2 * place] = 4.0
            embedded[partners, 2 * place + 1] = 4.0
            layer.key.weight[place, 2 * place] = layer.query.weight[place, 2 * place + 1] = 2.0
    return cells, replace(small_model(), network=network), partners_of


@pytest.mark.parametrize(
    "options",
    [
        {"method": "perturbation", "layer": -2},
        {"method": "perturbation", "layer": -2, "deletions": "screen"},
        {"method": "attention", "direction": "to"},
    ],
    ids=["perturbation", "screen", "attention"],
)
def test_a_planted_network_is_recovered(planted, options):
    cells, model, partners_of = planted
    regulators = [str(model.vocabulary.gene_of[token]) for token in partners_of]
    plan = planned(cells, model, **options, regulators=regulators, n_null=20)
    token_of = named(plan)
    edges = inferred(cells, model, **options, regulators=regulators, n_null=20).edges
    for regulator, partners in partners_of.items():
        of_regulator = edges[edges["source"].map(token_of) == regulator]
        is_partner = of_regulator["target"].map(token_of).isin(partners)
        assert roc_auc_score(is_partner, of_regulator["weight"]) > 0.95
        assert len(set(of_regulator["target"].head(5).map(token_of)) & set(partners)) >= 4
        assert of_regulator["z"].head(5).min() > of_regulator["z"].iloc[5:].quantile(0.9)


@pytest.mark.parametrize("method", ["correlation", "boosting"])
def test_genes_that_follow_a_regulator_are_found(folder, method):
    adata = blood(120)
    counts = np.asarray(adata.X.todense())
    detected = np.argsort(-((counts > 0).mean(0)))
    regulator, partners, others = detected[60], detected[61:66], detected[66:90]
    is_on = np.random.default_rng(0).random(len(counts)) < 0.5
    counts[:, regulator] = is_on * 5
    counts[:, partners] = is_on[:, None] * counts[:, partners]
    adata.X = counts
    names = adata.var_names[[*partners, *others[:7]]].tolist()
    gf.tl.network(
        adata,
        folder,
        method=method,
        regulators=adata.var_names[[regulator, *detected[90:95]]].tolist(),
        targets=names,
        n_null=5,
        n_bootstrap=0,
        progress=False,
    )
    edges = adata.uns["network"]
    of_regulator = edges[edges["source"] == adata.var_names[regulator]]
    assert roc_auc_score(of_regulator["target"].isin(names[:5]), of_regulator["weight"]) > 0.9
