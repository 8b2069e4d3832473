"""Rows come out as they were put in, however Arrow keeps them."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneformer.errors import DatasetError
from geneformer.tokens.dataset import TokenizedDataset

CELLS = [[5, 6, 7], [8], [9, 10, 11, 12], [], [13, 14]]
KINDS = {
    f"{name} of {width}": wrap(width)
    for name, wrap in {"list": pa.list_, "large_list": pa.large_list}.items()
    for width in (pa.int16(), pa.int32(), pa.int64())
}


def counts_of(cells):
    return [[token / 4 for token in cell] for cell in cells]


def table(cells=CELLS, kind=KINDS["list of int32"], cuts=(), counts=False, count_cuts=None):
    """Cells in as many chunks as the cuts make."""

    def chunked(rows, kind, cuts):
        edges = pairwise([0, *cuts, len(rows)])
        return pa.chunked_array([pa.array(rows[a:b], kind) for a, b in edges], kind)

    columns = {"input_ids": chunked(cells, kind, cuts)}
    columns["cell_id"] = pa.chunked_array([[f"cell{i}" for i in range(len(cells))]], pa.string())
    columns["length"] = pa.chunked_array([[len(cell) for cell in cells]], pa.int64())
    if counts:
        columns["counts"] = chunked(
            counts_of(cells), pa.list_(pa.float32()), cuts if count_cuts is None else count_cuts
        )
    return pa.table(columns)


def unpack(packed):
    return [ids.tolist() for ids in np.split(packed.input_ids, packed.cu_seqlens[1:-1])]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("cuts", [(), (2,), (0, 1, 1, 4, 5)], ids=str)
def test_rows_are_gathered_in_the_order_asked_for(kind, cuts):
    dataset = TokenizedDataset(table(kind=kind, cuts=cuts))
    assert dataset.lengths.tolist() == [3, 1, 4, 0, 2]
    packed = dataset.gather([4, 0, 3, 2, 0])
    assert packed.cu_seqlens.tolist() == [0, 2, 5, 5, 9, 12]
    assert packed.input_ids.dtype == np.int32
    assert unpack(packed) == [CELLS[i] for i in (4, 0, 3, 2, 0)]
    assert [row.tolist() for row in map(dataset.__getitem__, range(5))] == CELLS


@given(
    cells=st.lists(st.lists(st.integers(0, 30_000), max_size=6), min_size=1, max_size=12),
    length=st.none() | st.integers(1, 7),
    data=st.data(),
)
def test_slices_and_chunks_make_no_difference(cells, length, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(cells)), max_size=4)))
    count_cuts = sorted(data.draw(st.lists(st.integers(0, len(cells)), max_size=4)))
    start = data.draw(st.integers(0, len(cells) - 1))
    stop = data.draw(st.integers(start + 1, len(cells)))
    whole = table(cells, data.draw(st.sampled_from(list(KINDS.values()))), cuts, counts=True, count_cuts=count_cuts)
    dataset = TokenizedDataset(whole.slice(start, stop - start))
    rows = data.draw(st.lists(st.integers(0, stop - start - 1), max_size=8))
    packed = dataset.gather(rows, max_length=length, counts=True)
    expected = [cells[start + row][:length] for row in rows]
    assert packed.cu_seqlens.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
    assert packed.input_ids.tolist() == [token for cell in expected for token in cell]
    assert packed.counts.tolist() == [count for cell in counts_of(expected) for count in cell]
    assert [dataset[row].tolist() for row in range(len(dataset))] == cells[start:stop]


def test_rows_may_be_counted_from_the_end():
    dataset = TokenizedDataset(table(cuts=(2, 4)))
    assert dataset[-1].tolist() == CELLS[-1]
    assert unpack(dataset.gather([-1, -5, 1])) == [CELLS[4], CELLS[0], CELLS[1]]


@pytest.mark.parametrize("row", [5, -6, 100])
def test_rows_that_are_not_there_are_refused(row):
    dataset = TokenizedDataset(table(cuts=(2,)))
    with pytest.raises(IndexError, match=f"Row {row} of a dataset of 5 cells"):
        dataset[row]
    with pytest.raises(IndexError, match=f"Row {row} of a dataset of 5 cells"):
        dataset.gather([0, row])


def test_taken_rows_are_a_dataset_of_the_same_vocabulary():
    dataset = TokenizedDataset(table(cuts=(2,), counts=True), vocabulary="abc", path=Path("somewhere"))
    taken = dataset.take([4, 1, 1])
    assert len(taken) == 3
    assert taken.cell_ids.tolist() == ["cell4", "cell1", "cell1"]
    assert (taken.vocabulary, taken.path) == ("abc", Path("somewhere"))
    assert unpack(taken.gather([0, 1, 2])) == [CELLS[4], CELLS[1], CELLS[1]]
    assert taken.gather([0], counts=True).counts.tolist() == counts_of(CELLS)[4]
    assert taken.take(np.array([], dtype=np.int64)).lengths.tolist() == []


def test_columns_describe_cells():
    dataset = TokenizedDataset(table(counts=True))
    assert dataset.columns == ["cell_id", "length"]
    assert dataset.has_counts
    assert dataset.column("length").tolist() == [3, 1, 4, 0, 2]
    assert repr(dataset).splitlines()[0] == "TokenizedDataset of 5 cells"
    for name in ("cell_idd", "input_ids", "counts"):
        with pytest.raises(DatasetError, match=f"No column '{name}'"):
            dataset.column(name)
    with pytest.raises(DatasetError, match='Did you mean "cell_id"'):
        dataset.column("cell_idd")


def test_cells_without_names_are_numbered():
    dataset = TokenizedDataset(table().drop_columns(["cell_id"]))
    assert dataset.cell_ids.tolist() == ["0", "1", "2", "3", "4"]


def test_a_dataset_without_cells_is_a_dataset():
    dataset = TokenizedDataset(table([]))
    assert len(dataset) == 0
    assert dataset.gather([]).cu_seqlens.tolist() == [0]
    with pytest.raises(IndexError):
        dataset[0]


def test_gathering_does_not_touch_the_table():
    dataset = TokenizedDataset(table())
    dataset.gather([0, 1]).input_ids[:] = 0
    assert unpack(dataset.gather([0])) == [CELLS[0]]


def test_counts_are_only_gathered_where_they_are():
    dataset = TokenizedDataset(table())
    assert not dataset.has_counts
    assert dataset.gather([0]).counts is None
    with pytest.raises(DatasetError, match=r"no `counts`\. Tokenize with `geneformer tokenize --counts`"):
        dataset.gather([0], counts=True)


def test_tokens_must_be_there():
    with pytest.raises(DatasetError, match=r"No `input_ids` in place; found the columns \['cell_id', 'length'\]"):
        TokenizedDataset(table().drop_columns(["input_ids"]), path=Path("place"))


@pytest.mark.parametrize(
    "column",
    [pa.array([1, 2]), pa.array(["a", "b"]), pa.array([["1"], ["2"]]), pa.array([[1.5], [2.0]])],
    ids=lambda column: str(column.type),
)
def test_tokens_must_be_lists_of_integers(column):
    with pytest.raises(DatasetError, match="not lists of integers"):
        TokenizedDataset(pa.table({"input_ids": column}))


def test_missing_tokens_are_refused():
    with pytest.raises(DatasetError, match="1 empty rows"):
        TokenizedDataset(pa.table({"input_ids": pa.array([[1], None, [2]], pa.list_(pa.int32()))}))
    with pytest.raises(DatasetError, match="missing tokens"):
        TokenizedDataset(pa.table({"input_ids": pa.array([[1, None], [2]], pa.list_(pa.int32()))}))


def test_lengths_and_counts_must_agree_with_the_tokens():
    lengths = table().set_column(2, "length", pa.array([3, 1, 4, 0, 1]))
    with pytest.raises(DatasetError, match="`length` contradicts"):
        TokenizedDataset(lengths)
    counts = table().append_column("counts", pa.array(counts_of(CELLS[::-1])))
    with pytest.raises(DatasetError, match="differ in their lengths"):
        TokenizedDataset(counts)
