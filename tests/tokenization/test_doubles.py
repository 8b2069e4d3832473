"""Columns listed twice in a cell are found whatever the shape of the block."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer.tokenization import ranking as doubles

CELLS = st.lists(st.lists(st.integers(0, 11), max_size=9), min_size=1, max_size=8)


@pytest.mark.parametrize(("mark_bytes", "few"), [(1, 0), (30, 0), (2**20, 0), (2**20, 10**9)])
@given(cells=CELLS)
@settings(max_examples=60, deadline=None)
def test_doubles_are_found(mark_bytes, few, cells):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doubles, "_MARK_BYTES", mark_bytes)
        patch.setattr(doubles, "_FEW_MARKS", few)
        columns = np.array([column for cell in cells for column in cell], dtype=np.intp)
        starts = np.cumsum([0, *map(len, cells)])
        assert doubles._lists_twice(columns, starts, 12) == any(len(set(cell)) < len(cell) for cell in cells)


def test_sums_take_the_first_place_and_leave_the_input_alone():
    genes = doubles.SharedGenes.of(np.array([4, -1, 4, 2], dtype=np.int32), 6)
    columns, counts = np.array([0, 2, 3, 1, 2, 3]), np.array([5, 6, 1, 9, 3, 2], dtype=np.uint8)
    summed = genes.summed(columns, counts, np.array([0, 3, 6]))
    assert summed.tolist() == [11, 0, 1, 9, 3, 2]
    assert counts.tolist() == [5, 6, 1, 9, 3, 2]
