import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer.options.perturbation import EDITS
from geneformer.perturbation.edits import ADDED, Step, edit_cell
from perturbation import reference

SPECIAL = (0, 1, 2, 3)


@st.composite
def cells_and_steps(draw):
    framed = draw(st.booleans())
    genes = draw(st.lists(st.integers(10, 40), min_size=1, max_size=12, unique=True))
    cell = [2, *genes, 3] if framed else genes
    step = st.builds(
        Step,
        st.sampled_from(EDITS),
        st.lists(st.integers(10, 40) | st.sampled_from(genes), min_size=1, max_size=3, unique=True).map(tuple),
        st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    )
    steps = draw(st.lists(step, min_size=1, max_size=3))
    return cell, steps, draw(st.integers(len(cell), len(cell) + 4))


@settings(max_examples=400)
@given(cells_and_steps())
def test_edits_equal_the_written_out_ones(case):
    cell, steps, max_length = case
    expected = reference.edited(cell, [(s.edit, s.tokens, s.dose) for s in steps], SPECIAL, max_length)
    found = edit_cell(cell, steps, SPECIAL, max_length)
    if expected is None:
        assert found is None
        return
    assert found.tokens.tolist() == expected[0]
    compared = np.delete(np.array(cell), found.lost)
    assert compared.tolist() == expected[1]
    known = found.origin != ADDED
    assert (compared[found.origin[known]] == found.tokens[known]).all()
    assert not np.isin(found.tokens[~known], cell).any()
    assert len(found.tokens) <= max_length


@given(cells_and_steps())
def test_special_tokens_stay_at_the_ends(case):
    cell, steps, max_length = case
    found = edit_cell(cell, steps, SPECIAL, max_length)
    if found is not None and cell[0] == 2:
        assert (found.tokens[0], found.tokens[-1]) == (2, 3)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Step("delete", (12,)), [10, 11, 13]),
        (Step("delete", (99,)), None),
        (Step("delete", (12, 99)), None),
        (Step("delete", (10, 11, 12, 13)), None),
        (Step("overexpress", (12,)), [12, 10, 11, 13]),
        (Step("overexpress", (99, 13)), [99, 13, 10, 11, 12]),
        (Step("overexpress", (10,)), None),
        (Step("inhibit", (10,), 0.25), [11, 10, 12, 13]),
        (Step("inhibit", (10,), 1.0), [11, 12, 13, 10]),
        (Step("inhibit", (13,), 0.5), None),
        (Step("activate", (13,), 0.5), [10, 13, 11, 12]),
        (Step("activate", (12, 13), 1.0), [12, 13, 10, 11]),
    ],
)
def test_an_edit_by_hand(step, expected):
    found = edit_cell([10, 11, 12, 13], [step], SPECIAL, 8)
    assert (None if found is None else found.tokens.tolist()) == expected


def test_a_gene_that_moves_to_the_front_keeps_its_place_when_room_is_short():
    found = edit_cell([10, 11, 12, 13], [Step("overexpress", (99, 13))], SPECIAL, 4)
    assert found.tokens.tolist() == [99, 13, 10, 11]
    assert np.delete([10, 11, 12, 13], found.lost).tolist() == [10, 11, 13]
    assert found.origin.tolist() == [ADDED, 2, 0, 1]


def test_a_token_that_occurs_twice_is_deleted_twice():
    found = edit_cell([10, 11, 10, 12], [Step("delete", (10,))], SPECIAL, 8)
    assert (found.tokens.tolist(), found.origin.tolist()) == ([11, 12], [1, 3])


def test_deleting_what_a_cell_lacks_changes_nothing():
    assert edit_cell([2, 10, 3], [Step("delete", (11,))], SPECIAL, 8) is None


def test_a_cell_without_genes_is_passed_over():
    assert edit_cell([2, 3], [Step("delete", (11,))], SPECIAL, 8) is None
