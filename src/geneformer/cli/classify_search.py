"""`geneformer classify search`: labeled cells in, the best training options and a classifier with them out."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from geneformer.cli._finetune_flags import GENE_IDS, GROUPS, HIDDEN, IDS, LABEL, one_seed
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SearchOptions, SplitOptions

FOLDER = typer.Option(
    "--output", "-o", metavar="DIR", help="Folder of the classifier and of trials.csv.", show_default=False
)
SPACE = typer.Option(
    help="TOML file with the options to search, such as learning_rate = {low = 1e-5, high = 1e-2, log = true} or "
    'strategy = ["full", "lora"].',
    exists=True,
    dir_okay=False,
    show_default=False,
)

TRIALS = "trials.csv"
"""File of the trials beside a classifier."""


@with_options(hide=HIDDEN | {SearchOptions: ("seed",)})
def classify_search(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    label: Annotated[str, LABEL],
    output: Annotated[Path | None, FOLDER] = None,
    space: Annotated[Path | None, SPACE] = None,
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    ids: Annotated[str | None, IDS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    options: SearchOptions,
    finetuning: FinetuneOptions,
    classify: ClassifyOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Search for the best training options, and fit with them.

    Several processes with the same --storage share the trials; give all but one --refit none.
    """
    from geneformer.errors import OptionError
    from geneformer.estimators.cell_classifier import CellClassifier
    from geneformer.estimators.search import search
    from geneformer.runs.files import check_output

    if (output is None) != (options.refit == "none"):
        given = "no --output" if output is None else "--output"
        msg = f"{given} with --refit {options.refit}. Name a folder for the classifier, or fit none with --refit none."
        raise OptionError(msg)
    if output is not None:
        check_output(output, overwrite=overwrite)
    made: dict[str, Any] = {**one_seed(finetuning, split, runtime), "classify": classify}
    classifier = CellClassifier(model, vocabulary=vocabulary, **made)
    result = search(
        classifier,
        inputs,
        label,
        space=space,
        options=dataclasses.replace(options, seed=finetuning.seed),
        groups=groups,
        ids=ids,
        counts_layer=counts_layer,
        gene_ids=gene_ids,
    )
    if output is not None:
        result.estimator.save(output, overwrite=overwrite)
        result.trials.to_csv(output / TRIALS, index=False)
    return Outcome(_title(output, options), _rows(result), _figures(result, output))


def _title(output: Path | None, options: SearchOptions) -> str:
    return f"Classifier in {output}" if output is not None else f"Study {options.study} in {options.storage}"


def _rows(result: Any) -> list[tuple[str, object]]:
    """Lines of the closing table: the trials, the best of them, and how the classifier did."""
    from geneformer.cli.classify_fit import summary

    states = result.trials["state"].value_counts()
    rows: list[tuple[str, object]] = [
        ("Trials", ", ".join(f"{count} {state}" for state, count in states.items())),
        (f"Best validation {result.metric}", f"{result.best_value:.4f}"),
        *((name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in result.best_options.items()),
    ]
    return rows if result.estimator is None else rows + summary(result.estimator)


def _figures(result: Any, output: Path | None) -> dict[str, Any]:
    """The same for programs."""
    import math

    from geneformer.cli.classify_fit import figures

    told = {
        "output": None if output is None else str(output),
        "metric": result.metric,
        "best_value": None if math.isnan(result.best_value) else result.best_value,
        "best_options": result.best_options,
        "trials": {str(state): int(count) for state, count in result.trials["state"].value_counts().items()},
    }
    return told if result.estimator is None else told | figures(result.estimator)
