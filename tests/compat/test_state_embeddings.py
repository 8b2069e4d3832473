"""Embeddings of states: the published numbers, files from any device, and files that are refused."""

import io
import json
import os
import pickle
from collections import OrderedDict, defaultdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from geneformer import EmbExtractor
from geneformer.compat.cells import read_cell_states
from geneformer.errors import (
    InputNotFoundError,
    NoCellsError,
    OptionError,
    StateError,
    UnreadableInputError,
    UnsafeFileError,
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


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def storage_bytes(values, location):
    """The file within a pickled tensor, as if its numbers had been on a device."""
    typed = torch.storage.TypedStorage(
        wrap_storage=torch.tensor(values).untyped_storage(), dtype=torch.float32, _internal=True
    )
    content = io.BytesIO()
    torch.save(typed, content, _use_new_zipfile_serialization=False)
    here, there = (b"X" + len(name).to_bytes(4, "little") + name for name in (b"cpu", location.encode()))
    assert here in content.getvalue()
    return content.getvalue().replace(here, there)


def pickled_tensor(values, location, offset=0, size=None, stride=(1,)):
    """A tensor as pickle takes it apart."""
    storage = Call(torch.storage._load_from_bytes, storage_bytes(values, location))
    size = (len(values),) if size is None else size
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


def written(folder, content, protocol=4):
    path = folder / "states.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("location", ["cpu", "cuda:0", "cuda:7"])
def test_files_from_any_device_are_read(location, protocol, tmp_path):
    states = {"dcm": pickled_tensor([1.0, 2.5], location), "nf": pickled_tensor([-1.0, 0.0], location)}
    found = read_pickle(written(tmp_path, states, protocol))
    assert {state: vector.tolist() for state, vector in found.items()} == {"dcm": [1.0, 2.5], "nf": [-1.0, 0.0]}
    assert {vector.device.type for vector in found.values()} == {"cpu"}


VALUES = [0.5, 1.5, 2.5]
FORMS = {
    "tensor": torch.tensor(VALUES),
    "double": torch.tensor(VALUES, dtype=torch.float64),
    "half": torch.tensor(VALUES, dtype=torch.bfloat16),
    "part of a tensor": torch.tensor([9.0, 0.5, 9.0, 1.5, 9.0, 2.5])[1::2],
    "parameter": torch.nn.Parameter(torch.tensor(VALUES)),
    "array": np.array(VALUES, dtype=np.float32),
    "big-endian array": np.array(VALUES, dtype=">f8"),
    "list": VALUES,
    "numpy numbers": [np.float64(value) for value in VALUES],
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [dict, OrderedDict, lambda entries: defaultdict(list, entries)])
def test_embeddings_of_many_forms_are_read(form, protocol, kind, tmp_path):
    found = read_pickle(written(tmp_path, kind({"a": FORMS[form], 2: FORMS[form]}), protocol))
    assert {state: torch.as_tensor(vector).tolist() for state, vector in found.items()} == {"a": VALUES, 2: VALUES}


def evil(folder):
    return Call(os.system, f"touch {folder / 'executed'}")


def evil_storage(folder):
    """A storage whose own file asks for code."""
    content = io.BytesIO()
    torch.save(evil(folder), content, _use_new_zipfile_serialization=False)
    return Call(
        torch._utils._rebuild_tensor_v2, Call(torch.storage._load_from_bytes, content.getvalue()), 0, (1,), (1,)
    )


UNSAFE = {
    "a call": evil,
    "a call as a state": lambda folder: {"a": evil(folder)},
    "a call within a tensor": lambda folder: {"a": evil_storage(folder)},
    "a call in place of a storage": lambda folder: {
        "a": Call(torch._utils._rebuild_tensor_v2, evil(folder), 0, (1,), (1,))
    },
    "torch.load": lambda folder: {"a": Call(torch.load, "other.pt")},
    "an array of objects": lambda folder: {"a": np.array([evil(folder)], dtype=object)},
    "a text as a storage": lambda folder: {"a": Call(torch._utils._rebuild_tensor_v2, "x", 0, (1,), (1,))},
    "a class": lambda folder: {"a": np.ndarray},
    "an array by its class": lambda folder: {"a": Call(np.ndarray, (3,))},
    "a table": lambda folder: {"a": pd.DataFrame({"x": [1]})},
}


@pytest.mark.parametrize("name", UNSAFE)
def test_files_that_ask_for_code_are_refused(name, tmp_path):
    path = written(tmp_path, UNSAFE[name](tmp_path))
    with pytest.raises(UnsafeFileError, match=r"states\.pkl"):
        read_pickle(path)
    assert not (tmp_path / "executed").exists()


DAMAGED = {
    "text": b"state,embedding\n",
    "truncated": pickle.dumps({"a": torch.tensor(VALUES)})[:-40],
    "a tensor beyond its numbers": {"a": pickled_tensor(VALUES, "cpu", size=(4,))},
    "an offset beyond its numbers": {"a": pickled_tensor(VALUES, "cpu", offset=1)},
    "a stride beyond its numbers": {"a": pickled_tensor(VALUES, "cpu", stride=(5,))},
    "a gigantic tensor of one number": {"a": pickled_tensor([1.0], "cpu", size=(1 << 40,), stride=(0,))},
    "an array beyond its numbers": pickle.dumps({"a": np.array(VALUES)}, 4).replace(b"K\x03\x85", b"K\x05\x85"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_other_files_are_refused(name, tmp_path):
    with pytest.raises(UnreadableInputError, match=r"states\.pkl"):
        read_pickle(written(tmp_path, DAMAGED[name]))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputNotFoundError):
        read_pickle(tmp_path / "states.pkl")


def test_every_changed_byte_gives_states_or_a_typed_error(tmp_path):
    whole = pickle.dumps({"a": torch.tensor(VALUES), "b": np.array(VALUES)}, 4)
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 120, replace=False):
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        try:
            read_pickle(written(tmp_path, bytes(changed)))
        except (UnreadableInputError, UnsafeFileError):
            continue
