"""A run towards states whose embeddings are handed over: they are used as they are, and only the start needs cells."""

import numpy as np
import pytest

from geneformer.errors import StateError
from geneformer.options import RuntimeOptions
from geneformer.perturbation.plan import plan_perturbation
from geneformer.perturbation.run import run_plan
from small_plans import PerturbOptions, frame_of, planned, small_cells, small_model

pytestmark = pytest.mark.contract

STATES = {"start": "sick", "goal": "well", "alternates": ("other",)}
RUNTIME = RuntimeOptions(device="cpu", dtype="float32", progress=False)


def given(states, tokens=None, **options):
    options = PerturbOptions(**{**STATES, **options})
    return plan_perturbation(tokens or small_cells(), small_model(), options, RUNTIME, states=states)


def vectors(seed=0, names=("sick", "well", "other")):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=32).astype(np.float32) for name in names}


def test_embeddings_of_the_cells_themselves_change_nothing():
    plan = planned(**STATES)
    averaged, handed = (frame_of(run_plan(some)) for some in (plan, given(plan.state_vectors)))
    assert averaged.equals(handed)


def test_only_the_start_needs_cells():
    tokens = small_cells().take([0, 2])
    plan = given(vectors(), tokens, state_key="kind")
    assert plan.cells.rows.tolist() == [0, 1]
    assert plan.cells.of_state == {}
    assert list(plan.state_vectors) == ["sick", "well", "other"]
    found = run_plan(plan)
    assert set(frame_of(found)["target"]) == {"sick", "well", "other"}
    assert (found.start, found.goal) == ("sick", "well")


def test_other_embeddings_are_another_run():
    first = given(vectors()).identity
    assert given(vectors()).identity == first
    assert given(vectors(1)).identity != first
    assert planned(**STATES).identity != first


def test_states_that_are_not_asked_for_are_left_out():
    more = given({"more": np.zeros(3), **vectors()})
    assert list(more.state_vectors) == ["sick", "well", "other"]


@pytest.mark.parametrize(
    ("states", "options", "told"),
    [
        (vectors(names=("sick", "well")), {}, "lack 'other'"),
        ({}, {}, "lack 'sick', 'well', 'other'"),
        (vectors(), {"start": None, "goal": None, "alternates": ()}, "name no start and goal"),
        ({**vectors(), "well": np.ones(31)}, {}, "'well' has the shape \\(31,\\)"),
        ({**vectors(), "well": np.full(32, np.nan)}, {}, "not finite"),
        ({**vectors(), "well": np.zeros(32)}, {}, "all zero"),
    ],
)
def test_embeddings_that_cannot_be_used_are_refused(states, options, told):
    with pytest.raises(StateError, match=told):
        given(states, **options)
