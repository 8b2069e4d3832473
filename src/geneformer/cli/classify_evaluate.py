"""`geneformer classify evaluate`: labeled cells in, a report out."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._finetune_flags import FITTED, GENE_IDS, REPORT, RESAMPLED
from geneformer.cli._fitted import check_report_folder, save_report
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, OVERWRITE
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import RuntimeOptions

LABEL = typer.Option("--label", "-l", help="Column of obs with the classes; the one learnt from by default.")


@with_options()
def classify_evaluate(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, REPORT],
    label: Annotated[str | None, LABEL] = None,
    groups: Annotated[str | None, RESAMPLED] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Score a fitted classifier on labeled cells it has not seen."""
    from geneformer.estimators.cell_classifier import CellClassifier

    check_report_folder(output, overwrite=overwrite)
    classifier = CellClassifier.load(model, runtime=runtime)
    report = classifier.evaluate(inputs, label, groups=groups, counts_layer=counts_layer, gene_ids=gene_ids)
    return save_report(report, output, overwrite=overwrite)
