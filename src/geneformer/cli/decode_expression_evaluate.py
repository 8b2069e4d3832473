"""`geneformer decode-expression evaluate`: cells in, reports on genes taken out of them out."""

from pathlib import Path
from typing import Annotated

from geneformer.cli._finetune_flags import FITTED, GENE_IDS, REPORT, RESAMPLED
from geneformer.cli._fitted import check_report_folder, save_report
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, OVERWRITE
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import RuntimeOptions


@with_options()
def decode_expression_evaluate(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, REPORT],
    groups: Annotated[str | None, RESAMPLED] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Score a fitted decoder on genes taken out of cells it has not seen."""
    from geneformer.estimators.expression_decoder import ExpressionDecoder

    check_report_folder(output, overwrite=overwrite)
    decoder = ExpressionDecoder.load(model, runtime=runtime)
    report = decoder.evaluate(inputs, groups=groups, counts_layer=counts_layer, gene_ids=gene_ids)
    return save_report(report, output, overwrite=overwrite)
