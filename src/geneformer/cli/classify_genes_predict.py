"""`geneformer classify-genes predict`: cells in, the classes of their genes out."""

from pathlib import Path
from typing import Annotated

from geneformer.cli._finetune_flags import FITTED, GENE_IDS, TABLE_FILE
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, OVERWRITE
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import RuntimeOptions


@with_options()
def classify_genes_predict(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, TABLE_FILE],
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Tell the classes of all genes.

    One row per gene of the vocabulary: the cells it occurs in, and its probabilities averaged over them.
    """
    from geneformer.estimators.gene_classifier import GeneClassifier
    from geneformer.results.tables import check_suffix, save_table
    from geneformer.runs.files import check_output

    check_output(check_suffix(output), overwrite=overwrite)
    classifier = GeneClassifier.load(model, runtime=runtime)
    table = classifier.predict(inputs, counts_layer=counts_layer, gene_ids=gene_ids)
    save_table(table, output, classifier.provenance, overwrite=overwrite)
    counts = {str(name): int(number) for name, number in table["predicted"].value_counts().items()}
    rows: list[tuple[str, object]] = [("Genes in the cells", sum(counts.values())), *counts.items()]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "counts": counts})
