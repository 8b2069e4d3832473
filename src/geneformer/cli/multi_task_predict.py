"""`geneformer multi-task predict`: cells in, their classes in every task out."""

from pathlib import Path
from typing import Annotated, Any

from geneformer.cli._finetune_flags import CELLS_FILE, FITTED, GENE_IDS, UNKNOWN
from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, OVERWRITE
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import RuntimeOptions


@with_options()
def multi_task_predict(
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
    """Tell the classes of cells in every task."""
    import pandas as pd

    from geneformer import keys
    from geneformer.estimators.multi_task_classifier import MultiTaskClassifier
    from geneformer.results.cell_tables import save_cells
    from geneformer.results.predictions import SUFFIXES
    from geneformer.results.tables import check_suffix
    from geneformer.runs.files import check_output

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    classifier = MultiTaskClassifier.load(model, runtime=runtime)
    opened = classifier.open(inputs, counts_layer=counts_layer, gene_ids=gene_ids)
    said = classifier.predict(opened, unknown_below=unknown_below).iloc[opened.rows]
    found: dict[str, Any] = {}
    counts: dict[str, dict[str, int]] = {}
    for task in classifier.classes_:
        key = keys.predicted(task)
        found |= {key: pd.Categorical(said[task]), f"{key}_probability": said[f"{task}_probability"].to_numpy()}
        counts[task] = {str(name): int(number) for name, number in said[task].value_counts().items()}
    cells = opened.tokens.table.select(opened.tokens.columns)
    save_cells(cells, found, output, classifier.provenance, overwrite=overwrite)
    rows = [(f"{task}: {name}", number) for task, numbers in counts.items() for name, number in numbers.items()]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "counts": counts})
