"""Second views of cells: genes go, everything else stays where it was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneformer.tokens.dataset import Packed, delete_genes

SPECIAL = np.array([0, 1, 2, 3])

rows = st.lists(st.lists(st.integers(0, 40), unique=True, max_size=12), max_size=6)
chances = st.floats(0.0, 1.0)
gene_lists = st.lists(st.integers(0, 40), max_size=12).map(np.array)


def pack(cells, *, counts=False):
    ids = np.array([gene for cell in cells for gene in cell], dtype=np.int32)
    ends = np.concatenate([[0], np.cumsum([len(cell) for cell in cells])]).astype(np.int64)
    return Packed(ids, ends, ids * 2.5 if counts else None)


def unpack(packed):
    return [packed.input_ids[a:b].tolist() for a, b in zip(packed.cu_seqlens, packed.cu_seqlens[1:], strict=False)]


def genes(cell):
    return [gene for gene in cell if gene not in SPECIAL]


def special(cell):
    return [gene for gene in cell if gene in SPECIAL]


def is_part_in_order(part, whole):
    rest = iter(whole)
    return all(gene in rest for gene in part)


@given(rows, chances, st.integers(0, 2**32))
def test_a_share_goes_and_the_rest_keeps_its_order(cells, share, seed):
    views = unpack(delete_genes(pack(cells), SPECIAL, np.random.default_rng(seed), share=share))
    assert len(views) == len(cells)
    for cell, view in zip(cells, views, strict=True):
        assert special(view) == special(cell)
        assert is_part_in_order(view, cell)
        assert bool(genes(view)) == bool(genes(cell))


@given(rows, gene_lists)
def test_chosen_genes_go_and_no_others(cells, chosen):
    views = unpack(delete_genes(pack(cells), SPECIAL, np.random.default_rng(0), chosen=chosen))
    for cell, view in zip(cells, views, strict=True):
        left = [gene for gene in cell if gene in SPECIAL or gene not in chosen]
        if genes(cell) and not genes(left):
            assert genes(view) == genes(cell)[:1]
            assert special(view) == special(cell)
        else:
            assert view == left


@given(rows, chances)
def test_counts_stay_with_their_genes(cells, share):
    view = delete_genes(pack(cells, counts=True), SPECIAL, np.random.default_rng(0), share=share)
    assert np.array_equal(view.counts, view.input_ids * 2.5)
    assert view.cu_seqlens[-1] == len(view.input_ids)


@pytest.mark.parametrize("share", [0.0, 0.15, 0.6, 1.0])
def test_the_share_is_the_one_asked_for(share):
    cells = [list(range(4, 1004)) for _ in range(20)]
    view = delete_genes(pack(cells), SPECIAL, np.random.default_rng(1), share=share)
    assert np.isclose(1 - len(view.input_ids) / 20_000, share, atol=0.02)
    assert view.input_ids.dtype == np.int32


def test_the_views_of_cells_differ_and_repeat_with_the_source_of_randomness():
    cells = [list(range(4, 104))] * 2
    views = [unpack(delete_genes(pack(cells), SPECIAL, np.random.default_rng(seed), share=0.5)) for seed in (0, 0, 1)]
    assert views[0] == views[1] != views[2]
    assert views[0][0] != views[0][1]


def test_the_cells_are_left_as_they_are():
    packed = pack([[4, 5, 6], [0, 7]])
    delete_genes(packed, SPECIAL, np.random.default_rng(0), share=1.0)
    assert unpack(packed) == [[4, 5, 6], [0, 7]]
