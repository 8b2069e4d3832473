"""`geneformer classify fit`: labeled cells in, a classifier out."""

from pathlib import Path
from typing import Annotated, Any

from geneformer.cli._finetune_flags import FOLDER, GENE_IDS, GROUPS, HIDDEN, IDS, LABEL, RESUME, one_seed
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SplitOptions


@with_options(hide=HIDDEN)
def classify_fit(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    label: Annotated[str, LABEL],
    output: Annotated[Path, FOLDER],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    ids: Annotated[str | None, IDS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    classify: ClassifyOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fine-tune a pretrained model to tell classes of cells apart."""
    from geneformer.estimators.cell_classifier import CellClassifier
    from geneformer.runs.files import check_output

    check_output(output, overwrite=overwrite)
    options: dict[str, Any] = {**one_seed(finetuning, split, runtime), "classify": classify}
    classifier = CellClassifier(model, vocabulary=vocabulary, **options)
    working = output.with_name(f".{output.name}.training")
    classifier.fit(
        inputs,
        label,
        groups=groups,
        ids=ids,
        counts_layer=counts_layer,
        gene_ids=gene_ids,
        output=working,
        resume=resume,
    )
    classifier.save(output, overwrite=overwrite)
    _remove(working)
    return Outcome(f"Classifier in {output}", summary(classifier), {"output": str(output), **figures(classifier)})


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def summary(classifier: Any) -> list[tuple[str, object]]:
    """Lines of the closing table: what was trained, on how much, and how it did beside the baselines."""
    share, split = classifier.result_.share, classifier.split_
    rows: list[tuple[str, object]] = [
        ("Classes", ", ".join(classifier.classes_)),
        ("Cells", f"{split['train']:,} to learn, {split['valid']:,} to choose, {split['test']:,} to test"),
        ("Split", split["method"]),
        ("Parameters trained", f"{share.trained:,} of {share.total:,} ({share.trained / share.total:.1%})"),
        ("Optimizer steps", classifier.result_.steps),
        *((name, f"{value:.4f}") for name, value in classifier.metrics_.items()),
    ]
    report = classifier.report_
    if report is not None:
        for name, evaluation in {"this model": report.evaluation, **report.baselines}.items():
            found = evaluation.metrics["macro_f1"]
            rows.append((f"Test macro-F1, {name}", str(found)))
    return rows


def figures(classifier: Any) -> dict[str, Any]:
    """The same for programs."""
    report = classifier.report_
    return {
        "classes": list(classifier.classes_),
        "steps": classifier.result_.steps,
        "trained": classifier.result_.share.trained,
        "total": classifier.result_.share.total,
        "split": classifier.split_,
        "validation": classifier.metrics_,
        "test": None if report is None else report.evaluation.to_dict()["metrics"],
    }
