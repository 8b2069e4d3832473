"""`geneformer regress predict`: cells in, their numbers out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from geneformer.cli._finetune_flags import CELLS_FILE, FITTED, GENE_IDS
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, OVERWRITE
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import RuntimeOptions

SPREAD = typer.Option("--with-spread", help="Also tell the standard deviation expected around each number.")


@with_options()
def regress_predict(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, CELLS_FILE],
    with_spread: Annotated[bool, SPREAD] = False,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Tell the numbers of cells."""
    from geneformer import keys
    from geneformer.estimators.cell_regressor import CellRegressor
    from geneformer.results.cell_tables import save_cells
    from geneformer.results.predictions import SUFFIXES
    from geneformer.results.tables import check_suffix
    from geneformer.runs.files import check_output

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    regressor = CellRegressor.load(model, runtime=runtime)
    opened = regressor.open(inputs, counts_layer=counts_layer, gene_ids=gene_ids)
    key = keys.predicted(str(regressor.label_))
    found: dict[str, Any] = {}
    if with_spread:
        found[key], found[f"{key}_spread"] = regressor.predict(opened, return_std=True)
    else:
        found[key] = regressor.predict(opened)
    found = {name: values[opened.rows] for name, values in found.items()}
    cells = opened.tokens.table.select(opened.tokens.columns)
    save_cells(cells, found, output, regressor.provenance, overwrite=overwrite)
    numbers = found[key]
    told = {"min": float(numbers.min()), "mean": float(numbers.mean()), "max": float(numbers.max())}
    rows: list[tuple[str, object]] = [
        ("Cells", len(numbers)),
        (str(regressor.label_), f"{told['min']:.4g} to {told['max']:.4g}, mean {told['mean']:.4g}"),
    ]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "cells": len(numbers), **told})
