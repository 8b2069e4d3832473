"""`geneformer classify cross-validate`: labeled cells in, a report on all of them out."""

from pathlib import Path
from typing import Annotated, Any

from geneformer.cli._finetune_flags import FOLDS, GENE_IDS, GROUPS, HIDDEN, LABEL, OF_SPLITS, REPORT, one_seed
from geneformer.cli._fitted import FIGURES, check_report_folder, report_figures
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SplitOptions


@with_options(hide=HIDDEN | {SplitOptions: OF_SPLITS})
def classify_cross_validate(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    label: Annotated[str, LABEL],
    output: Annotated[Path, REPORT],
    folds: Annotated[int, FOLDS] = 5,
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    classify: ClassifyOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fit once per fold, and score every cell by a classifier that has not seen it."""
    from geneformer.estimators.cell_classifier import CellClassifier
    from geneformer.estimators.cross_validation import cross_validate

    check_report_folder(output, overwrite=overwrite)
    options = one_seed(finetuning, split, runtime)
    classifier = CellClassifier(model, vocabulary=vocabulary, classify=classify, **options)
    found = cross_validate(
        classifier, inputs, label, n_folds=folds, groups=groups, counts_layer=counts_layer, gene_ids=gene_ids
    )
    found.save(output, overwrite=overwrite)
    data = {
        "output": str(output),
        "folds": len(found.folds),
        "metrics": report_figures(found.report),
        "summary": found.to_dict()["summary"],
    }
    return Outcome(f"Report in {output}", _rows(found), data)


def _rows(found: Any) -> list[tuple[str, object]]:
    """Lines of the closing table: one figure of the model and of every baseline over the folds."""
    from geneformer.results.report_tables import metric_name

    figure, summary = FIGURES[found.report.kind], found.summary()
    spread = summary[summary["metric"] == figure]
    return [
        ("Cells", found.report.evaluation.n),
        ("Folds", len(found.folds)),
        *(
            (f"Test {metric_name(figure)}, {row['model']}", f"{row['mean']:.4f} ± {row['sd']:.4f}")
            for row in spread.to_dict("records")
        ),
    ]
