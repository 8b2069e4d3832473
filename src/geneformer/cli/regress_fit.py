"""`geneformer regress fit`: cells with numbers in, a model of the number out."""

from pathlib import Path
from typing import Annotated

from geneformer.cli._finetune_flags import (
    FOLDER,
    GENE_IDS,
    GROUPS,
    HIDDEN,
    IDS,
    NUMBER,
    OF_CLASSES,
    RESUME,
    one_seed,
)
from geneformer.cli._fitted import fit_into, fitted_rows, trained_figures
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import FinetuneOptions, RegressOptions, RuntimeOptions, SplitOptions


@with_options(hide=HIDDEN | {FinetuneOptions: OF_CLASSES})
def regress_fit(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    label: Annotated[str, NUMBER],
    output: Annotated[Path, FOLDER],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    ids: Annotated[str | None, IDS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    regress: RegressOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fine-tune a pretrained model to tell a number of cells."""
    from geneformer.estimators.cell_regressor import CellRegressor

    options = one_seed(finetuning, split, runtime)
    regressor = CellRegressor(model, vocabulary=vocabulary, regress=regress, **options)
    places = {"groups": groups, "ids": ids, "counts_layer": counts_layer, "gene_ids": gene_ids}
    fit_into(output, regressor, inputs, label, **places, resume=resume, overwrite=overwrite)
    rows: list[tuple[str, object]] = [("Number", f"{label}, {regressor.loss_} loss"), *fitted_rows(regressor)]
    data = {"output": str(output), "label": label, "split": regressor.split_, **trained_figures(regressor)}
    return Outcome(f"Model in {output}", rows, data)
