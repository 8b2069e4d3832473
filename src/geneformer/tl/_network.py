"""`gf.tl.network`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geneformer import keys
from geneformer.applications.network_inference import infer_network
from geneformer.applications.network_plan import ALL_GENES, plan_network
from geneformer.applications.networks import CONSENSUS, GeneNetwork, varp_name
from geneformer.errors import CountsError
from geneformer.files.progress import progress_bar
from geneformer.inference.cells import gene_positions, open_cells
from geneformer.inference.slots import Slots
from geneformer.models.loading import load_model
from geneformer.options import NetworkOptions, RuntimeOptions
from geneformer.options._fields import some_of, spread_options
from geneformer.options._signatures import takes_options
from geneformer.tl._embed import writable

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer.genes.vocabulary import Vocabulary
    from geneformer.models.loading import Fitted, LoadedModel


@takes_options(NetworkOptions)
def network(  # noqa: PLR0913
    adata: "AnnData",
    model: "str | Path | LoadedModel | Fitted" = "mini",
    *,
    method: str | Sequence[str] = "embedding",
    regulators: str | Sequence[str] | None = "tf",
    targets: str | Sequence[str] | None = None,
    groupby: str | None = None,
    donor_key: str | None = None,
    vocabulary: "str | Path | Vocabulary | None" = None,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    tokens_per_batch: int | None = None,
    progress: bool = True,
    key_added: str = keys.NETWORK,
    copy: bool = False,
    **options: Any,
) -> "AnnData | None":
    """Directed edges from regulators to genes, each against matched genes, for all cells or for each group.

    Parameters
    ----------
    adata
        Raw counts of cells by genes.
    model
        Name ("mini", "V1-10M", …; `gf.list_models()`), checkpoint folder or hub repository, or a fitted model.
    method
        "embedding", "attention", "perturbation", "correlation" or "boosting", or several: then a consensus, the mean
        of their ranks, is added.
    regulators
        "tf": human transcription factors and co-factors; genes, or files of them; None: all genes.
    targets
        Genes, or files of them; None: all that are in at least `min_cells` cells.
    groupby, donor_key
        Columns of `obs` with groups, each of which gets a network, and with donors, which intervals are then over.
    vocabulary
        Needed only where the checkpoint does not name its own.
    counts_layer, gene_ids
        Layer with the raw counts ("raw" for `adata.raw`; `X` by default); column of `var` with the gene identifiers
        ("index" for the row names; found automatically by default).
    accept_normalized
        Rank values that are no raw counts, such as counts corrected for ambient RNA.
    device, dtype, tokens_per_batch, progress
        Where and how the model runs; see `RuntimeOptions`.
    key_added, copy
        Slot of the result; return a copy instead of writing into `adata`.
    **options
        Any other field of `NetworkOptions`.

    Returns
    -------
    AnnData or None
        With `copy=True`. Sets:

        `.uns[key_added]` : DataFrame
            One row per edge, strongest first in each group; columns as in `applications.networks.COLUMNS`.
        `.uns[f"{key_added}_differential"]` : DataFrame
            With `groupby`: edges, and by how much their weight differs from that in all other groups.
        `.varp[key_added]` : float64, sparse ``(n_vars, n_vars)``
            Weights, regulators in rows; of the consensus where there is one. With `groupby`, a slot for each group,
            `f"{key_added}_{group}"`.
        `.uns["geneformer"][key_added]`
            Model, options, versions, regulators left out, and how stable the strongest edges are.

    Raises
    ------
    UnknownChoiceError, UnknownOptionError, OptionError
        A method that is not known, or knobs that do not go together.
    UnknownGeneError, AbsentGeneError
        No regulator, or no target, has a token or is in enough of the cells.
    CountsError
        The counts or names of genes cannot be used, or too few cells.
    ConstantLabelError
        `groupby` has one group.
    PairingError
        Model, vocabulary and options do not belong together.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()[:600].copy()
    >>> gf.tl.network(adata, method="correlation", regulators=["SPI1", "CEBPD"], progress=False)
    >>> adata.uns["network"][["source", "sign"]].to_dict("records")[0]
    {'source': 'SPI1', 'sign': 1.0}
    """
    named = {
        "method": method,
        "regulators": ALL_GENES if regulators is None else regulators,
        "targets": () if targets is None else targets,
        "groupby": groupby,
        "donor_key": donor_key,
    }
    chosen: NetworkOptions = spread_options({"network": NetworkOptions()}, {**options, **named})["network"]
    runtime = RuntimeOptions(device=device, dtype=dtype, tokens_per_batch=tokens_per_batch, progress=progress)
    adata = writable(adata, copy=copy)
    _check_names(adata)
    loaded = load_model(model, vocabulary=vocabulary)
    with progress_bar("Inferring a network", shown=progress, unit="cells") as update:
        cells = open_cells(
            adata, loaded, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized
        )
        plan = plan_network(cells, loaded, chosen, runtime)
        position_of = {position: name for name, position in _positions(adata, loaded, gene_ids)}
        tokens = loaded.vocabulary.token_ids.tolist()
        names = {token: position_of[place] for place, token in enumerate(tokens) if place in position_of}
        result = infer_network(plan, names=names, progress=update)
    _write(result, adata, key_added)
    return adata if copy else None


def _positions(adata: "AnnData", loaded: "LoadedModel", gene_ids: str | None) -> list[tuple[str, int]]:
    """Columns by name with the gene each is, the last ones first."""
    positions = gene_positions(adata, loaded.vocabulary, gene_ids).tolist()
    return list(zip(adata.var_names.astype(str), positions, strict=True))[::-1]


def _check_names(adata: "AnnData") -> None:
    """Refuse genes that could not be told apart in the table of edges."""
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        msg = (
            f"{len(twice):,} names of genes are there twice, such as {some_of(map(repr, twice), 3)}; edges name genes. "
            "Make them unique: adata.var_names_make_unique()."
        )
        raise CountsError(msg)


def _write(result: GeneNetwork, adata: "AnnData", key: str) -> None:
    """Edges, differences and weights into their slots."""
    from scipy.sparse import csr_matrix

    shown = result.edges["method"].iloc[-1] if CONSENSUS in set(result.edges["method"]) else result.edges["method"][0]
    for group, edges in result.edges[result.edges["method"] == shown].groupby("group", sort=False):
        row, column = (adata.var_names.get_indexer(edges[name]) for name in ("source", "target"))
        named = (row >= 0) & (column >= 0)
        weights = (edges["weight"].to_numpy()[named], (row[named], column[named]))
        adata.varp[varp_name(key, str(group))] = csr_matrix(weights, shape=(adata.n_vars, adata.n_vars))
    adata.uns[key] = result.edges
    if len(result.differential):
        adata.uns[f"{key}_differential"] = result.differential
    Slots(uns={key: result.provenance}).into(adata)
