"""`geneformer attention`: counts or tokens in, a table of attention between genes out."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, REVISION, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome, progress_bar
from geneformer.options import AttentionOptions, RuntimeOptions

OUTPUT = typer.Option("--output", "-o", metavar="OUT", help="Table to make: .parquet or .csv.", show_default=False)


@with_options()
def attention(
    inputs: Annotated[list[Path], INPUTS],
    *,
    output: Annotated[Path, OUTPUT],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    revision: Annotated[str | None, REVISION] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    options: AttentionOptions,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Tabulate attention between genes, averaged over cells."""
    from geneformer.models.loading import load_model
    from geneformer.results.tables import check_suffix, save_table
    from geneformer.runs.files import check_output
    from geneformer.tasks.attention import gene_attention
    from geneformer.tasks.inputs import open_tokens

    check_output(check_suffix(output), overwrite=overwrite)
    loaded = load_model(model, vocabulary=vocabulary, revision=revision)
    with progress_bar("Tokenizing", shown=runtime.progress) as update:
        tokens = open_tokens(inputs, loaded, layer=counts_layer, progress=update)
    with progress_bar("Reading attention", shown=runtime.progress) as update:
        result = gene_attention(tokens, loaded, options, runtime, progress=update)
    table = result.to_frame()
    save_table(table, output, result.provenance, overwrite=overwrite)
    rows: list[tuple[str, object]] = [
        ("Cells", len(tokens)),
        ("Genes", len(result.genes)),
        ("Pairs of genes", len(table)),
        ("Model", f"{loaded.name}, layer {options.layer}"),
    ]
    return Outcome(f"Attention in {output}", rows, {"output": str(output), "genes": len(result.genes), "n": len(table)})
