"""`geneformer classify-genes cross-validate`: cells and lists of genes in, a report on all of the genes out."""

from pathlib import Path
from typing import Annotated

from geneformer.cli._finetune_flags import FOLDS, GENE_IDS, GENES, HIDDEN, OF_CELLS, REPORT, one_seed
from geneformer.cli._fitted import check_report_folder, compared_rows, report_figures
from geneformer.cli._gene_file import read_gene_file
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import FinetuneOptions, GeneClassifyOptions, RuntimeOptions


@with_options(hide=HIDDEN | {FinetuneOptions: OF_CELLS, GeneClassifyOptions: ("test",)})
def classify_genes_cross_validate(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    genes: Annotated[Path, GENES],
    output: Annotated[Path, REPORT],
    folds: Annotated[int, FOLDS] = 5,
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    classify: GeneClassifyOptions,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fit once per fold, and score every gene by a classifier that has not seen it."""
    listed = read_gene_file(genes)
    from geneformer.estimators.gene_classifier import GeneClassifier

    check_report_folder(output, overwrite=overwrite)
    options = one_seed(finetuning, None, runtime)
    classifier = GeneClassifier(model, vocabulary=vocabulary, classify=classify, **options)
    report = classifier.cross_validate(inputs, listed, folds, counts_layer=counts_layer, gene_ids=gene_ids)
    report.save(output, overwrite=overwrite)
    rows: list[tuple[str, object]] = [
        ("Genes", report.evaluation.n),
        ("Folds", len(report.evaluation.folds)),
        *compared_rows(report),
    ]
    data = {"output": str(output), "folds": len(report.evaluation.folds), "metrics": report_figures(report)}
    return Outcome(f"Report in {output}", rows, data)
