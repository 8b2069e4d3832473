"""Masks have BERT's proportions; the two views of a cell share its molecules out between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneformer.tokens.dataset import Packed, concatenate, mask_genes, split_counts

PAD, MASK, CLS, EOS = range(4)
GENES = np.arange(4, 104)
MEDIANS = np.r_[np.full(4, np.nan), 2.0 ** (np.arange(100) % 5 - 2)]


def pack(cells, counts=None):
    cu_seqlens = np.cumsum([0, *map(len, cells)]).astype(np.int64)
    ids = np.concatenate([np.empty(0, np.int32), *cells]).astype(np.int32)
    return Packed(ids, cu_seqlens, None if counts is None else np.concatenate([np.empty(0), *counts]))


def unpack(packed):
    return [ids.tolist() for ids in np.split(packed.input_ids, packed.cu_seqlens[1:-1])]


def ranked_cell(molecules, special):
    """Tokens and scaled counts of a cell from molecules by gene, as the tokenizer writes them."""
    genes = np.array(sorted(molecules), dtype=np.int64)
    number = np.array([molecules[gene] for gene in genes], dtype=np.float64)
    order = np.argsort(-number / MEDIANS[genes], kind="stable")
    ids, scaled = genes[order], number[order] / 64
    if special:
        return np.r_[CLS, ids, EOS], np.r_[0.0, scaled, 0.0]
    return ids, scaled


MOLECULES = st.dictionaries(st.sampled_from(GENES.tolist()), st.integers(1, 50), max_size=12).map(
    # The smallest count of a cell is taken as one molecule.
    lambda cell: cell | {min(cell): 1} if cell else cell
)
CELLS = st.lists(MOLECULES, min_size=1, max_size=5)


def packed_cells(cells, special):
    rows = [ranked_cell(cell, special) for cell in cells]
    return pack([ids for ids, _ in rows], [counts for _, counts in rows])


def masked_sample(probability=0.15, n_cells=400, length=500, seed=0):
    rng = np.random.default_rng(seed)
    cells = [np.r_[CLS, rng.choice(GENES, length - 2), EOS] for _ in range(n_cells)]
    packed = pack(cells)
    return packed, mask_genes(packed, GENES, MASK, probability, np.random.default_rng(seed))


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_the_share_asked_for_is_masked(probability):
    packed, masked = masked_sample(probability)
    n_genes = np.isin(packed.input_ids, GENES).sum()
    spread = np.sqrt(probability * (1 - probability) / n_genes)
    assert abs(len(masked.masked) / n_genes - probability) < 4 * spread


def test_of_the_selected_eighty_percent_are_hidden_ten_swapped_and_ten_kept():
    _, masked = masked_sample()
    now = masked.input_ids[masked.masked]
    n_selected = len(now)
    # A swapped gene is the same one again once in a hundred draws.
    for share, found in [
        (0.8, now == MASK),
        (0.101, now == masked.labels),
        (0.099, ~np.isin(now, [MASK]) & (now != masked.labels)),
    ]:
        assert abs(found.mean() - share) < 4 * np.sqrt(share * (1 - share) / n_selected)


def test_labels_are_what_stood_there_and_nothing_else_changes():
    packed, masked = masked_sample(n_cells=20)
    assert np.array_equal(masked.labels, packed.input_ids[masked.masked])
    untouched = np.setdiff1d(np.arange(len(packed.input_ids)), masked.masked)
    assert np.array_equal(masked.input_ids[untouched], packed.input_ids[untouched])
    assert np.array_equal(masked.cu_seqlens, packed.cu_seqlens)
    assert masked.input_ids is not packed.input_ids


def test_special_tokens_are_neither_selected_nor_put_in():
    packed, masked = masked_sample(probability=0.9)
    assert np.isin(masked.labels, GENES).all()
    for token in (PAD, CLS, EOS):
        assert (masked.input_ids == token).sum() == (packed.input_ids == token).sum()


def test_every_gene_is_equally_likely_to_be_selected():
    packed, masked = masked_sample()
    share = np.bincount(masked.labels, minlength=104)[4:] / np.bincount(packed.input_ids, minlength=104)[4:]
    assert share.std() < 0.02


@given(cells=CELLS, special=st.booleans(), seed=st.integers(0, 99))
def test_something_is_masked_wherever_there_is_a_gene(cells, special, seed):
    packed = packed_cells(cells, special)
    masked = mask_genes(packed, GENES, MASK, 0.01, np.random.default_rng(seed))
    assert len(masked.masked) == len(masked.labels)
    assert (len(masked.masked) > 0) == any(cells)


def test_masks_depend_on_the_seed_only():
    (_, first), (_, again), (_, other) = (masked_sample(n_cells=3, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.input_ids, again.input_ids)
    assert not np.array_equal(first.input_ids, other.input_ids)


def views(packed, share, length=2048, seed=0):
    return split_counts(packed, MEDIANS, share, length, np.random.default_rng(seed))


def test_views_need_counts():
    with pytest.raises(ValueError, match="need counts"):
        views(pack([GENES]), (0.5, 0.5))


@given(cells=CELLS, special=st.booleans())
def test_a_view_with_all_molecules_is_the_cell_itself(cells, special):
    packed = packed_cells(cells, special)
    whole, nothing = views(packed, (1.0, 1.0))
    assert unpack(whole) == unpack(packed)
    assert unpack(nothing) == [[CLS, EOS] if special else [] for _ in cells]


@given(cells=CELLS, special=st.booleans(), length=st.integers(3, 12), low=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_a_view_is_a_subset_of_its_cell_within_the_length(cells, special, length, low, seed):
    packed = packed_cells(cells, special)
    for view in views(packed, (low, 1.0), length, seed):
        assert len(view.cu_seqlens) == len(packed.cu_seqlens)
        assert view.cu_seqlens[-1] == len(view.input_ids)
        for before, after in zip(unpack(packed), unpack(view), strict=True):
            assert set(after) <= set(before)
            assert len(set(after)) == len(after) <= length
            if special:
                assert (after[0], after[-1]) == (CLS, EOS)
                assert not {CLS, EOS} & set(after[1:-1])


@given(cells=CELLS, special=st.booleans(), seed=st.integers(0, 99))
def test_every_molecule_is_in_exactly_one_view(cells, special, seed):
    first, second = views(packed_cells(cells, special), (0.3, 0.7), seed=seed)
    for cell, one, other in zip(cells, unpack(first), unpack(second), strict=True):
        assert (set(one) | set(other)) - {CLS, EOS} == set(cell)
        single = {gene for gene, number in cell.items() if number == 1}
        assert not single & set(one) & set(other)


@given(cells=CELLS, special=st.booleans(), seed=st.integers(0, 99))
def test_a_view_on_a_panel_has_no_gene_from_beyond_it(cells, special, seed):
    every = dict.fromkeys(GENES.tolist(), 40) | {int(GENES[0]): 1}
    packed = packed_cells([*cells, every], special)
    for view in split_counts(packed, MEDIANS, (0.5, 0.5), 2048, np.random.default_rng(seed), (0.3, 0.5)):
        *others, whole = unpack(view)  # the last cell has molecules left of nearly every gene, so it shows the panel
        assert 0 < len(set(whole) - {CLS, EOS}) < len(GENES)
        assert set().union(*others) <= {*whole, CLS, EOS, int(GENES[0])}


def test_genes_of_a_view_are_ranked_by_what_it_has_of_them():
    numbers = np.random.default_rng(0).integers(1, 40, 100)
    molecules = {int(gene): int(number) for gene, number in zip(GENES, numbers, strict=True)} | {4: 1}
    packed = packed_cells([molecules], special=True)
    found = views(packed, (0.4, 0.4), seed=5)
    rng = np.random.default_rng(5)
    share = rng.uniform(0.4, 0.4, 1)
    number = np.array([molecules.get(int(token), 0) for token in packed.input_ids])
    first = rng.binomial(number, share[0])
    for view, kept in zip(found, (first, number - first), strict=True):
        left = dict(zip(packed.input_ids.tolist(), kept, strict=True))
        (cell,) = unpack(view)
        values = [left[gene] / MEDIANS[gene] for gene in cell[1:-1]]
        assert values == sorted(values, reverse=True)
        assert set(cell[1:-1]) == {gene for gene, number in left.items() if number}


def test_the_share_of_molecules_is_drawn_per_cell_within_its_range():
    molecules = {4: 1} | dict.fromkeys(range(5, 8), 1000)
    first, second = views(packed_cells([molecules] * 300, special=False), (0.2, 0.6))
    # The single molecule goes to the first view with the share of its cell: 0.4 on average.
    assert np.mean([4 in cell for cell in unpack(first)]) == pytest.approx(0.4, abs=0.1)
    assert all({5, 6, 7} <= set(cell) for view in (first, second) for cell in unpack(view))


@given(
    first=st.lists(st.lists(st.integers(4, 99), max_size=4), max_size=3),
    second=st.lists(st.lists(st.integers(4, 99), max_size=4), min_size=1, max_size=3),
)
def test_concatenated_parts_are_all_cells_in_order(first, second):
    together = concatenate(pack(first), pack(second), pack(first))
    assert len(together.cu_seqlens) == 2 * len(first) + len(second) + 1
    cells = first + second + first
    assert unpack(together) == cells
