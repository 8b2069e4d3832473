"""`geneformer classify evaluate`: labeled cells in, a report out."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._finetune_flags import FITTED, GENE_IDS
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, OVERWRITE
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import RuntimeOptions

OUTPUT = typer.Option("--output", "-o", metavar="DIR", help="Folder of the report.", show_default=False)
LABEL = typer.Option("--label", "-l", help="Column of obs with the classes; the one learnt from by default.")
GROUPS = typer.Option(help="Column of donors or the like, resampled whole for the intervals.", show_default=False)


@with_options()
def classify_evaluate(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, OUTPUT],
    label: Annotated[str | None, LABEL] = None,
    groups: Annotated[str | None, GROUPS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Score a fitted classifier on labeled cells it has not seen."""
    from geneformer.estimators.cell_classifier import CellClassifier
    from geneformer.runs.files import check_output

    check_output(output, overwrite=overwrite)
    classifier = CellClassifier.load(model, runtime=runtime)
    report = classifier.evaluate(inputs, label, groups=groups, counts_layer=counts_layer, gene_ids=gene_ids)
    report.save(output, overwrite=overwrite)
    metrics = report.evaluation.metrics
    rows: list[tuple[str, object]] = [(name, str(value)) for name, value in metrics.items()]
    data = {"output": str(output), "metrics": report.evaluation.to_dict()["metrics"]}
    return Outcome(f"Report in {output}", rows, data)
