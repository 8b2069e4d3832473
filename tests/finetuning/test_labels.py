"""Labels of every kind become class numbers, in an order that nothing but the labels decides."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from geneformer.errors import (
    ConstantLabelError,
    GeneformerWarning,
    LabelError,
    MissingLabelError,
    OutOfRangeError,
    RareClassError,
)
from geneformer.finetuning.labels import (
    capped,
    class_weights,
    distinct_words,
    drop_rare,
    encode_label_sets,
    encode_labels,
    is_labeled,
)

names = st.text(st.characters(categories=["L", "P"], exclude_characters="?;"), min_size=1, max_size=4).map("x".__add__)


@pytest.mark.parametrize(
    ("values", "codes", "classes"),
    [
        (["T", "B", "T"], [1, 0, 1], ("B", "T")),
        ([" T", "B\t", "T"], [1, 0, 1], ("B", "T")),
        ([" z", "a"], [1, 0], ("a", "z")),
        ([10, 2, 10], [1, 0, 1], ("2", "10")),
        (np.array([1.0, 0.5, 1.0]), [1, 0, 1], ("0.5", "1")),
        (np.array([1, 1.0, 2], dtype=object), [0, 0, 1], ("1", "2")),
        ([True, False], [1, 0], ("False", "True")),
        (np.array([1, True, "1"], dtype=object), [0, 1, 0], ("1", "True")),
        (np.array([b"T", b"B"]), [1, 0], ("B", "T")),
        (pd.array([3, 1], dtype="Int64"), [1, 0], ("1", "3")),
        (pd.Series(["T", "B"], index=[7, 7], dtype="string"), [1, 0], ("B", "T")),
        (pd.Categorical(["low", "high"], categories=["low", "mid", "high"]), [0, 1], ("low", "high")),
        (pd.Categorical(["b ", "a", "b"], categories=["b ", "b", "a"]), [0, 1, 0], ("b", "a")),
        (pd.Categorical([10, 2], categories=[10, 2]), [0, 1], ("10", "2")),
    ],
)
def test_labels_of_every_kind(values, codes, classes):
    found, named = encode_labels(values)
    assert found.tolist() == codes
    assert found.dtype == np.int64
    assert named == classes


@pytest.mark.parametrize(
    "values",
    [
        ["T", None, "B", float("nan")],
        ["T", " ", "B", "?"],
        ["T", "unassigned", "B", "NaN"],
        np.array(["T", np.nan, "B", "NA"], dtype=object),
        pd.Series(["T", pd.NA, "B", pd.NA], dtype="string"),
        pd.Categorical(["T", None, "B", "Unknown"]),
        ["T", pd.NaT, "B", pd.NA],
    ],
)
def test_missing_labels_are_minus_one_and_reported(values):
    with pytest.warns(GeneformerWarning, match="2 of 4 cells have no label in 'cell_type'"):
        codes, _ = encode_labels(values, name="cell_type")
    assert codes.tolist() == [1, -1, 0, -1]


def test_the_report_says_what_stood_there():
    with pytest.warns(GeneformerWarning, match=r"left out: 1 missing, 2 '\?', 1 'unknown'\."):
        encode_labels(["a", "?", "b", None, "unknown", "?"])


def test_numbers_with_gaps_stay_whole():
    with pytest.warns(GeneformerWarning, match="1 of 3"):
        assert encode_labels([1, None, 0])[1] == ("0", "1")


def test_words_for_no_label_are_none():
    with pytest.warns(GeneformerWarning):
        assert encode_labels(["none", "drug", "heat"])[0].tolist() == [-1, 0, 1]


def test_given_classes_set_the_order_and_need_not_occur():
    assert encode_labels([2, 1, 2], classes=["2", "3", "1"])[0].tolist() == [0, 2, 0]
    codes, classes = encode_labels(["B", "B"], classes=["B", "T"])
    assert (codes.tolist(), classes) == ([0, 0], ("B", "T"))


def test_labels_that_are_no_classes_are_left_out():
    with pytest.warns(GeneformerWarning, match="1 of 2 .* 1 'T cells'"):
        codes, _ = encode_labels(["T cells", "B"], classes=["T cell", "B"])
    assert codes.tolist() == [-1, 1]
    with pytest.raises(MissingLabelError, match="one of 'x', 'y'; it holds 'T', 'B'"):
        encode_labels(pd.Categorical(["T", "B"], ["T", "B"]), classes=["x", "y"])


@pytest.mark.parametrize("values", [[], [None, None], ["?", "", " nan "], np.array([np.nan, np.nan])])
def test_no_label_at_all(values):
    with pytest.raises(MissingLabelError, match="'state'"):
        encode_labels(values, name="state")
    with pytest.raises(MissingLabelError, match="'state'"):
        encode_label_sets(values, name="state")


def test_one_class_only():
    with pytest.raises(ConstantLabelError, match="'state' are 'dcm'"):
        encode_labels(["dcm", "dcm", None], name="state")


@pytest.mark.parametrize("values", ["abc", np.zeros((2, 2)), [["a"], ["b"]]])
def test_what_labels_are_not(values):
    with pytest.raises(LabelError):
        encode_labels(values)


@pytest.mark.filterwarnings("ignore:Classes of")
@given(st.lists(names, min_size=1, max_size=30))
def test_codes_point_at_the_labels(values):
    if len(set(values)) < 2:
        return
    codes, classes = encode_labels(values)
    assert [classes[code] for code in codes] == values
    assert list(classes) == sorted(set(values))
    turned, same = encode_labels(values[::-1])
    assert same == classes
    assert turned.tolist() == codes[::-1].tolist()


def test_the_hash_seed_changes_nothing():
    code = (
        "from geneformer.finetuning.labels import *; v = [f'c{i * 7 % 23}' for i in range(60)]; "
        "print(encode_labels(v)[1], encode_label_sets([{a, b} for a, b in zip(v, v[3:])])[1])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(printed) == 1


def test_sets_of_labels():
    has_class, classes = encode_label_sets(["T; NK", "B", ["T"], {"NK", "B"}, []])
    assert classes == ("B", "NK", "T")
    assert has_class.tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert has_class.dtype == np.float32


def test_sets_without_labels_are_nan_and_reported():
    with pytest.warns(GeneformerWarning, match="4 of 6 cells"):
        has_class, _ = encode_label_sets(["a;?", "b", None, "", "unknown; ?", float("nan")])
    assert has_class[:2].tolist() == [[1, 0], [0, 1]]
    assert np.isnan(has_class[2:]).all()


def test_sets_against_given_classes():
    has_class, classes = encode_label_sets(["b|a", "a"], classes=["c", "a", "b"], separator="|")
    assert classes == ("c", "a", "b")
    assert has_class.tolist() == [[0, 1, 1], [0, 1, 0]]
    assert encode_label_sets(["a;d", "d"], classes=["a"])[0].tolist() == [[1], [0]]


def test_sets_that_are_all_the_same():
    with pytest.raises(ConstantLabelError, match="same classes"):
        encode_label_sets(["a;b", ["b", "a"], {"a", "b"}])
    with pytest.raises(LabelError, match="one text"):
        encode_label_sets("a;b")


def example(counts):
    codes = np.repeat(np.arange(-1, len(counts) - 1), counts)
    return np.random.default_rng(0).permutation(codes), tuple("abcdefgh"[: len(counts) - 1])


@pytest.mark.parametrize(
    ("threshold", "classes"),
    [(0, "abcd"), (0.0, "abcd"), (1, "abd"), (5, "bd"), (0.05, "bd"), (0.04, "abd"), (0.0499, "abd")],
)
def test_rare_classes_become_no_label(threshold, classes):
    codes, all_classes = example([10, 5, 44, 1, 50])  # 100 labeled cells: a 5%, b 44%, c 1%, d 50%
    found, left = drop_rare(codes, all_classes, threshold)
    assert left == tuple(classes)
    for row, code in enumerate(codes):
        name = all_classes[code] if code >= 0 else ""
        assert found[row] == (left.index(name) if name in classes and name else -1)


def test_dropping_all_but_one_class():
    with pytest.raises(RareClassError, match="leaves 1 of 3 classes; the largest are 'c' 50, 'b' 9"):
        drop_rare(*example([0, 4, 9, 50]), 20)
    with pytest.raises(OutOfRangeError):
        drop_rare(*example([0, 4, 9, 50]), -1)


def cap_cells(codes, **limits):
    sample = capped(codes, **limits)
    rows = np.flatnonzero(sample >= 0)
    assert (sample[rows] == np.asarray(codes)[rows]).all()
    return rows


@given(
    st.lists(st.integers(-1, 3), min_size=1, max_size=60),
    st.none() | st.integers(1, 70),
    st.none() | st.integers(1, 20),
    st.integers(0, 5),
)
def test_a_capped_sample(codes, max_cells, per_class, seed):
    codes = np.array(codes)
    rows = cap_cells(codes, max_cells=max_cells, max_cells_per_class=per_class, seed=seed)
    labeled = np.flatnonzero(codes >= 0)
    total = labeled if max_cells is None else cap_cells(codes, max_cells=max_cells, seed=seed)
    assert len(total) == min(len(labeled), max_cells or len(labeled))
    assert np.array_equal(rows, np.unique(rows))
    assert np.isin(rows, total).all()
    for code in range(4):
        expected = (codes[total] == code).sum()
        assert (codes[rows] == code).sum() == (expected if per_class is None else min(expected, per_class))
    if max_cells is not None:
        assert np.isin(total, cap_cells(codes, max_cells=max_cells + 1, seed=seed)).all()


def test_every_cell_has_the_same_chance():
    drawn = np.zeros(10)
    for seed in range(2000):
        drawn[cap_cells(np.zeros(10), max_cells=3, seed=seed)] += 1
    assert np.abs(drawn / 2000 - 0.3).max() < 0.05


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_weights_are_those_of_scikit_learn(codes):
    present = np.unique(codes)
    found = class_weights(codes, 4)
    expected = compute_class_weight("balanced", classes=present, y=np.array(codes)) * len(present) / 4
    assert found[present] == pytest.approx(expected)
    assert (np.delete(found, present) == 0).all()
    assert class_weights([*codes, -1, -1], 4).tolist() == found.tolist()


def test_words_keep_none_apart_from_the_text():
    assert distinct_words(["None", None, "b"], "x")[0].tolist() == [0, -1, 1]


def test_words_for_no_label_are_known():
    labels = np.array(["B cells", "?", "Unassigned", "", None, np.nan, "NA", " unknown ", "NK"], dtype=object)
    assert is_labeled(labels).tolist() == [True, *[False] * 7, True]


def test_classes_that_are_spelled_almost_alike_are_told():
    with pytest.warns(GeneformerWarning, match="'B cell', 'b cell'. They are learnt as different ones"):
        classes = encode_labels(["B cell", "b cell", "T cell"])[1]
    assert classes == ("B cell", "T cell", "b cell")
