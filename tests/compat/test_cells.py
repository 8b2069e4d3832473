"""Cells are filtered, drawn, sorted and marked as `datasets` and the published package do, and refusals say why."""

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer import errors
from geneformer.compat.cells import SEED, drawn_rows, longest_first, mark_tokens, published_cells, rows_with, unpadded
from geneformer.errors import (
    AbsentGeneError,
    DatasetError,
    GeneformerWarning,
    NoCellsError,
    OutOfRangeError,
    UnknownVocabularyError,
)
from geneformer.genes.vocabulary import Vocabulary
from small_cells import dataset_of

pytestmark = pytest.mark.contract


KINDS = st.sampled_from(["T", "T cell", "B", ""])
few = settings(max_examples=40)


def both_kinds_of(lengths, **columns):
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
    ours, theirs = both_kinds_of(lengths)
    if most is not None and len(theirs) > most:
        theirs = theirs.shuffle(seed=SEED).select(range(most))
    theirs = theirs.sort("length", reverse=True)
    assert longest_first(ours.lengths, np.arange(len(ours)), most).tolist() == list(theirs["row"])


@few
@given(st.lists(st.tuples(KINDS, st.booleans()), min_size=1, max_size=40), st.sets(KINDS, min_size=1))
def test_values_are_filtered_as_published(known, wanted):
    kinds, flags = map(list, zip(*known, strict=True))
    ours, theirs = both_kinds_of([3] * len(known), kind=kinds, flag=flags)
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
    ours, theirs = both_kinds_of(lengths, kind=kinds[: len(lengths)])
    theirs = theirs.filter(lambda row: row["kind"] == "a")
    if len(theirs) > most:
        theirs = theirs.shuffle(seed=SEED).select(range(most))
    rows = rows_with(ours, {"kind": ["a"]})
    assert longest_first(ours.lengths, rows, most).tolist() == list(theirs.sort("length", reverse=True)["row"])


def test_a_column_that_is_not_there_is_named():
    ours, _ = both_kinds_of([2, 3])
    with pytest.raises(errors.DatasetError, match="kind"):
        rows_with(ours, {"kind": ["a"]})


SMALL = [[10, 11], [10, 12, 13], [11, 12, 13, 14], [10, 11, 15], [16], [10, 13, 17]]


def small_cells(**columns):
    return dataset_of(SMALL, **columns)


def taken(filters=(), genes=None, tokens=None, **how):
    tokens = tokens or small_cells(kind=list("aababb"), donor=[1, 2, 1, 2, 1, 2])
    return published_cells(tokens, filters, genes, **how).tolist()


def test_longest_come_first_and_equal_lengths_keep_their_order():
    assert taken() == [2, 1, 3, 5, 0, 4]


def test_filters_and_genes_are_applied_one_after_the_other():
    assert taken([{"kind": ["a"]}]) == [1, 3, 0]
    assert taken([{"kind": ["a"]}, {"donor": [2]}]) == [1, 3]
    assert taken([{"kind": ["a"], "donor": [2]}]) == [1, 3]
    assert taken(genes={"it": [10, 11]}) == [3, 0]
    assert taken(genes={"it": [10], "that": [13]}) == [1, 5]
    assert taken([{"kind": ["b"]}], {"it": [10, 10]}) == [5]


def test_cells_are_drawn_after_filtering_and_sliced_after_sorting():
    kept = [0, 1, 3, 5]
    drawn = [kept[place] for place in np.random.default_rng(42).permutation(4)[:2]]
    found = taken(genes={"it": [10]}, max_cells=2)
    assert sorted(found) == sorted(drawn)
    assert taken(part=(1, 3)) == [1, 3]
    with pytest.warns(GeneformerWarning, match="ends at cell 9, but there are 6"):
        assert taken(part=(4, 9)) == [0, 4]


def test_what_cannot_be_taken_is_refused():
    with pytest.raises(NoCellsError, match="The column holds a, b"):
        taken([{"kind": ["c"]}])
    with pytest.raises(NoCellsError, match="passed the filter before"):
        taken([{"kind": ["a"]}, {"kind": ["b"]}])
    with pytest.raises(DatasetError, match="No column 'kid'"):
        taken([{"kid": ["c"]}])
    with pytest.raises(AbsentGeneError, match="it needs cells that have all of its 2 genes"):
        taken(genes={"it": [14, 15]})
    with pytest.raises(OutOfRangeError, match="starts at cell 6"):
        taken(part=(6, 7))


PADDED = st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=6)


def stripped(row):
    while row and row[-1] == 0:
        row = row[:-1]
    return row


@given(PADDED, st.booleans())
def test_rows_end_with_their_last_token(rows, named):
    columns = {"input_ids": pa.array(rows, pa.list_(pa.int32())), "kind": [str(n) for n in range(len(rows))]}
    if named:
        columns["length"] = pa.array([7] * len(rows), pa.int64())
    found = unpadded(pa.table(columns), 0)
    assert found.table["input_ids"].to_pylist() == [stripped(row) for row in rows]
    assert found.table["kind"].to_pylist() == columns["kind"]
    if named:
        assert found.column("length").tolist() == [len(stripped(row)) for row in rows]


V1, V2 = Vocabulary.load("V1"), Vocabulary.load("V2")
OWN = Vocabulary(
    name="own", genes=["A", "B"], token_ids=[2, 3], medians=[1.0, 1.0],
    special_tokens={"<pad>": 0, "<mask>": 1}, input_size=10,
)  # fmt: skip


def marked(rows, vocabulary, named=None):
    return mark_tokens(dataset_of(rows, vocabulary=named), vocabulary).vocabulary


@pytest.mark.parametrize("rows", [[[10, 11], [12]], [[2, 10, 3], [2, 11, 3]]])
def test_cells_with_and_without_special_tokens(rows):
    assert marked(rows, V2) == V2.fingerprint


def test_what_speaks_against_it():
    with pytest.raises(UnknownVocabularyError, match="id 25,000"):
        marked([[10, 25_000]], V2)
    with pytest.raises(UnknownVocabularyError, match="made with vocabulary V2, not V1"):
        marked([[2, 10, 3], [2, 11, 3]], V1)


def test_cells_keep_the_bundled_vocabulary_they_name():
    assert marked([[10]], V2, named=V1.fingerprint) == V1.fingerprint
    assert marked([[2, 3]], OWN, named=V1.fingerprint) == V1.fingerprint


def test_a_dictionary_of_ones_own_is_not_compared_by_its_medians():
    assert marked([[2, 3]], OWN, named="with medians") == OWN.fingerprint
