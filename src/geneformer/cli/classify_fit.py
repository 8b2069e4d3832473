"""`geneformer classify fit`: labeled cells in, a classifier out."""

from pathlib import Path
from typing import Annotated, Any

from geneformer.cli._finetune_flags import FOLDER, GENE_IDS, GROUPS, HIDDEN, IDS, LABEL, RESUME, one_seed
from geneformer.cli._fitted import fit_into, fitted_rows, trained_figures
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

    options = one_seed(finetuning, split, runtime)
    classifier = CellClassifier(model, vocabulary=vocabulary, classify=classify, **options)
    places = {"groups": groups, "ids": ids, "counts_layer": counts_layer, "gene_ids": gene_ids}
    fit_into(output, classifier, inputs, label, **places, resume=resume, overwrite=overwrite)
    return Outcome(f"Classifier in {output}", summary(classifier), {"output": str(output), **figures(classifier)})


def summary(classifier: Any) -> list[tuple[str, object]]:
    """Lines of the closing table: what was trained, on how much, and how it did beside the baselines."""
    return [("Classes", ", ".join(classifier.classes_)), *fitted_rows(classifier)]


def figures(classifier: Any) -> dict[str, Any]:
    """The same for programs."""
    return {"classes": list(classifier.classes_), "split": classifier.split_, **trained_figures(classifier)}
