"""`geneformer decode-expression fit`: cells in, a decoder of their gene expression out."""

from pathlib import Path
from typing import Annotated

from geneformer.cli._finetune_flags import (
    FOLDER,
    GENE_IDS,
    GROUPS,
    HIDDEN,
    IDS,
    OF_CLASSES,
    OF_SECOND_VIEWS,
    RESUME,
    one_seed,
)
from geneformer.cli._fitted import fit_into, fitted_rows, trained_figures
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import ExpressionOptions, FinetuneOptions, RuntimeOptions, SplitOptions


@with_options(hide=HIDDEN | {FinetuneOptions: OF_CLASSES + OF_SECOND_VIEWS})
def decode_expression_fit(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    output: Annotated[Path, FOLDER],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    ids: Annotated[str | None, IDS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    expression: ExpressionOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fine-tune a pretrained model to tell how much of each gene a cell expresses."""
    from geneformer.estimators.expression_decoder import ExpressionDecoder

    options = one_seed(finetuning, split, runtime)
    decoder = ExpressionDecoder(model, vocabulary=vocabulary, expression=expression, **options)
    places = {"groups": groups, "ids": ids, "counts_layer": counts_layer, "gene_ids": gene_ids}
    fit_into(output, decoder, inputs, **places, resume=resume, overwrite=overwrite)
    data = {"output": str(output), "split": decoder.split_, **trained_figures(decoder)}
    return Outcome(f"Decoder in {output}", fitted_rows(decoder), data)
