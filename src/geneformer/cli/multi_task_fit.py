"""`geneformer multi-task fit`: cells with several columns of labels in, one classifier of all of them out."""

from pathlib import Path
from typing import Annotated

from geneformer.cli._finetune_flags import FOLDER, GENE_IDS, GROUPS, HIDDEN, IDS, LABELS, RESUME, one_seed
from geneformer.cli._fitted import fit_into, fitted_rows, trained_figures
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import FinetuneOptions, MultiTaskOptions, RuntimeOptions, SplitOptions


@with_options(hide=HIDDEN)
def multi_task_fit(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    label: Annotated[list[str], LABELS],
    output: Annotated[Path, FOLDER],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    ids: Annotated[str | None, IDS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    multi_task: MultiTaskOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fine-tune a pretrained model to tell several columns of classes at once."""
    from geneformer.estimators.multi_task_classifier import MultiTaskClassifier

    options = one_seed(finetuning, split, runtime)
    classifier = MultiTaskClassifier(model, vocabulary=vocabulary, multi_task=multi_task, **options)
    places = {"groups": groups, "ids": ids, "counts_layer": counts_layer, "gene_ids": gene_ids}
    fit_into(output, classifier, inputs, label, **places, resume=resume, overwrite=overwrite)
    tasks = {name: list(classes) for name, classes in classifier.classes_.items()}
    rows: list[tuple[str, object]] = [
        *((f"Classes of {name}", ", ".join(classes)) for name, classes in tasks.items()),
        ("Task weights", ", ".join(f"{name} {weight:.3g}" for name, weight in classifier.task_weights_.items())),
        *fitted_rows(classifier),
    ]
    data = {
        "output": str(output),
        "classes": tasks,
        "task_weights": classifier.task_weights_,
        "split": classifier.split_,
        **trained_figures(classifier),
    }
    return Outcome(f"Classifier in {output}", rows, data)
