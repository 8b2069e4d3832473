"""Which cells are perturbed and which stand for a state; what cannot be is refused before the network runs."""

import numpy as np
import pyarrow as pa
import pytest

from geneformer.errors import (
    NoCellsError,
    OutOfRangeError,
    PairingError,
    PerturbationError,
    SequenceTooLongError,
    StateError,
    UnknownColumnError,
    VocabularyMismatchError,
)
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.encoder import GeneformerEncoder
from geneformer.options import PerturbOptions
from geneformer.perturbation.plan import select_perturbed_cells
from small_cells import dataset_of
from small_plans import KINDS, V1, planned, small_cells, small_model

SICK = {"start": "sick", "goal": "well"}


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    def refuse(*_, **__):
        msg = "the network ran"
        raise AssertionError(msg)

    for name in ("forward", "embed_tokens", "run_layers"):
        monkeypatch.setattr(GeneformerEncoder, name, refuse)


def selected(tokens=None, **options):
    return select_perturbed_cells(small_cells() if tokens is None else tokens, PerturbOptions(**options))


def test_without_states_all_cells_are_perturbed():
    found = selected()
    assert found.rows.tolist() == list(range(8))
    assert (found.of_state, found.state_key) == ({}, None)


def test_cells_of_the_start_are_perturbed_and_all_states_have_cells():
    for key in ("kind", None):
        found = selected(**SICK, alternates=("other",), state_key=key)
        assert found.rows.tolist() == [0, 2, 4, 6]
        rows = {state: rows.tolist() for state, rows in found.of_state.items()}
        assert rows == {"sick": [0, 2, 4, 6], "well": [1, 5], "other": [3, 7]}
        assert list(rows) == ["sick", "well", "other"]
        assert found.state_key == "kind"


def test_a_start_alone_chooses_cells():
    found = selected(start="other")
    assert found.rows.tolist() == [3, 7]
    assert found.of_state == {}


def test_states_may_be_numbers_and_categories():
    numbers = small_cells(4, age=[1, 2, 1, 3])
    assert selected(numbers, start="1", goal="3").rows.tolist() == [0, 2]
    kinds = small_cells(8, kind=pa.array(KINDS * 2).dictionary_encode())
    assert selected(kinds, **SICK).rows.tolist() == [0, 2, 4, 6]
    missing = small_cells(4, kind=["sick", None, "well", None])
    assert selected(missing, **SICK, state_key="kind").rows.tolist() == [0]


@pytest.mark.parametrize(
    ("columns", "options", "error", "told"),
    [
        (
            {},
            {**SICK, "state_key": "kindd"},
            UnknownColumnError,
            r"state_key='kindd' is no column.*\['cell_id', 'kind'\].*Did you mean \"kind\"",
        ),
        (
            {},
            {"start": "sick", "goal": "wel", "state_key": "kind"},
            StateError,
            r"No cell is 'wel' in column 'kind'; it has sick \(4\), .*Did you mean \"well\"",
        ),
        ({}, {"start": "sick", "goal": "wel"}, StateError, r"No column has the states 'sick', 'wel'. Name.*state_key="),
        ({}, {**SICK, "alternates": ("none",)}, StateError, "'sick', 'well', 'none'"),
        ({}, {"start": "gone"}, StateError, "No column has the states 'gone'"),
        (
            {"second": KINDS * 2},
            SICK,
            StateError,
            r"The columns \['kind', 'second'\] all have the states 'sick', 'well'. Name the column with state_key=",
        ),
        ({"cell_type": [f"t{i}" for i in range(8)]}, {"start": "x", "state_key": "cell_type"}, StateError, r"t0 \(1\)"),
    ],
)
def test_states_that_are_not_there(columns, options, error, told):
    with pytest.raises(error, match=told) as raised:
        planned(small_cells(8, **columns), **options)
    assert isinstance(raised.value, (PerturbationError, UnknownColumnError))


def test_many_values_are_not_all_told():
    tokens = small_cells(12, kind=[f"kind {i}" for i in range(12)])
    with pytest.raises(StateError, match="and 4 more") as raised:
        selected(tokens, start="sick", state_key="kind")
    assert str(raised.value).count("(1)") == 8


def test_draws_are_repeated_and_in_the_order_of_the_input():
    tokens = small_cells(12)
    first, again, other = (selected(tokens, max_cells=5, seed=seed).rows for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for rows in (first, other):
        assert len(set(rows.tolist())) == 5
        assert (np.diff(rows) > 0).all()
    assert selected(tokens, max_cells=12, seed=4).rows.tolist() == list(range(12))
    assert selected(tokens, max_cells=99).rows.tolist() == list(range(12))


def test_states_are_drawn_apart_from_cells():
    tokens = small_cells(12)
    whole = selected(tokens, **SICK)
    few = selected(tokens, **SICK, max_state_cells=2)
    assert np.array_equal(few.rows, whole.rows)
    for state, rows in few.of_state.items():
        assert len(rows) == 2
        assert set(rows) <= set(whole.of_state[state])
    assert len(selected(tokens, **SICK, max_cells=1).of_state["sick"]) == 6
    unlimited = selected(tokens, **SICK, max_state_cells=None)
    assert all(np.array_equal(unlimited.of_state[state], rows) for state, rows in whole.of_state.items())


# What a plan checks besides


def with_names(tokens, names):
    place = tokens.table.column_names.index("cell_id")
    tokens.table = tokens.table.set_column(place, "cell_id", pa.array(names))
    return tokens


def test_names_of_perturbed_cells_must_differ():
    names = ["a", "b", "a", "c", "d", "e", "f", "b"]
    with pytest.raises(PerturbationError, match=r'2 perturbed cells have the cell_id "a".*names unique'):
        planned(with_names(small_cells(), names), genes=("FTL",))
    plan = planned(with_names(small_cells(), ["a", "b", "c", "b", "d", "b", "e", "b"]), genes=("all",), **SICK)
    assert plan.tokens.cell_ids[plan.cells.rows].tolist() == ["a", "c", "d", "e"]


def test_tokens_and_model_must_belong_together():
    other = dataset_of([[5, 6, 7]], vocabulary=Vocabulary.load("V2").fingerprint)
    with pytest.raises(VocabularyMismatchError, match=r'tiny V1 expects V1.*vocabulary="V1"'):
        planned(other)
    with pytest.raises(PairingError):
        planned(dataset_of([[5, V1.size + 3]]))
    with pytest.raises(NoCellsError, match="no cells"):
        planned(dataset_of([], vocabulary=V1.fingerprint))


def test_layers_and_embeddings_the_model_does_not_have():
    with pytest.raises(OutOfRangeError, match=r"layer=-4, but tiny V1 has 3 layers. Use 0 to -3"):
        planned(layer=-4)
    assert planned(layer=-3).options.layer == -3
    with pytest.raises(OutOfRangeError, match="layer=1"):
        planned(layer=1)
    with pytest.raises(PairingError, match=r'needs <cls>.*V1 does not have.*pooling="mean"'):
        planned(pooling="cls")
    headless = dataset_of([[2, 9, 8, 3], [9, 8, 7]], vocabulary=Vocabulary.load("V2").fingerprint)
    with pytest.raises(PairingError, match="some cells do not start with <cls>"):
        planned(headless, small_model("V2"), pooling="cls")


def test_cells_longer_than_the_model_are_cut_with_consent_only():
    ids = V1.token_ids[:2060]
    tokens = dataset_of([ids, ids[:5]], vocabulary=V1.fingerprint)
    with pytest.raises(SequenceTooLongError, match=r"1 of 2 cells .*2,048 tokens.*longest: 2,060.*truncate=True"):
        planned(tokens)
    plan = planned(tokens, truncate=True)
    assert [len(row) for row in plan.token_rows(plan.cells.rows)] == [2048, 5]


def test_cells_without_names_and_columns_are_numbered():
    plan = planned(dataset_of([[9, 8, 7], [6, 5], [4, 3]], vocabulary=V1.fingerprint), max_cells=2, seed=1)
    assert plan.cell_table.column_names == ["cell_id"]
    assert plan.cell_table["cell_id"].to_pylist() == [str(row) for row in plan.cells.rows]


def test_the_table_of_cells_says_which_state_they_are_in():
    plan = planned(small_cells(8, state=["x"] * 8, kind=KINDS * 2), **SICK, max_cells=2)
    assert plan.cell_table.column_names == ["cell_id", "state", "kind"]
    assert plan.cell_table["state"].to_pylist() == ["sick"] * 2
    assert plan.cell_table["kind"].to_pylist() == ["sick"] * 2


def test_missing_values_are_no_state():
    tokens = small_cells(4, kind=["None", None, "well", None])
    assert selected(tokens, start="None", state_key="kind").rows.tolist() == [0]
    with pytest.raises(StateError, match=r"No cell is 'None'.*it has well"):
        selected(small_cells(4, kind=["well", None, "well", None]), start="None", state_key="kind")


def test_a_state_that_is_a_number_may_be_written_with_or_without_a_point():
    tokens = small_cells(4, kind=[0.0, 1.0, 0.0, float("nan")])
    for start, goal in (("0", "1"), ("0.0", "1.0")):
        assert selected(tokens, start=start, goal=goal).rows.tolist() == [0, 2]
    with pytest.raises(StateError, match=r"'0', '0\.0', two are the same value"):
        selected(tokens, start="0", goal="0.0", state_key="kind")
