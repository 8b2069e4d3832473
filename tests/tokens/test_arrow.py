"""Arrays taken over into Arrow are those that Arrow makes itself; and nothing loads pandas for it."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from geneformer.tokens.dataset import arrow_lists, arrow_numbers, arrow_texts, arrow_values


@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i4", "i8", "f2", "f4", "f8", "?"])
def test_numbers(dtype):
    values = np.array([0, 1, 3, 0, 7, 1, 1, 0, 1, 1]).astype(dtype)
    native = values.astype(values.dtype.newbyteorder("="))
    assert arrow_numbers(values).equals(pa.array(native))
    assert arrow_numbers(values[::2]).equals(pa.array(native[::2]))
    missing = native == 1
    assert arrow_numbers(values, missing=missing).equals(pa.array(native, mask=missing))
    assert arrow_numbers(values[:0]).equals(pa.array(native[:0]))
    np.testing.assert_array_equal(arrow_values(arrow_numbers(values).slice(2, 5)), native[2:7])
    assert arrow_values(pa.array([], pa.from_numpy_dtype(native.dtype))).dtype == native.dtype


def test_missing_numbers_come_back_as_nan():
    values = arrow_numbers(np.arange(3), missing=np.array([False, True, False]))
    np.testing.assert_array_equal(arrow_values(values), [0, np.nan, 2])


@pytest.mark.parametrize("values", [[], [""], ["a", "", "bcd"], ["CD3ε", "β", "x"]])
def test_texts(values):
    assert arrow_texts(values).equals(pa.array(values, pa.string()))


def test_lists():
    found = arrow_lists(np.array([0, 2, 2, 5]), np.arange(5, dtype=np.int32))
    assert found.equals(pa.array([[0, 1], [], [2, 3, 4]], pa.list_(pa.int32())))


def test_looking_genes_up_loads_no_pandas():
    code = (
        "import sys; from geneformer.genes.lookup import resolve_genes; from geneformer.genes.vocabulary import "
        "Vocabulary; assert resolve_genes({'index': ['TP53', 'ENSG00000141510.2', 'SEPT9']}, Vocabulary.load('V1'))"
        ".n_matched; assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
