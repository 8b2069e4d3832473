"""`geneformer embed`, `attention` and `predict-masked`: counts or tokens in, what a pretrained model sees out."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from geneformer import keys
from geneformer.cli._options import CellsAndModel, CellsFile, Overwrite, TableFile, output_option, with_options
from geneformer.cli._output import Outcome, Rows, panel_rows, written
from geneformer.cli._pictures import Pictures, picture_rows
from geneformer.errors import OptionError
from geneformer.files.progress import progress_bar
from geneformer.options import AttentionOptions, EmbedOptions, PredictOptions, RuntimeOptions

if TYPE_CHECKING:
    from geneformer.models.loading import LoadedModel
    from geneformer.tokens.dataset import TokenizedDataset


@with_options(
    "embed cells.h5ad -o embedded.h5ad --umap map.png --color cell_type",
    "embed cells.h5ad -o embeddings.parquet --model V2-104M --pooling cls",
)
def embed(
    cells: CellsAndModel,
    *,
    output: CellsFile,
    pictures: Pictures,
    options: EmbedOptions,
    runtime: RuntimeOptions,
    overwrite: Overwrite = False,
) -> Outcome:
    """Embed cells or genes with a pretrained or fine-tuned encoder, and draw them."""
    from geneformer.files.atomic import atomic_file, check_output
    from geneformer.inference.tables import SUFFIXES, CellEmbeddings, check_suffix

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    pictures.check(overwrite=overwrite)
    if pictures.paths and options.pooling == "gene":
        msg = f"--{next(iter(pictures.paths))} draws cells, but --pooling gene embeds genes. Leave one of them out."
        raise OptionError(msg)
    from geneformer.inference.embedding import embed as run  # not before the checks: it takes seconds
    from geneformer.inference.slots import Origin, Slots

    loaded, tokens = _open(cells, runtime)
    origin = Origin.of(cells.inputs, tokens.input_rows, cells.counts_layer)
    pictures.check_number(len(tokens))
    genes = pictures.expressed(tokens.columns, origin)
    with progress_bar("Embedding", shown=runtime.progress, unit="cells") as update:
        result = run(tokens, loaded, options, runtime, progress=update)
    result = replace(result, provenance=cells.recorded(result.provenance))
    n, width = result.values.shape
    rows: Rows = [
        ("Cells" if isinstance(result, CellEmbeddings) else "Genes", n),
        ("Embedding", f"{width} numbers, pooling {options.pooling}, layer {options.layer}"),
        ("Model", f"{loaded.name}, vocabulary {loaded.vocabulary.name}"),
    ]
    if isinstance(result, CellEmbeddings):
        slots = Slots(obsm={keys.EMBEDDING: result.values}, uns={keys.EMBEDDING: result.provenance})
        slots = pictures.with_map(slots, keys.EMBEDDING, origin)
        if output.suffix == ".h5ad":
            with atomic_file(output, overwrite=overwrite) as temporary:
                slots.save(temporary, result.cells, origin)
            rows += slots.rows(origin)
        else:
            result.save(output, overwrite=overwrite)
        pictures.draw(result.to_anndata(), slots, keys.EMBEDDING, origin, genes=genes)
    else:
        result.save(output, overwrite=overwrite)
    rows += picture_rows(pictures.paths)
    drawn = {name: str(path) for name, path in pictures.paths.items()}
    return written("Embeddings", output, rows, n=n, hidden_size=width, **drawn)


@with_options(
    "attention cells.h5ad -o pairs.csv --genes GATA3,TBX21,FOXP3",
    "attention cells.h5ad -o attention.h5ad --per cell --layer -1",
)
def attention(
    cells: CellsAndModel,
    *,
    output: Annotated[Path, output_option("OUT", "Table to make: .parquet or .csv; with --per cell also .h5ad.")],
    options: AttentionOptions,
    runtime: RuntimeOptions,
    overwrite: Overwrite = False,
) -> Outcome:
    """Tabulate attention between genes over all cells, or to the genes of each cell."""
    from geneformer.files.atomic import check_output
    from geneformer.inference.tables import SUFFIXES, TABLES, check_suffix

    per_cell = options.per == "cell"
    check_output(check_suffix(output, SUFFIXES if per_cell else TABLES), overwrite=overwrite)
    from geneformer.inference.attention import cell_attention, gene_attention

    loaded, tokens = _open(cells, runtime)
    with progress_bar("Reading attention", shown=runtime.progress, unit="cells") as update:
        read = cell_attention if per_cell else gene_attention
        result = read(tokens, loaded, options, runtime, progress=update)
    replace(result, provenance=cells.recorded(result.provenance)).save(output, overwrite=overwrite)
    n, n_genes, panel = result.weights.nnz, len(result.genes), result.provenance.get("panel")
    rows: Rows = [
        ("Cells", len(tokens)),
        ("Genes", n_genes),
        *panel_rows(panel),
        ("Weights" if per_cell else "Pairs of genes", n),
        ("Model", f"{loaded.name}, layer {options.layer}"),
    ]
    return written("Attention", output, rows, genes=n_genes, n=n, **({} if panel is None else {"panel": panel}))


@with_options(
    "predict-masked cells.h5ad -o expected.csv --genes CD3E,LYZ",
    "predict-masked cells.h5ad -o expected.parquet --genes panel.txt --n-predictions 5",
)
def predict_masked(
    cells: CellsAndModel,
    *,
    output: TableFile,
    options: PredictOptions,
    runtime: RuntimeOptions,
    overwrite: Overwrite = False,
) -> Outcome:
    """Tabulate the genes a model expects where one is masked."""
    from geneformer.files.atomic import check_output
    from geneformer.inference.tables import check_suffix, save_table

    check_output(check_suffix(output), overwrite=overwrite)
    from geneformer.inference.cells import describe_run
    from geneformer.inference.masked_genes import predict_masked as run

    loaded, tokens = _open(cells, runtime)
    with progress_bar("Predicting", shown=runtime.progress, unit="cells") as update:
        table = run(tokens, loaded, options, runtime, progress=update)
    panel = table.attrs[keys.UNS]["panel"]
    prediction = {"genes": list(options.genes), "n_predictions": options.n_predictions}
    provenance = describe_run(loaded, tokens, prediction=prediction, panel=panel)
    save_table(table, output, cells.recorded(provenance), overwrite=overwrite)
    first = table[table["order"] == 1]
    rows: Rows = [
        ("Cells", len(tokens)),
        ("Masked genes", len(first)),
        *panel_rows(panel),
        ("Of these expected most", int((first["rank_of_masked"] == 1).sum())),
        ("Model", f"{loaded.name}, vocabulary {loaded.vocabulary.name}"),
    ]
    return written("Predictions", output, rows, masked=len(first), n=len(table), panel=panel)


def _open(cells: CellsAndModel, runtime: RuntimeOptions) -> "tuple[LoadedModel, TokenizedDataset]":
    """The model, and the cells as tokens for it."""
    from geneformer.models.loading import load_model

    loaded = load_model(cells.model, vocabulary=cells.vocabulary, revision=cells.revision)
    return loaded, cells.tokens_for(loaded, runtime)
