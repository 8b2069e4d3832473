"""Every number the published package stored of its perturbation runs, from our runs on the same cells and weights."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from geneformer.genes.vocabulary import Vocabulary
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.perturbation.exact import PerturbedModel
from geneformer.perturbation.plan import plan_perturbation
from geneformer.perturbation.run import run_plan
from geneformer.tokens.dataset import TokenizedDataset
from golden import GOLDEN, golden_table, tiny_model

pytestmark = pytest.mark.contract

CHOICES = json.loads((GOLDEN / "choices.json").read_text())
START, GOAL, ALTERNATE = CHOICES["states"]
POOLING = {"V1": "mean", "V2": "cls"}
STATES = {"start": START, "goal": GOAL, "alternates": (ALTERNATE,)}

both = pytest.mark.parametrize("version", ["V1", "V2"])


@cache
def model(version):
    return PerturbedModel("tiny", Vocabulary.load(version), tiny_model(version).bert)


@cache
def cells(version):
    return TokenizedDataset(pq.read_table(GOLDEN / f"perturbed_tokens_{version}.parquet"))


def short_cells(version):
    names = pd.read_csv(GOLDEN / f"short_{version}_cells.csv")["0"].tolist()
    everyone = cells(version).cell_ids.tolist()
    return cells(version).take([everyone.index(name) for name in names])


def run(version, tokens, **options):
    """Our effects as the published package counts cells: longest first."""
    runtime = RuntimeOptions(device="cpu", dtype="float32", progress=False)
    stored = golden_table(f"state_embs_{version}")
    states = {name: stored[name].to_numpy() for name in stored} if "start" in options else None
    options = PerturbOptions(pooling=POOLING[version], **options)
    plan = plan_perturbation(tokens, model(version), options, runtime, states=states)
    effects = run_plan(plan).to_frame()
    token_of = plan.model.vocabulary.token_of
    effects["tokens"] = [",".join(str(token_of[g]) for g in genes.split("+")) for genes in effects["genes"].astype(str)]
    order = np.argsort(-tokens.lengths, kind="stable")
    place = {name: number for number, name in enumerate(tokens.cell_ids[order].tolist())}
    return effects.assign(cell=effects["cell_id"].astype(str).map(place)).sort_values("cell", kind="stable")


def published(version, name):
    stored = golden_table(f"perturbation_{version}")
    return stored[stored["run"] == name]


def equal(found, expected):
    """The same values for the same keys; cells of one length have no order in the published package."""
    assert found.keys() == expected.keys()
    for key in expected:
        assert len(found[key]) == len(expected[key])
        np.testing.assert_allclose(np.sort(found[key]), np.sort(expected[key]), atol=1e-5, rtol=0)


def by(frame, columns, value="value"):
    return {key: part[value].to_numpy() for key, part in frame.groupby(columns, observed=True)}


@both
@pytest.mark.parametrize(("name", "edit"), [("delete_all", "delete"), ("overexpress_all", "overexpress")])
def test_every_gene_of_four_cells(version, name, edit):
    found = run(version, short_cells(version), edit=edit)
    equal(by(found, ["tokens"]), by(published(version, name), ["perturbed_tokens"]))


@both
@pytest.mark.parametrize(("name", "place"), [("delete_list", 0), ("delete_null", 1)])
def test_one_gene_in_all_cells_that_have_it(version, name, place):
    found = run(version, cells(version), genes=(CHOICES["deleted"][place],))
    equal(by(found, ["tokens"]), by(published(version, name), ["perturbed_tokens"]))


@both
def test_genes_that_few_cells_have_are_added(version):
    found = run(version, cells(version), genes=("+".join(CHOICES["overexpressed"]),), edit="overexpress")
    equal(by(found, ["tokens"]), by(published(version, "overexpress_list"), ["perturbed_tokens"]))


@both
def test_two_genes_together_towards_states(version):
    found = run(version, cells(version), genes=("+".join(CHOICES["deleted"]),), **STATES)
    equal(by(found, ["target", "tokens"]), by(published(version, "delete_pair_goal"), ["state", "perturbed_tokens"]))


@both
def test_every_gene_towards_states(version):
    found = run(version, short_cells(version), **STATES)
    equal(by(found, ["target", "tokens"]), by(published(version, "delete_all_goal"), ["state", "perturbed_tokens"]))


@both
def test_what_happens_to_every_other_gene(version):
    found = run(version, short_cells(version), genes=(CHOICES["deleted"][0],), gene_effects=True)
    expected = published(version, "delete_list_gene")
    token_of = model(version).vocabulary.token_of
    affected = found["target"].astype(str).map(lambda gene: str(token_of[gene]) if gene else "cell")
    equal(by(found.assign(affected=affected), ["affected"]), by(expected, ["affected"]))
