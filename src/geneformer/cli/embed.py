"""`geneformer embed`: counts or tokens in, embeddings out."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, REVISION, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome, progress_bar
from geneformer.options import EmbedOptions, RuntimeOptions

OUTPUT = typer.Option(
    "--output", "-o", metavar="OUT", help="File to make: .h5ad, .parquet or .csv.", show_default=False
)


@with_options()
def embed(
    inputs: Annotated[list[Path], INPUTS],
    *,
    output: Annotated[Path, OUTPUT],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    revision: Annotated[str | None, REVISION] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    options: EmbedOptions,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Embed cells or genes with a pretrained encoder."""
    from geneformer.models.loading import load_model
    from geneformer.results.embeddings import SUFFIXES, CellEmbeddings
    from geneformer.results.tables import check_suffix
    from geneformer.runs.files import check_output
    from geneformer.tasks.embedding import embed as run
    from geneformer.tasks.inputs import open_tokens

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    loaded = load_model(model, vocabulary=vocabulary, revision=revision)
    with progress_bar("Tokenizing", shown=runtime.progress) as update:
        tokens = open_tokens(inputs, loaded, layer=counts_layer, progress=update)
    with progress_bar("Embedding", shown=runtime.progress) as update:
        result = run(tokens, loaded, options, runtime, progress=update)
    result.save(output, overwrite=overwrite)
    kind = "Cells" if isinstance(result, CellEmbeddings) else "Genes"
    n, width = result.values.shape
    rows: list[tuple[str, object]] = [
        (kind, n),
        ("Embedding", f"{width} numbers, pooling {options.pooling}, layer {options.layer}"),
        ("Model", f"{loaded.name}, vocabulary {loaded.vocabulary.name}"),
    ]
    return Outcome(f"Embeddings in {output}", rows, {"output": str(output), "n": n, "hidden_size": width})
