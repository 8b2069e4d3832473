"""Rows lose the padding at their ends and nothing else."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneformer.compat.cells import unpadded

pytestmark = pytest.mark.contract

ROWS = st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=6)


def stripped(row):
    while row and row[-1] == 0:
        row = row[:-1]
    return row


@given(ROWS, st.booleans())
def test_rows_end_with_their_last_token(rows, named):
    columns = {"input_ids": pa.array(rows, pa.list_(pa.int32())), "kind": [str(n) for n in range(len(rows))]}
    if named:
        columns["length"] = pa.array([7] * len(rows), pa.int64())
    found = unpadded(pa.table(columns), 0)
    assert found.table["input_ids"].to_pylist() == [stripped(row) for row in rows]
    assert found.table["kind"].to_pylist() == columns["kind"]
    if named:
        assert found.column("length").tolist() == [len(stripped(row)) for row in rows]
