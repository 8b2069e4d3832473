"""`geneformer classify-genes fit`: cells and lists of genes in, a classifier of genes out."""

from pathlib import Path
from typing import Annotated, Any

from geneformer.cli._finetune_flags import FOLDER, GENE_IDS, GENES, HIDDEN, OF_CELLS, RESUME, one_seed
from geneformer.cli._fitted import fit_into, trained_figures, trained_rows
from geneformer.cli._gene_file import read_gene_file
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import FinetuneOptions, GeneClassifyOptions, RuntimeOptions


@with_options(hide=HIDDEN | {FinetuneOptions: OF_CELLS})
def classify_genes_fit(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    genes: Annotated[Path, GENES],
    output: Annotated[Path, FOLDER],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    classify: GeneClassifyOptions,
    runtime: RuntimeOptions,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fine-tune a pretrained model to tell classes of genes apart."""
    listed = read_gene_file(genes)
    from geneformer.estimators.gene_classifier import GeneClassifier

    options = one_seed(finetuning, None, runtime)
    classifier = GeneClassifier(model, vocabulary=vocabulary, classify=classify, **options)
    places = {"counts_layer": counts_layer, "gene_ids": gene_ids}
    fit_into(output, classifier, inputs, listed, **places, resume=resume, overwrite=overwrite)
    parts = {name: len(members) for name, members in classifier.parts_.items()}
    known = {name: len(members) for name, members in classifier.gene_classes_.items()}
    left_out = {why: sum(map(len, lists.values())) for why, lists in classifier.left_out_.items()}
    rows: list[tuple[str, object]] = [
        ("Classes", ", ".join(f"{name} ({number:,} genes)" for name, number in known.items())),
        ("Genes", f"{parts['train']:,} to learn, {parts['valid']:,} to choose, {parts['test']:,} to test"),
        ("Left out", f"{left_out['unknown']:,} unknown to the vocabulary, {left_out['absent']:,} in no cell"),
        *trained_rows(classifier),
    ]
    data: dict[str, Any] = {"output": str(output), "classes": known, "parts": parts, "left_out": left_out}
    return Outcome(f"Classifier in {output}", rows, data | trained_figures(classifier))
