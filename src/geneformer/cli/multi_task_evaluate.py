"""`geneformer multi-task evaluate`: labeled cells in, a report for every task out."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._finetune_flags import FITTED, GENE_IDS, REPORT, RESAMPLED
from geneformer.cli._fitted import check_report_folder, save_report
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, OVERWRITE
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import RuntimeOptions

TASKS = typer.Option(
    "--label", "-l", help="Task to score, or TASK=COLUMN where its column has another name; once per task. All of them "
    "by default.", show_default=False,
)  # fmt: skip


@with_options()
def multi_task_evaluate(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, REPORT],
    label: Annotated[list[str] | None, TASKS] = None,
    groups: Annotated[str | None, RESAMPLED] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Score a fitted classifier in every task, on labeled cells it has not seen."""
    from geneformer.estimators.multi_task_classifier import MultiTaskClassifier

    check_report_folder(output, overwrite=overwrite)
    classifier = MultiTaskClassifier.load(model, runtime=runtime)
    asked = dict(_column(entry, tuple(classifier.classes_)) for entry in label or classifier.classes_)
    report = classifier.evaluate(inputs, asked, groups=groups, counts_layer=counts_layer, gene_ids=gene_ids)
    return save_report(report, output, overwrite=overwrite)


def _column(entry: str, tasks: tuple[str, ...]) -> tuple[str, str]:
    """A task and its column; the name of a task may itself have an equals sign."""
    for task in tasks:
        if entry.startswith(f"{task}=") and len(entry) > len(task) + 1:
            return task, entry[len(task) + 1 :]
    return entry, entry
