"""Tensors and arrays in pickles: read whatever device they were on, and nothing in them is run."""

import io
import os
import pickle
from collections import OrderedDict, defaultdict

import numpy as np
import pandas as pd
import pytest
import torch

from geneformer.errors import (
    InputNotFoundError,
    UnreadableInputError,
    UnsafeFileError,
)
from geneformer.files.pickles import read_pickle

pytestmark = pytest.mark.contract


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
    path = folder / "tensors.pkl"
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
    with pytest.raises(UnsafeFileError, match=r"tensors\.pkl"):
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
    with pytest.raises(UnreadableInputError, match=r"tensors\.pkl"):
        read_pickle(written(tmp_path, DAMAGED[name]))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputNotFoundError):
        read_pickle(tmp_path / "tensors.pkl")


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
