"""`geneformer predict-masked`: counts or tokens in, what a model expects in the place of masked genes out."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, REVISION, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome, progress_bar
from geneformer.options import PredictOptions, RuntimeOptions

OUTPUT = typer.Option("--output", "-o", metavar="OUT", help="Table to make: .parquet or .csv.", show_default=False)


@with_options()
def predict_masked(
    inputs: Annotated[list[Path], INPUTS],
    *,
    output: Annotated[Path, OUTPUT],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    revision: Annotated[str | None, REVISION] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    options: PredictOptions,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Tabulate the genes a model expects where one is masked."""
    from geneformer.models.loading import load_model
    from geneformer.results.tables import check_suffix, save_table
    from geneformer.runs.files import check_output
    from geneformer.tasks.inputs import describe_run, open_tokens
    from geneformer.tasks.masked_prediction import predict_masked as run

    check_output(check_suffix(output), overwrite=overwrite)
    loaded = load_model(model, vocabulary=vocabulary, revision=revision)
    with progress_bar("Tokenizing", shown=runtime.progress) as update:
        tokens = open_tokens(inputs, loaded, layer=counts_layer, progress=update)
    with progress_bar("Predicting", shown=runtime.progress) as update:
        table = run(tokens, loaded, options, runtime, progress=update)
    provenance = describe_run(loaded, prediction={"genes": list(options.genes), "n_predictions": options.n_predictions})
    save_table(table, output, provenance, overwrite=overwrite)
    first = table[table["order"] == 1]
    rows: list[tuple[str, object]] = [
        ("Cells", len(tokens)),
        ("Masked genes", len(first)),
        ("Of these expected most", int((first["rank_of_masked"] == 1).sum())),
        ("Model", f"{loaded.name}, vocabulary {loaded.vocabulary.name}"),
    ]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "masked": len(first), "n": len(table)})
