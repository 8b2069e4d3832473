"""Labels of several tasks, some of them missing."""

import warnings

import numpy as np
import pytest

from geneformer.errors import ConstantLabelError, GeneformerWarning, LabelError, MissingLabelError, UnknownClassError
from geneformer.finetuning.splits import Split
from geneformer.finetuning.targets import OneOf, encode_targets
from geneformer.models.losses import MISSING

KIND = ["T", "B", None, "T", "unknown", "B"]
STATE = ["ill", "ill", "well", None, None, "well"]


def encode(columns, *, rare_below=0.0, **options):
    return encode_targets(columns, [OneOf(name, rare_below=rare_below) for name in columns], **options)


def encoded(**changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeneformerWarning)
        return encode({"kind": KIND, "state": STATE}, **changes)


def classes(labels):
    return {name: target.classes for name, target in labels.targets.items()}


def split(train, valid=(), test=()):
    return Split(*(np.array(rows, dtype=np.int64) for rows in (train, valid, test)), "given")


def test_codes_and_classes():
    labels = encoded()
    assert classes(labels) == {"kind": ("B", "T"), "state": ("ill", "well")}
    assert labels.values["kind"].tolist() == [1, 0, MISSING, 1, MISSING, 0]
    assert labels.values["state"].tolist() == [0, 0, 1, MISSING, MISSING, 1]


def test_cells_are_split_by_their_combination_of_labels():
    codes, values = encoded().codes, encoded().values
    pairs = list(zip(values["kind"], values["state"], strict=True))
    assert (codes == -1).tolist() == [pair == (MISSING, MISSING) for pair in pairs]
    for one in range(6):
        for other in range(6):
            assert (codes[one] == codes[other]) == (pairs[one] == pairs[other])


def test_missing_labels_are_warned_of():
    message = r"Of 6 cells.*2 in 'kind', 2 in 'state'.* 1 have none at all"
    with pytest.warns(GeneformerWarning, match=message):
        encode({"kind": KIND, "state": STATE})
    encode({"kind": ["a", "b"], "state": ["c", "d"]})


def test_targets_of_cells_that_are_not_used_are_missing():
    labels = encoded(max_cells=3)
    used = labels.codes >= 0
    assert used.sum() == 3
    for name, values in labels.values.items():
        assert (values[~used] == MISSING).all()
        assert (values[used] == encoded().values[name][used]).all()


def test_weights_count_the_cells_learnt_from():
    rows, labels = np.array([0, 1, 3, 5]), encoded()
    weights = {name: target.weights(labels.values[name][rows]) for name, target in labels.targets.items()}
    np.testing.assert_allclose(weights["kind"], [1.0, 1.0])
    np.testing.assert_allclose(weights["state"], [3 / 4, 3 / 2])


def test_rare_classes_are_dropped_task_by_task():
    columns = {"kind": ["a", "a", "b", "b", "c"], "state": ["x", "y", "x", "y", "x"]}
    with pytest.warns(GeneformerWarning, match="1 in 'kind'"):
        labels = encode(columns, rare_below=1)
    assert classes(labels) == {"kind": ("a", "b"), "state": ("x", "y")}
    assert labels.values["kind"].tolist() == [0, 0, 1, 1, MISSING]
    assert labels.codes[4] >= 0


def test_splits_that_cannot_be_learnt_are_refused():
    labels = encoded()
    with pytest.warns(GeneformerWarning, match="Labels 'state': None of the 1 cells measured is of 'ill'"):
        labels.prepare(split([0, 1, 2], test=[3, 5]))
    with pytest.raises(ConstantLabelError, match=r"'kind'.*all 'T'"):
        labels.prepare(split([0, 3, 2]))
    with pytest.raises(ConstantLabelError, match="without a label"):
        labels.prepare(split([2, 4]))
    three = encode({"kind": ["a", "b", "c", "a"]})
    with pytest.raises(UnknownClassError, match="'c'"):
        three.prepare(split([0, 1], test=[2]))


def test_labels_that_were_not_learnt_are_left_out():
    with pytest.warns(GeneformerWarning):
        codes = OneOf("kind", ("B", "T")).encode(["T", "NK", None], "kind")
    assert codes.tolist() == [1, MISSING, MISSING]
    with pytest.raises(MissingLabelError):
        OneOf("kind", ("B", "T")).encode(["NK"], "kind")


def test_no_task():
    with pytest.raises(LabelError, match="No column"):
        encode({})
