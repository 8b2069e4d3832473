"""`gf.tl.perturb`: genes in every form, states from `obs`, results in `uns` that survive a file."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

import geneformer as gf
from geneformer.errors import NotFittedError, OptionError, StateError, UnknownGeneError, UnknownOptionError
from geneformer.finetuning.estimators import CellClassifier
from geneformer.keys import PERTURBATION as SLOT
from geneformer.perturbation.effects import from_uns
from small_finetuning import QUICK, labeled_blood, tiny_model

QUIET = {"device": "cpu", "dtype": "float32", "progress": False}
STATES = {"start": "kind 1", "goal": "kind 2", "state_key": "kind"}
FTL, LYZ = "ENSG00000087086", "ENSG00000090382"

pytestmark = [pytest.mark.contract, pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny", dropout=0.0)


@pytest.fixture(scope="module")
def fitted(folder):
    classifier = CellClassifier(folder, **QUICK | {"max_steps": 2}, baselines="none", valid=0.25, test=0.0)
    return classifier.fit(labeled_blood(24), "kind")


@pytest.fixture
def adata():
    return labeled_blood(18)


def effects(adata, key=SLOT):
    frame = adata.uns[key]["effects"]
    return frame.astype({name: str for name in frame.columns if name != "value"})


def test_nothing_but_the_slot_changes(adata, folder):
    before = adata.copy()
    assert gf.tl.perturb(adata, genes=["FTL"], model=folder, **QUIET) is None
    assert (adata.X != before.X).nnz == 0
    assert adata.obs.equals(before.obs)
    assert adata.var.equals(before.var)
    assert set(adata.uns) == {*before.uns, SLOT}
    assert set(effects(adata)["cell_id"]) <= set(adata.obs_names)
    assert json.loads(adata.uns[SLOT]["provenance"])["perturb"]["genes"] == ["FTL"]


def test_a_copy_leaves_the_original_alone(adata, folder):
    copied = gf.tl.perturb(adata, genes="FTL", model=folder, copy=True, key_added="mine", **QUIET)
    assert not adata.uns
    assert set(copied.uns) == {"mine"}
    gf.tl.perturb(adata, genes="FTL", model=folder, **QUIET)
    assert effects(adata).equals(effects(copied, "mine"))


@pytest.mark.parametrize(
    ("genes", "named"),
    [
        ("FTL", {"FTL": FTL}),
        (["FTL", "lyz"], {"FTL": FTL, "lyz": LYZ}),
        (("FTL", "FTL+LYZ"), {"FTL": FTL, "FTL+LYZ": f"{FTL}+{LYZ}"}),
        (["LYZ", ["FTL", LYZ]], {"LYZ": LYZ, f"FTL+{LYZ}": f"{FTL}+{LYZ}"}),
        ({"one": "FTL", "both": ["LYZ", "FTL"]}, {"one": FTL, "both": f"{LYZ}+{FTL}"}),
        ({"swap": "delete:FTL > overexpress:LYZ"}, {"swap": f"{FTL}+{LYZ}"}),
    ],
)
def test_genes_in_every_form(adata, folder, genes, named):
    gf.tl.perturb(adata, genes=genes, model=folder, **QUIET)
    frame = effects(adata)
    assert dict(zip(frame["perturbation"], frame["genes"], strict=True)) == named


def test_all_genes_and_options_of_the_run(adata, folder):
    gf.tl.perturb(adata, model=folder, edit="inhibit", dose=0.5, max_cells=2, seed=4, gene_effects=True, **QUIET)
    frame = effects(adata)
    assert set(frame["edit"]) == {"inhibit@0.5"}
    assert set(frame["effect"]) == {"similarity", "gene_similarity"}
    assert frame["cell_id"].nunique() == len(adata.uns[SLOT]["cells"]) == 2
    assert frame["genes"].str.startswith("ENSG").all()


@pytest.mark.parametrize("key", ["kind", None])
def test_states_are_columns_of_obs(adata, folder, key):
    gf.tl.perturb(adata, genes=["FTL", "LYZ"], model=folder, **STATES | {"state_key": key}, **QUIET)
    entry, frame = adata.uns[SLOT], effects(adata)
    sick = set(adata.obs_names[adata.obs["kind"] == "kind 1"])
    assert set(entry["cells"]["cell_id"].astype(str)) == sick
    assert set(frame["cell_id"]) <= sick
    assert set(frame["effect"]) == {"shift"}
    assert set(frame["target"]) == {"kind 1", "kind 2"}
    assert list(entry["state_names"]) == ["kind 1", "kind 2"]
    assert entry["state_embeddings"].shape == (2, 16)
    assert {"donor", "age", "kind"} <= set(entry["cells"].columns)
    assert "expression:kind 2" in entry["genes"].columns


def test_states_are_means_of_the_embeddings_of_their_cells(adata, folder):
    gf.tl.perturb(adata, genes=["FTL"], edit="inhibit", model=folder, **STATES, layer=0, **QUIET)
    vectors = gf.tl.embed(adata, model=folder, layer=0, copy=True, **QUIET).obsm["X_geneformer"]
    states = adata.uns[SLOT]["state_embeddings"]
    for place, kind in enumerate(("kind 1", "kind 2")):
        np.testing.assert_allclose(states[place], vectors[adata.obs["kind"] == kind].mean(0), atol=1e-5)


def test_a_classifier_tells_shifts_of_its_probabilities(adata, fitted, tmp_path):
    gf.tl.perturb(adata, genes=["FTL", "LYZ"], model=fitted, **STATES, **QUIET)
    frame = effects(adata)
    shifts = frame[frame["effect"] == "probability_shift"]
    assert set(shifts["target"]) == set(fitted.classes_)
    sums = shifts.groupby(["cell_id", "perturbation"])["value"].sum()
    np.testing.assert_allclose(sums, 0, atol=1e-6)
    assert shifts["value"].abs().max() > 0
    assert set(frame["effect"]) == {"shift", "probability_shift"}
    fitted.save(tmp_path / "fitted")
    again = gf.tl.perturb(adata, genes=["FTL", "LYZ"], model=tmp_path / "fitted", **STATES, copy=True, **QUIET)
    np.testing.assert_allclose(effects(again)["value"], frame["value"], atol=1e-6)


def test_a_file_keeps_what_is_ranked(adata, folder, tmp_path):
    gf.tl.perturb(adata, model=folder, min_cells=3, **STATES, **QUIET)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad")
    one, other = from_uns(adata.uns[SLOT]), from_uns(read.uns[SLOT])
    pd.testing.assert_frame_equal(one.to_frame().astype(str), other.to_frame().astype(str))
    assert one.provenance == other.provenance
    tables = [gf.tl.rank_perturbations(some, permutations=20) for some in (adata, read)]
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]) == effects(adata)["perturbation"].nunique() > 3


def test_refusals_leave_the_cells_as_they_were(adata, folder):
    for given, error, told in [
        ({"genes": ["FTLL"]}, UnknownGeneError, "'FTLL'"),
        ({"genes": [["FTL", "nonsense"]], "unknown": "error"}, UnknownGeneError, "'nonsense'"),
        ({"genes": []}, OptionError, "No gene is named"),
        ({"genes": {}}, OptionError, "No gene is named"),
        ({"genes": {"a": []}}, UnknownGeneError, "''"),
        ({"start": "kind 7", "state_key": "kind"}, StateError, "kind 7.*it has"),
        ({"model": CellClassifier(folder)}, NotFittedError, "fit"),
        ({"nonsense": 3}, UnknownOptionError, "nonsense"),
    ]:
        with pytest.raises(error, match=told):
            gf.tl.perturb(adata, **{"model": folder, **given}, **QUIET)
        assert not adata.uns
