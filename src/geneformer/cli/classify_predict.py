"""`geneformer classify predict`: cells in, their classes out."""

from pathlib import Path
from typing import Annotated

from geneformer.cli._finetune_flags import CELLS_FILE, FITTED, GENE_IDS, UNKNOWN
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, OVERWRITE
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import RuntimeOptions


@with_options()
def classify_predict(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, CELLS_FILE],
    unknown_below: Annotated[float | None, UNKNOWN] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Tell the classes of cells."""
    import numpy as np

    from geneformer.estimators.cell_classifier import CellClassifier
    from geneformer.estimators.cell_parts import cell_table
    from geneformer.options._check import check_range
    from geneformer.results.predictions import SUFFIXES, CellPredictions
    from geneformer.results.tables import check_suffix
    from geneformer.runs.files import check_output

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    check_range("unknown_below", unknown_below, low=0.0, high=1.0)
    classifier = CellClassifier.load(model, runtime=runtime)
    opened = classifier.open(inputs, counts_layer=counts_layer, gene_ids=gene_ids)
    proba = opened.spread(classifier.probabilities(opened), np.nan)
    result = CellPredictions(
        cell_table(opened),
        str(classifier.label_),
        tuple(classifier.classes_ or ()),
        classifier.name_classes(proba, unknown_below),
        proba,
        classifier.provenance,
    )
    result.save(output, overwrite=overwrite)
    rows = [(name, count) for name, count in result.counts().items()]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "counts": result.counts()})
