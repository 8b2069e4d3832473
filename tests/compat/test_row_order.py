"""Rows and their order are those of `datasets`, which the published package draws with."""

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer import errors
from geneformer.compat.cells import SEED, drawn_rows, longest_first, rows_with
from small_cells import dataset_of

pytestmark = pytest.mark.contract

KINDS = st.sampled_from(["T", "T cell", "B", ""])
few = settings(max_examples=40, deadline=None)


def cells(lengths, **columns):
    """Cells of the lengths given, here and as `datasets` has them."""
    rows = [list(range(2, 2 + length)) for length in lengths]
    theirs = datasets.Dataset.from_dict({"input_ids": rows, "length": lengths, "row": range(len(rows)), **columns})
    return dataset_of(rows, **columns), theirs


@pytest.mark.parametrize("n", [1, 2, 59, 1_000])
def test_the_draw_is_that_of_shuffle(n):
    theirs = datasets.Dataset.from_dict({"row": range(n)}).shuffle(seed=SEED)["row"]
    assert drawn_rows(n).tolist() == list(theirs)
    assert drawn_rows(n, n // 2).tolist() == list(theirs)[: n // 2]


@few
@given(st.lists(st.integers(1, 6), min_size=1, max_size=40), st.one_of(st.none(), st.integers(1, 45)))
def test_cells_are_drawn_and_sorted_as_published(lengths, most):
    ours, theirs = cells(lengths)
    if most is not None and len(theirs) > most:
        theirs = theirs.shuffle(seed=SEED).select(range(most))
    theirs = theirs.sort("length", reverse=True)
    assert longest_first(ours, np.arange(len(ours)), most).tolist() == list(theirs["row"])


@few
@given(st.lists(st.tuples(KINDS, st.booleans()), min_size=1, max_size=40), st.sets(KINDS, min_size=1))
def test_values_are_filtered_as_published(known, wanted):
    kinds, flags = map(list, zip(*known, strict=True))
    ours, theirs = cells([3] * len(known), kind=kinds, flag=flags)
    accepted = {"kind": sorted(wanted), "flag": [True]}
    for column, values in accepted.items():
        theirs = theirs.filter(lambda row, column=column, values=values: row[column] in values)
    if len(theirs):
        assert rows_with(ours, accepted).tolist() == list(theirs["row"])
    else:
        with pytest.raises(errors.NoCellsError, match="The column holds"):
            rows_with(ours, accepted)


@few
@given(st.lists(st.integers(1, 4), min_size=5, max_size=30), st.integers(1, 4))
def test_a_filter_comes_before_the_draw(lengths, most):
    kinds = ["a", "b"] * len(lengths)
    ours, theirs = cells(lengths, kind=kinds[: len(lengths)])
    theirs = theirs.filter(lambda row: row["kind"] == "a")
    if len(theirs) > most:
        theirs = theirs.shuffle(seed=SEED).select(range(most))
    rows = rows_with(ours, {"kind": ["a"]})
    assert longest_first(ours, rows, most).tolist() == list(theirs.sort("length", reverse=True)["row"])


def test_a_column_that_is_not_there_is_named():
    ours, _ = cells([2, 3])
    with pytest.raises(errors.DatasetError, match="kind"):
        rows_with(ours, {"kind": ["a"]})
