"""The pickle reader against the standard library's, and against files that want code to be run."""

import collections
import contextlib
import functools
import math
import pickle
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer.errors import (
    GeneformerError,
    InputNotFoundError,
    PlaceholderFileError,
    UnreadableInputError,
    UnsafeFileError,
)
from geneformer.files.pickles import read_pickle, read_pickle_bytes

_events: list[tuple[str, tuple]] = []
_listening = False


def _listen(event, args):
    if _listening and event != "builtins.id":
        _events.append((event, args))


sys.addaudithook(_listen)


def audited(read, argument):
    """Read, and return the error and every audit event; the hook cannot be removed, so it is switched."""
    global _listening
    _events.clear()
    _listening = True
    try:
        read(argument)
    except GeneformerError as found:
        error = found
    else:
        error = None
    finally:
        _listening = False
    return error, list(_events)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**126), 2**126)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
)
KEYS = SCALARS | st.tuples(SCALARS, SCALARS)
DATA = st.recursive(
    SCALARS | st.sets(KEYS, max_size=4) | st.frozensets(SCALARS, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(DATA, st.integers(0, 5))
def test_plain_data_comes_back(data, protocol):
    assert read_pickle_bytes(pickle.dumps(data, protocol)) == data


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "kind", ["int8", "int16", "int32", "int64", "uint16", "float16", "float32", "float64", "bool", ">f8"]
)
def test_numpy_numbers_become_python_numbers(kind, protocol):
    number = np.dtype(kind).type(1) if kind != ">f8" else np.array([1.0], ">f8")[0]
    found = read_pickle_bytes(pickle.dumps({"a": number, "b": [number]}, protocol))
    assert found == {"a": 1, "b": [1]}
    assert type(found["a"]) in (int, float, bool)


def test_floats_are_exact():
    values = [0.1, math.pi, 5e-324, 7.158424271565943e-07, -0.0]
    found = read_pickle_bytes(pickle.dumps([np.float64(v) for v in values]))
    assert [v.hex() for v in found] == [v.hex() for v in values]


@pytest.mark.parametrize("name", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_spellings_of_numpy(name):
    old = b"cnumpy\ndtype\n(Vi2\nI00\nI01\ntRp0\n(I3\nV<\nNNNI-1\nI-1\nI0\ntb0"
    data = old + b"c" + name.encode() + b"\nscalar\n(g0\nC\x02\x07\x00tR."
    assert read_pickle_bytes(data) == 7


def test_a_dictionary_as_published_byte_by_byte():
    """The layout of the token dictionary of V1: specials as small ints, genes as int16 with a shared type."""
    gene = b"\x8c\x0fENSG0000000000"
    first = (
        b"\x80\x04\x95"
        + struct.pack("<Q", 0)
        + b"}\x94(\x8c\x05<pad>\x94K\x00\x8c\x06<mask>\x94K\x01"
        + gene
        + b"3\x94"
        b"\x8c\x15numpy.core.multiarray\x94\x8c\x06scalar\x94\x93\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94"
        b"\x8c\x02i2\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b"
        b"C\x02\x02\x00\x94\x86\x94R\x94"
    )
    second = gene + b"5\x94h\x06h\x0cC\x02\x03\x00\x94\x86\x94R\x94u."
    expected = {"<pad>": 0, "<mask>": 1, "ENSG00000000003": 2, "ENSG00000000005": 3}
    assert read_pickle_bytes(first + second) == expected
    assert pickle.loads(first + second) == expected


def test_defaultdict_is_a_dict_and_its_factory_is_not_called():
    data = collections.defaultdict(list, {(1, 2): [0.5]})
    found = read_pickle_bytes(pickle.dumps(data))
    assert found == dict(data)
    assert type(found) is dict


def test_a_list_that_holds_itself():
    data: list = []
    data.append(data)
    found = read_pickle_bytes(pickle.dumps(data))
    assert found[0] is found


class _Run:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def _nested_keys() -> bytes:
    """A tuple that holds the one before it twice, forty times over, as a key: it would hash for hours."""
    return b"\x80\x04}K\x01\x85" + b"2\x86" * 40 + b"K\x00s."


UNSAFE = {
    "system, protocol 0": b"cos\nsystem\n(S'true'\ntR.",
    "system, protocol 2": pickle.dumps(_Run(__import__("os").system, "true"), 2),
    "system, protocol 4": pickle.dumps(_Run(__import__("os").system, "true"), 4),
    "eval": pickle.dumps(_Run(eval, "1"), 5),
    "partial": pickle.dumps(_Run(functools.partial, print), 2),
    "torch.load": b"ctorch\nload\n(VX\ntR.",
    "a reducer of torch": b"ctorch._utils\n_rebuild_wrapper_subclass\n)R.",
    "bytes of many exabytes by their number": b"c__builtin__\nbytes\n(L" + b"9" * 18 + b"L\ntR.",
    "getattr": b"c__builtin__\ngetattr\n(NVx\ntR.",
    "a name with dots": b"\x80\x04\x8c\x05numpy\x8c\x0cdtype.mro.im\x93.",
    "a module of numpy": b"cnumpy.testing._private.utils\nrunstring\n(V1\n}tR.",
    "only imported": b"\x80\x04\x8c\x0bantigravity\x8c\x01x\x93.",
    "instance": b"(S'true'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'true'\no.",
    "new object": b"\x80\x02cos\nsystem\n)\x81.",
    "new object with keywords": b"\x80\x04K\x01)}\x92.",
    "extension 1": b"\x80\x02\x82\x01.",
    "extension 2": b"\x80\x02\x83\x01\x00.",
    "extension 4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "persistent": b"Pkey\n.",
    "persistent, binary": b"K\x01Q.",
    "buffer": b"\x80\x05\x97.",
    "read-only buffer": b"\x80\x05]\x98.",
    "call of text": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "state of a dictionary": b"}}b.",
    "state of a global": b"cnumpy\ndtype\n}b.",
    "dtype of objects": b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR.",
    "dtype of fields": b"cnumpy\ndtype\n(VV16\nI00\nI01\ntR.",
    "dtype with odd state": b"cnumpy\ndtype\n(Vi2\nI00\nI01\ntR}b.",
    "scalar of a wrong width": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(Vi2\nI00\nI01\ntRC\x01\x00tR.",
    "scalar of text": b"cnumpy.core.multiarray\nscalar\n(Vi2\nC\x02\x00\x00tR.",
    "defaultdict of system": b"ccollections\ndefaultdict\n(cos\nsystem\ntR.",
    "factory called": b"c__builtin__\nlist\n)R.",
    "encoded otherwise": b"c_codecs\nencode\n(Va\nVzlib\ntR.",
    "a global as the result": b"cnumpy\ndtype\n.",
    "a global inside the result": b"](cnumpy\ndtype\nNe.",
    "an unfinished number": b"](cnumpy\ndtype\n(Vi2\nI00\nI01\ntRe.",
}

DAMAGED = {
    "empty": b"",
    "text": b"gene,token\nENSG,1\n",
    "zip": b"PK\x03\x04 torch",
    "protocol 9": b"\x80\x09N.",
    "underflow": b"\x80\x04\x86.",
    "underflow below a mark": b"K\x01(\x85.",
    "no mark": b"]K\x01e.",
    "nothing to stop with": b".",
    "two values": b"NN.",
    "a mark left": b"N(N.",
    "garbage after the end": b"N.N",
    "two pickles": b"N.N.",
    "no stop": b"N",
    "memo never filled": b"h\x07.",
    "memo by text": b"gx\n.",
    "text of four gigabytes": b"X\xff\xff\xff\xffabc.",
    "text of many exabytes": b"\x8d" + b"\xff" * 8 + b".",
    "bytes of many exabytes": b"\x8e" + b"\xff" * 7 + b"\x7f.",
    "frame of many exabytes": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "not utf-8": b"X\x01\x00\x00\x00\xff.",
    "number of a megabyte": b"\x8b\x00\x00\x10\x00" + b"\x01" * (1 << 20) + b".",
    "number of 5,000 digits": b"I" + b"1" * 5000 + b"\n.",
    "no number": b"Ione\n.",
    "no float": b"Fone\n.",
    "line without end": b"I12",
    "list as a key": b"}]Ns.",
    "dict as a key": b"}}Ns.",
    "set in a set": b"\x8f(\x8f\x90.",
    "key without a value": b"}(Nu.",
    "items into a number": b"K\x01(NNu.",
    "append to a dictionary": b"}Na.",
    "keys nested forever": _nested_keys(),
    "keys nested deeply": b"\x80\x04})" + b"\x85" * 100_000 + b"K\x00s.",
    "memo of 68 gigabytes": b"Nr\xff\xff\xff\xff" + b"N.",
    "array of many exabytes": b"\x96" + b"\xff" * 7 + b"\x7f.",
    "new object without a class": b"\x80\x02]\x81.",
    "global named by a number": b"\x80\x04K\x01K\x02\x93.",
    "quoted text without quotes": b"Sabc\n.",
}


@pytest.mark.parametrize("name", UNSAFE)
def test_files_that_ask_for_code_are_refused(name):
    error, events = audited(read_pickle_bytes, UNSAFE[name])
    assert type(error) is UnsafeFileError
    assert "asks for" in str(error)
    assert events == []


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused(name):
    error, events = audited(read_pickle_bytes, DAMAGED[name])
    assert type(error) is UnreadableInputError
    assert "byte" in str(error)
    assert events == []


@pytest.mark.parametrize("protocol", range(6))
def test_every_truncation_is_refused(protocol):
    whole = pickle.dumps({"a": np.int16(3), "b": [1.5, None, ("x", b"y")], "c": {2**40}}, protocol)
    for end in range(len(whole)):
        with pytest.raises(UnreadableInputError):
            read_pickle_bytes(whole[:end])


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes_give_data_or_a_typed_error(data):
    with contextlib.suppress(GeneformerError):
        read_pickle_bytes(data)


@settings(max_examples=200)
@given(st.data())
def test_any_changed_byte_gives_data_or_a_typed_error(data):
    whole = bytearray(pickle.dumps({"a": np.int16(3), "b": [1.5, ("x", b"y")]}, data.draw(st.integers(0, 5))))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(GeneformerError):
        read_pickle_bytes(bytes(whole))


def test_only_the_file_itself_is_opened(tmp_path):
    path = tmp_path / "token_dictionary.pkl"
    path.write_bytes(UNSAFE["system, protocol 4"])
    error, events = audited(read_pickle, path)
    assert type(error) is UnsafeFileError
    assert "token_dictionary.pkl" in str(error)
    assert [(event, args[0]) for event, args in events] == [("open", str(path))] * 2  # placeholder, then content


def test_a_git_lfs_pointer_is_named(tmp_path):
    path = tmp_path / "token_dictionary.pkl"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:67c4\nsize 425590\n")
    with pytest.raises(PlaceholderFileError, match="git lfs pull"):
        read_pickle(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputNotFoundError, match=r"none\.pkl"):
        read_pickle(tmp_path / "none.pkl")
