"""Embeddings of states: the published numbers and files, and states in another form."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from geneformer import EmbExtractor
from geneformer.compat.cells import read_cell_states
from geneformer.errors import (
    NoCellsError,
    OptionError,
    StateError,
)
from geneformer.files.pickles import read_pickle
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import write_dataset
from golden import GOLDEN, golden_table, save_tiny_checkpoint

pytestmark = pytest.mark.contract

START, GOAL, ALTERNATE = json.loads((GOLDEN / "choices.json").read_text())["states"]
STATES = {"state_key": "cell_type", "start_state": START, "goal_state": GOAL, "alt_states": [ALTERNATE]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_checkpoint("V1", tmp_path_factory.mktemp("tiny"))


def dataset(folder, column, values, n_tokens=12):
    """Cells of V1 with a column, of different genes."""
    rng = np.random.default_rng(0)
    rows = [rng.choice(np.arange(2, 25_000), n_tokens, replace=False).astype(np.int32) for _ in values]
    table = {"input_ids": [row.tolist() for row in rows], "length": [n_tokens] * len(rows), column: list(values)}
    return write_dataset(TokenizedDataset(pa.table(table)), folder / "cells.dataset", overwrite=True)


def extractor(**options):
    return EmbExtractor(**{"emb_mode": "cell", "summary_stat": "exact_mean", "model_version": "V1", **options})


@pytest.mark.parametrize(("version", "mode"), [("V1", "cell"), ("V2", "cls")])
def test_states_are_those_of_the_published_package(version, mode, tmp_path):
    tokens = TokenizedDataset(pq.read_table(GOLDEN / f"perturbed_tokens_{version}.parquet"))
    folder = write_dataset(tokens, tmp_path / "cells.dataset")
    checkpoint = save_tiny_checkpoint(version, tmp_path / "model")
    extract = extractor(emb_mode=mode, max_ncells=40, model_version=version)
    found = extract.get_state_embs(STATES, checkpoint, folder, tmp_path / "new" / "folder", "states.v1")
    golden = golden_table(f"state_embs_{version}")
    assert list(found) == [START, GOAL, ALTERNATE]
    for state, vector in found.items():
        assert vector.dtype == torch.float32
        assert vector.device.type == "cpu"
        np.testing.assert_allclose(vector, golden[state], atol=1e-5, rtol=0)
    path = tmp_path / "new" / "folder" / "states.v1.pkl"
    for stored in (read_pickle(path), pickle.loads(path.read_bytes())):
        assert list(stored) == list(found)
        assert all(torch.equal(stored[state], found[state]) for state in found)


@pytest.mark.parametrize("names", [["T", "T cell", "T cell CD4"], [1, 11, 111]], ids=["text", "numbers"])
def test_a_state_has_the_cells_of_exactly_that_name(names, model, tmp_path):
    cells = dataset(tmp_path, "kind", [name for name in names for _ in range(4)])
    states = {"state_key": "kind", "start_state": names[2], "goal_state": names[0], "alt_states": [names[1]]}
    found = extractor().get_state_embs(states, model, cells, tmp_path, "states")
    each = EmbExtractor(emb_mode="cell", emb_label=["kind"], model_version="V1").extract_embs(
        model, cells, tmp_path, "c"
    )
    for name in names:
        own = each[each["kind"] == name].drop(columns="kind")
        assert len(own) == 4
        np.testing.assert_allclose(found[name], own.mean(), atol=1e-6)


def test_the_median_of_a_state_is_that_of_torch(model, tmp_path):
    cells = dataset(tmp_path, "kind", ["a", "b"] * 4)
    states = {"state_key": "kind", "start_state": "a", "goal_state": "b"}
    found = extractor(summary_stat="exact_median").get_state_embs(states, model, cells, tmp_path, "states")
    own = EmbExtractor(emb_mode="cell", filter_data={"kind": "a"}, model_version="V1")
    _, values = own.extract_embs(model, cells, tmp_path, "a", output_torch_embs=True)
    assert torch.equal(found["a"], values.median(dim=0).values)


def test_at_most_so_many_cells_of_each_state_are_read(model, tmp_path):
    cells = dataset(tmp_path, "kind", ["a"] * 9 + ["b"] * 3)
    own = extractor(max_ncells=3)
    found = own.get_state_embs(
        {"state_key": "kind", "start_state": "a", "goal_state": "b"}, model, cells, tmp_path, "s"
    )
    three = own.extract_embs(model, cells, tmp_path, "x", cell_state={"kind": "a"})
    assert torch.equal(found["a"], three)


def test_the_older_form_of_states_is_read():
    states = read_cell_states({"disease": (["dcm"], ["nf"], ["hcm", "other"])})
    assert (states.key, states.all) == ("disease", ("dcm", "nf", "hcm", "other"))
    named = {"state_key": "disease", "start_state": "dcm", "goal_state": "nf", "alt_states": None}
    assert read_cell_states(named).alternates == ()


@pytest.mark.parametrize(
    "states",
    [
        None,
        {},
        {"state_key": "kind", "start_state": "a"},
        {"state_key": "kind", "start_state": "a", "goal_state": "a"},
        {"state_key": "kind", "start_state": "a", "goal_state": "b", "alt_states": ["b"]},
        {"state_key": "kind", "start_state": "a", "goal_state": "b", "alt_states": "c"},
        {"state_key": "kind", "start_state": "a", "goal_state": "b", "alternates": ["c"]},
        {"kind": "a"},
        {"kind": (["a", "b"], ["c"])},
    ],
    ids=str,
)
def test_states_in_another_form_are_refused(states):
    with pytest.raises(StateError):
        read_cell_states(states)


def test_what_states_need_is_said(model, tmp_path):
    cells = dataset(tmp_path, "kind", ["a", "b"])
    states = {"state_key": "kind", "start_state": "a", "goal_state": "b"}
    with pytest.raises(OptionError, match="exact_mean"):
        extractor(summary_stat=None).get_state_embs(states, model, cells, tmp_path, "s")
    with pytest.raises(OptionError, match="emb_label"):
        extractor(emb_label=["kind"]).get_state_embs(states, model, cells, tmp_path, "s")
    with pytest.raises(NoCellsError, match="a, b"):
        extractor().get_state_embs({**states, "goal_state": "c"}, model, cells, tmp_path, "s")
    assert not (tmp_path / "s.pkl").exists()
