"""`geneformer decode-expression predict`: cells in, values and ranks of genes out."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._finetune_flags import CELLS_FILE, FITTED, GENE_IDS
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, OVERWRITE
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import RuntimeOptions

GENE = typer.Option(
    help="Gene to predict in every cell, as Ensembl id or symbol; once per gene. By default every gene in the cells "
    "that express it.",
    show_default=False,
)


@with_options()
def decode_expression_predict(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, CELLS_FILE],
    gene: Annotated[list[str] | None, GENE] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Tell values and ranks of genes in cells.

    An .h5ad has cells by genes, a table one row per cell and gene.
    """
    from geneformer.estimators.expression_decoder import ExpressionDecoder
    from geneformer.results.expression_tables import SUFFIXES, save_expression
    from geneformer.results.tables import check_suffix
    from geneformer.runs.files import check_output

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    decoder = ExpressionDecoder.load(model, runtime=runtime)
    genes = list(dict.fromkeys(gene)) if gene else None
    places = {"counts_layer": counts_layer, "gene_ids": gene_ids}
    if output.suffix == ".h5ad":
        blocks = iter([decoder.predict(inputs, genes, **places)])
    else:
        blocks = decoder.predict_blocks(inputs, genes, cells_per_block=1024, **places)
    cells, values = save_expression(blocks, output, decoder.provenance, overwrite=overwrite)
    rows: list[tuple[str, object]] = [("Cells", cells), ("Values", values)]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "cells": cells, "values": values})
