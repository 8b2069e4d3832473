"""`geneformer embed`, `attention` and `predict-masked`: counts or tokens in, what a pretrained model sees out."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from geneformer import keys
from geneformer.cli._options import CellsAndModel, CellsFile, Overwrite, TableFile, flag, output_option, with_options
from geneformer.cli._output import Outcome, Rows, panel_rows, progress_bar, written
from geneformer.errors import OptionError, UnknownColumnError
from geneformer.options import AttentionOptions, EmbedOptions, PredictOptions, RuntimeOptions
from geneformer.options._fields import nearest

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
    umap: Annotated[Path | None, flag("Also draw a map of the cells: .png, .pdf, .svg.", metavar="FILE")] = None,
    heatmap: Annotated[Path | None, flag("Also draw a clustered heatmap: .png, .pdf, .svg.", metavar="FILE")] = None,
    color: Annotated[str | None, flag("Column of obs that colors the pictures, such as the cell type.")] = None,
    options: EmbedOptions,
    runtime: RuntimeOptions,
    overwrite: Overwrite = False,
) -> Outcome:
    """Embed cells or genes with a pretrained or fine-tuned encoder, and draw them."""
    from geneformer.files.atomic import check_output
    from geneformer.inference.tables import SUFFIXES, CellEmbeddings, check_suffix

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    pictures = {name: path for name, path in (("umap", umap), ("heatmap", heatmap)) if path is not None}
    _check_pictures(pictures, color, options, overwrite=overwrite)
    from geneformer.inference.embedding import embed as run  # not before the checks: it takes seconds

    loaded, tokens = _open(cells, runtime)
    if color is not None and color not in tokens.columns:
        msg = f"No column {color!r} to color by; the cells have {tokens.columns}.{nearest(color, tokens.columns)}"
        raise UnknownColumnError(msg)
    with progress_bar("Embedding", shown=runtime.progress, unit="cells") as update:
        result = run(tokens, loaded, options, runtime, progress=update)
    replace(result, provenance=cells.recorded(result.provenance)).save(output, overwrite=overwrite)
    if pictures:
        from geneformer import pl

        adata = result.to_anndata()
        if umap is not None:
            pl.embedding(adata, color=color, save=umap)
        if heatmap is not None:
            pl.heatmap(adata, groupby=color, save=heatmap)
    kind = "Cells" if isinstance(result, CellEmbeddings) else "Genes"
    n, width = result.values.shape
    rows: Rows = [
        (kind, n),
        ("Embedding", f"{width} numbers, pooling {options.pooling}, layer {options.layer}"),
        ("Model", f"{loaded.name}, vocabulary {loaded.vocabulary.name}"),
        *((f"Picture ({name})", str(path)) for name, path in pictures.items()),
    ]
    drawn = {name: str(path) for name, path in pictures.items()}
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
    provenance = describe_run(loaded, prediction=prediction, panel=panel)
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


def _check_pictures(pictures: dict[str, Path], color: str | None, options: EmbedOptions, *, overwrite: bool) -> None:
    """Refuse pictures that cannot be drawn or written, before anything is computed."""
    from geneformer.files.atomic import check_output
    from geneformer.pl._figures import check_save

    if color is not None and not pictures:
        msg = f"--color {color} colors pictures, and none is asked for. Add --umap FILE or --heatmap FILE."
        raise OptionError(msg)
    if pictures and options.pooling == "gene":
        msg = f"--{next(iter(pictures))} draws cells, but --pooling gene embeds genes. Leave one of them out."
        raise OptionError(msg)
    for path in pictures.values():
        check_save(path)
        check_output(path, overwrite=overwrite)
