"""`geneformer perturb plan`: what a run will take, before it runs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, REVISION, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.cli._perturbing import cost_rows, open_plan
from geneformer.options import PerturbOptions, RuntimeOptions

CALIBRATE = typer.Option(help="Run a few edits to tell the time.")


@with_options()
def perturb_plan(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    revision: Annotated[str | None, REVISION] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    calibrate: Annotated[bool, CALIBRATE] = True,
    options: PerturbOptions,
    runtime: RuntimeOptions,
) -> Outcome:
    """Check a perturbation run, and tell what it will take."""
    from geneformer.tasks.perturbation.cost import estimate

    plan = open_plan(
        inputs, model, options, runtime, vocabulary=vocabulary, revision=revision, counts_layer=counts_layer
    )
    cost = estimate(plan, calibrate=calibrate)
    rows = [*cost_rows(cost), ("Shards", plan.n_shards), ("Model", plan.model.name)]
    return Outcome("Nothing was run yet", rows, {**asdict(cost), "shards": plan.n_shards})
