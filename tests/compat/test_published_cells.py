"""Cells are taken as the published package takes them, and what cannot be taken is refused."""

import numpy as np
import pytest

from geneformer.compat.cells import published_cells
from geneformer.errors import AbsentGeneError, DatasetError, GeneformerWarning, NoCellsError, OutOfRangeError
from small_cells import dataset_of

pytestmark = pytest.mark.contract

ROWS = [[10, 11], [10, 12, 13], [11, 12, 13, 14], [10, 11, 15], [16], [10, 13, 17]]


def cells(**columns):
    return dataset_of(ROWS, **columns)


def taken(filters=(), genes=(), tokens=None, **how):
    tokens = tokens or cells(kind=list("aababb"), donor=[1, 2, 1, 2, 1, 2])
    return published_cells(tokens, filters, genes, **how).tolist()


def test_longest_come_first_and_equal_lengths_keep_their_order():
    assert taken() == [2, 1, 3, 5, 0, 4]


def test_filters_and_genes_are_applied_one_after_the_other():
    assert taken([{"kind": ["a"]}]) == [1, 3, 0]
    assert taken([{"kind": ["a"]}, {"donor": [2]}]) == [1, 3]
    assert taken([{"kind": ["a"], "donor": [2]}]) == [1, 3]
    assert taken(genes=[("it", [10, 11])]) == [3, 0]
    assert taken(genes=[("it", [10]), ("that", [13])]) == [1, 5]
    assert taken([{"kind": ["b"]}], [("it", [10, 10])]) == [5]


def test_cells_are_drawn_after_filtering_and_sliced_after_sorting():
    kept = [0, 1, 3, 5]
    drawn = [kept[place] for place in np.random.default_rng(42).permutation(4)[:2]]
    found = taken(genes=[("it", [10])], max_cells=2)
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
        taken(genes=[("it", [14, 15])])
    with pytest.raises(OutOfRangeError, match="starts at cell 6"):
        taken(part=(6, 7))
