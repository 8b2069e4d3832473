"""What a run is said to take is what it takes."""

import numpy as np
import pytest

from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.encoder import GeneformerEncoder
from geneformer.perturbation import plan as costing
from geneformer.perturbation.edits import edit_cell
from geneformer.perturbation.plan import estimate_cost
from geneformer.perturbation.run import run_plan
from small_genes import common_genes
from small_plans import frame_of, planned, small_cells, small_model

FTL, COTL1, TYMP = common_genes(small_cells(), 3)
STATES = {"start": "sick", "goal": "well", "alternates": ("other",)}


def counted(plan):
    """Edited cells and their tokens, one by one."""
    edited = [
        edit_cell(cell, perturbation.steps, plan.model.vocabulary.special_ids.tolist(), plan.model.max_length)
        for cell in plan.token_rows(plan.cells.rows)
        for perturbation in plan.targets.of_cell(cell)
    ]
    there = [cell for cell in edited if cell is not None]
    return len(there), sum(len(cell.tokens) for cell in there)


@pytest.mark.parametrize(
    "options",
    [
        {},
        STATES,
        {"start": "sick"},
        {"genes": (FTL, f"pair={FTL}+{COTL1}"), **STATES},
        {"genes": ("all", f"pair={FTL}+{COTL1}"), "gene_effects": True},
        {"genes": (FTL, "overexpress:ISG15+FTL", f"inhibit@0.5:{COTL1}"), "gene_effects": True, **STATES},
        {"anchor": FTL, "edit": "overexpress", "gene_effects": True},
        {"min_cells": 3, "max_cells": 4},
    ],
)
def test_passes_tokens_and_rows_are_those_of_the_run(options):
    plan = planned(**options)
    cost, found = estimate_cost(plan, calibrate=False), run_plan(plan)
    assert (cost.passes, cost.tokens) == counted(plan)
    assert cost.rows == len(found)
    assert cost.cells == found.cells.num_rows
    edits = frame_of(found).groupby("cell_id")["perturbation"].nunique()
    assert cost.passes == edits.sum()
    assert cost.perturbations >= frame_of(found)["perturbation"].nunique()
    assert cost.seconds is None


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_special_tokens_are_counted_as_the_run_does(pooling):
    plan = planned(small_cells(5, 14, "V2"), small_model("V2"), gene_effects=True, pooling=pooling)
    cost, found = estimate_cost(plan, calibrate=False), run_plan(plan)
    assert (cost.passes, cost.tokens, cost.rows) == (*counted(plan), len(found))


def test_two_genes_are_two_perturbations():
    assert estimate_cost(planned(genes=(FTL, COTL1)), calibrate=False).perturbations == 2
    plan = planned()
    genes = {token for cell in plan.token_rows(plan.cells.rows) for token in cell.tolist()}
    assert estimate_cost(plan, calibrate=False).perturbations == len(genes)


def test_a_sample_is_scaled_to_all_cells():
    plan = planned(small_cells(12, 40))
    whole = estimate_cost(plan, calibrate=False)
    for sample in (1, 4, 11, 12, 400):
        some = estimate_cost(plan, calibrate=False, sample=sample)
        assert (some.cells, some.perturbations) == (whole.cells, whole.perturbations)
        for name in ("passes", "tokens", "rows", "bytes_on_disk"):
            assert getattr(some, name) == pytest.approx(getattr(whole, name), rel=0.6 if sample < 11 else 0.1)
    assert estimate_cost(plan, calibrate=False, sample=12) == whole
    even = planned(small_cells(12, 40).take([0, 5, 10]))  # cells of one length
    assert estimate_cost(even, calibrate=False, sample=1) == estimate_cost(even, calibrate=False)


def test_calibration_tells_a_time_and_runs_few_edits(monkeypatch):
    plan, seen = planned(small_cells(12, 40), **STATES), []
    real = GeneformerEncoder.run_layers
    monkeypatch.setattr(
        GeneformerEncoder,
        "run_layers",
        lambda *args, **named: seen.append(sum(args[2])) or real(*args, **named),
    )
    cost = estimate_cost(plan)
    assert 0 < cost.seconds < 600
    assert 0 < sum(seen) < cost.tokens
    seen.clear()
    assert estimate_cost(plan, calibrate=False).seconds is None
    assert not seen
    assert "state_vectors" not in vars(plan)


def test_time_grows_with_the_tokens(monkeypatch):
    monkeypatch.setattr(costing, "_seconds_per_token", lambda *_: 0.5)
    cost = estimate_cost(planned())
    assert cost.seconds == 0.5 * cost.tokens


def test_memory_and_disk():
    cost, wider = (estimate_cost(planned(small_cells(n, 20)), calibrate=False) for n in (4, 8))
    weights = sum(value.numel() * 4 for value in small_model().encoder.state_dict().values())
    assert weights < cost.peak_bytes <= wider.peak_bytes < weights + 2**30
    assert 0 < cost.bytes_on_disk < wider.bytes_on_disk


def test_shards_cover_the_cells_once_and_in_order():
    for size in (1, 3, 8, 137):
        plan = planned(cells_per_shard=size)
        rows = [plan.rows_of(shard) for shard in range(plan.n_shards)]
        assert np.concatenate(rows).tolist() == list(range(8))
        assert {len(some) for some in rows[:-1]} <= {size}


def test_a_run_is_known_by_what_decides_its_numbers():
    first = planned(**STATES).identity
    assert planned(**STATES).identity == first
    assert planned(**STATES, tokens_per_batch=7).identity == first
    assert planned(small_cells(8, donor=["d"] * 8), **STATES).identity == first
    for other in (
        planned(**STATES, seed=1),
        planned(small_cells(9), **STATES),
        planned(small_cells(8, 21), **STATES),
        planned(**STATES, max_state_cells=1),
    ):
        assert other.identity != first
    assert first["vocabulary"] == Vocabulary.load("V1").fingerprint
    assert (first["device"], first["dtype"]) == ("cpu", "torch.float32")


def test_where_results_come_from():
    told = planned(**STATES).provenance
    assert (told["model"], told["vocabulary"], told["state_key"]) == ("tiny V1", "V1", "kind")
    assert told["perturb"]["alternates"] == ("other",)
    assert told["vocabulary_fingerprint"] == Vocabulary.load("V1").fingerprint
