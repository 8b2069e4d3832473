"""`gf.tl.evaluate_network`, `gf.tl.regulons`, `gf.tl.network_roles` and `gf.tl.save_network`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from geneformer import keys
from geneformer.applications.network_evaluation import evaluate_edges
from geneformer.applications.network_evidence import log_counts
from geneformer.applications.network_exports import edges_of, export_network, one_network
from geneformer.applications.network_roles import CENTRAL, PERIPHERAL, PLACES, roles_of
from geneformer.applications.network_truths import known_truth, named_as
from geneformer.applications.networks import strongest
from geneformer.applications.regulons import regulon_weights, univariate_activities
from geneformer.errors import DatasetError, OptionError
from geneformer.files import require
from geneformer.finetuning.estimator import Pairing
from geneformer.genes.lookup import known_names, look_up
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.cells import open_cells
from geneformer.options import NetworkEvaluateOptions
from geneformer.options._fields import check_choice, check_range, spread_options
from geneformer.options._signatures import takes_options
from geneformer.tl._embed import writable

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from geneformer.applications.networks import GeneNetwork
    from geneformer.finetuning.gene_classifier import GeneClassifier
    from geneformer.inference.cells import CellInput, Cells

    Network: TypeAlias = AnnData | pd.DataFrame | GeneNetwork | str | Path


@takes_options(NetworkEvaluateOptions)
def evaluate_network(
    network: "Network",
    truth: "pd.DataFrame | str | Path",
    *,
    cells: "CellInput | None" = None,
    per: Literal["score", "regulator"] = "score",
    key: str = keys.NETWORK,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
    **options: Any,
) -> "pd.DataFrame":
    """How well a network agrees with known pairs, beside baselines and a null that keeps all degrees.

    Each regulator's targets are ranked by weight; pairs that the network does not list come last. Baselines rank the
    same candidates: by correlation, and by what knows nothing of the regulator (expression of the target, the number
    of other regulators it has in the truth, nothing at all).

    Parameters
    ----------
    network
        Cells after `gf.tl.network`, a table of edges, or a file of one. Every method and group is evaluated. Infer with
        ``max_edges=None`` to have all pairs ranked.
    truth
        Known pairs: a table with `source` and `target` (also `tf`, `regulator`; `gene`), or a file: .csv, .tsv (also
        .gz), .parquet, or .gmt with sets of targets named by regulators. Ensembl ids, symbols and aliases.
    cells
        Raw counts for the baselines of expression, where `network` is not the cells themselves; without them, those
        baselines are left out.
    per
        "score": means over regulators; "regulator": one row for each.
    key
        Slot of `uns` with the edges.
    counts_layer, gene_ids
        Layer with the raw counts ("raw" for `adata.raw`; `X` by default); column of `var` with the gene identifiers
        ("index" for the row names; found automatically by default).
    accept_normalized
        Take values that are no raw counts, such as counts corrected for ambient RNA.
    **options
        Any field of `NetworkEvaluateOptions`.

    Returns
    -------
    pandas.DataFrame
        For ``per="score"``, a row for every network and baseline: `auroc` and `average_precision`, means over
        regulators, with intervals over regulators (`auroc_low`, `auroc_high`, …); `difference` of the area from that of
        the same regulators by `against`; the area that rewired truths give, `null_mean`, `null_low`, `null_high`, with
        `z` and one-sided `p`; `regulators`, `pairs`, `candidates`, `share_known` (what average precision is by
        chance), and `share_scored`, the share of the candidates with a weight. For ``per="regulator"``, `auroc` and
        `average_precision` of every score and regulator.

    Raises
    ------
    UnknownColumnError
        There is no network, or the truth has other columns.
    GeneListError
        Truth and network share no genes or regulators, or no regulator has `min_targets` known targets.
    InputNotFoundError, UnreadableInputError, UnsupportedFormatError
        A file that is not there, damaged, or of another kind.

    Examples
    --------
    >>> import geneformer as gf
    >>> import pandas as pd
    >>> edges = pd.DataFrame({"source": "STAT1", "target": ["ISG15", "IFI6", "CD3E", "LYZ"], "weight": [4, 3, 2, 1]})
    >>> truth = pd.DataFrame({"tf": ["STAT1", "STAT1", "TCF7", "SPI1"], "target": ["ISG15", "IFI6", "CD3E", "LYZ"]})
    >>> table = gf.tl.evaluate_network(edges, truth, min_targets=2)
    >>> table.set_index("score").loc["network", "auroc"]
    np.float64(1.0)
    """
    check_choice("per", per, ("score", "regulator"))
    chosen: NetworkEvaluateOptions = spread_options({"": NetworkEvaluateOptions()}, options)[""]
    edges = edges_of(network, key)
    pairs = named_as(known_truth(truth), [*edges["source"].unique(), *edges["target"].unique()])
    given = network if cells is None and hasattr(network, "obs_names") else cells
    expression = None
    if given is not None:
        places = {"counts_layer": counts_layer, "gene_ids": gene_ids, "accept_normalized": accept_normalized}
        _, logs, vocabulary = _expression(given, **places)
        expression = logs, _columns_of([*edges["source"].unique(), *edges["target"].unique()], vocabulary)
    return evaluate_edges(edges, pairs, chosen, expression=expression, per=per)


def _expression(cells: "CellInput", **places: Any) -> "tuple[Cells, csr_matrix, Vocabulary]":
    """Cells, with their log counts by the genes of a vocabulary."""
    vocabulary = Vocabulary.load("V1")  # the one with the most genes
    pairing = Pairing("the network", vocabulary, max_length=vocabulary.input_size)
    opened = open_cells(cells, pairing, **places, counts=True)
    counts = opened.counts(pairing)
    if counts is None:
        msg = "The cells are tokens without counts, of which there is no expression. Pass the counts themselves."
        raise OptionError(msg)
    return opened, log_counts(counts), vocabulary


def _columns_of(names: list[str], vocabulary: Vocabulary) -> Mapping[str, int]:
    """Column of each gene among those of a vocabulary, -1 without a token."""
    places = look_up("network", names, known_names(vocabulary)).positions
    return dict(zip(names, places.tolist(), strict=True))


def regulons(  # noqa: PLR0913
    adata: "AnnData",
    *,
    network: "Network | None" = None,
    key: str = keys.NETWORK,
    top: int | None = 50,
    min_targets: int = 5,
    score: str = "ulm",
    group: str | None = None,
    method: str | None = None,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
    key_added: str = keys.REGULONS,
    copy: bool = False,
) -> "AnnData | None":
    """Activity of every regulator in every cell, from the expression of its targets.

    Parameters
    ----------
    adata
        Raw counts of cells by genes; they are scaled to 10,000 and logarithmised here.
    network
        A table of edges or a file of one, such as known pairs with weights; by default that of `adata`.
    key
        Slot of `uns` with the edges.
    top
        Targets of each regulator, those of highest weight; None: all.
    min_targets
        Targets that must be among the genes, for a regulator to have an activity.
    score
        "ulm": the t-value of a linear model of the cell's expression on the signed weights of the targets, equal to
        decoupler's. Another name is a method of decoupler, if that is installed: "mlm", "viper", "waggr", "ora", …
    group, method
        Which network, where there are several.
    counts_layer, gene_ids
        Layer with the raw counts ("raw" for `adata.raw`; `X` by default); column of `var` with the gene identifiers
        ("index" for the row names; found automatically by default).
    accept_normalized
        Take values that are no raw counts, such as counts corrected for ambient RNA.
    key_added, copy
        Slot of the result; return a copy instead of writing into `adata`.

    Returns
    -------
    AnnData or None
        With `copy=True`. Sets:

        `.obsm[key_added]` : DataFrame ``(n_obs, n_regulators)``
            Activities: above 0 where the targets are expressed as the weights say. Cells without a known gene have NaN.

    Raises
    ------
    UnknownColumnError
        There is no network.
    OptionError
        There are several networks, and none is chosen.
    DatasetError
        No regulator has enough targets among the genes.
    MissingExtraError
        Another `score` than "ulm", and decoupler is not installed.

    Examples
    --------
    >>> import geneformer as gf
    >>> import pandas as pd
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()[:60].copy()
    >>> genes = ["CD3D", "CD3E", "IL7R", "LTB", "CD2"]
    >>> edges = pd.DataFrame({"source": "TCF7", "target": genes, "weight": 1.0})
    >>> gf.tl.regulons(adata, network=edges)
    >>> adata.obsm["regulons"].shape
    (60, 1)
    """
    import pandas as pd

    for name, number in (("top", top or 1), ("min_targets", min_targets)):
        check_range(name, number, low=1)
    adata = writable(adata, copy=copy)
    edges = one_network(edges_of(adata if network is None else network, key), group=group, method=method)
    places = {"counts_layer": counts_layer, "gene_ids": gene_ids, "accept_normalized": accept_normalized}
    opened, logs, vocabulary = _expression(adata, **places)
    detected = np.flatnonzero(logs.getnnz(axis=0))
    genes = pd.Index(detected)
    targets = edges["target"].map(_columns_of(edges["target"].unique().tolist(), vocabulary))
    weights = regulon_weights(edges.assign(target=targets), genes, top=top, min_targets=min_targets)
    if weights.empty:
        msg = f"No regulator of the network has {min_targets} targets among the {len(genes):,} genes of the cells."
        raise DatasetError(msg)
    values = _activities(logs[:, detected], weights, score)
    spread = opened.spread(values.astype(np.float32), np.nan)
    adata.obsm[key_added] = pd.DataFrame(spread, index=adata.obs_names, columns=weights.columns)
    return adata if copy else None


def _activities(expression: "csr_matrix", weights: "pd.DataFrame", score: str) -> Any:
    """Activities, ``(n_cells, n_regulators)``, in the order of the columns of the weights."""
    if score == "ulm":
        return univariate_activities(expression, weights.to_numpy())
    import pandas as pd

    decoupler = require("decoupler", f'score="{score}"', instead='use score="ulm"')
    run: Any = getattr(decoupler.mt, score, None)
    if run is None:
        names = sorted(name for name in vars(decoupler.mt) if not name.startswith("_"))
        check_choice("score", score, ["ulm", *names])
    net = weights.melt(ignore_index=False, var_name="source", value_name="weight").rename_axis("target").reset_index()
    cells = [str(row) for row in range(expression.shape[0])]
    table = pd.DataFrame(expression.toarray(), index=cells, columns=weights.index)
    scores = run(table, net[net["weight"] != 0], tmin=0)
    return (scores[0] if isinstance(scores, tuple) else scores).reindex(index=cells, columns=weights.columns).to_numpy()


def network_roles(  # noqa: PLR0913
    adata: "Network",
    *,
    key: str = keys.NETWORK,
    by: Literal["degree", "in_degree", "out_degree", "betweenness"] = "degree",
    n_edges: int | None = 2000,
    share: float = 0.25,
    n_null: int = 20,
    group: str | None = None,
    method: str | None = None,
    cells: "AnnData | None" = None,
    classifier: "GeneClassifier | None" = None,
    seed: int = 0,
) -> "pd.DataFrame":
    """Where every gene stands in a network, and whether its place can be read from the cells.

    Parameters
    ----------
    adata
        Cells after `gf.tl.network`, a table of edges, or a file of one.
    key
        Slot of `uns` with the edges.
    by
        What makes a gene central.
    n_edges
        Edges that make the network, those of highest weight; None: all of the table.
    share
        Share of the genes at either end that are called central, or peripheral.
    n_null
        Networks with the same degrees that betweenness is compared with.
    group, method
        Which network, where there are several.
    cells, classifier
        Cells, if `adata` is none; and a `gf.GeneClassifier` that is cross-validated over genes on telling the central
        from the peripheral, from their contextual embeddings: its `report_` has the figures with their baselines. A
        network that was inferred from the same model's embeddings is no independent truth for it.
    seed
        Of the null.

    Returns
    -------
    pandas.DataFrame
        By gene, the most central first: `out_degree`, `in_degree`, `degree`, `betweenness`, its `null_mean` and `z`,
        and `role`, "central", "peripheral" or "". With a classifier, `probability` of being central, each from a fold
        in which the gene was held out.

    Raises
    ------
    UnknownColumnError
        There is no network.
    OptionError
        There are several networks, and none is chosen; or a classifier without cells.
    GeneListError
        Too few central or peripheral genes to hold some out.

    Examples
    --------
    >>> import geneformer as gf
    >>> import pandas as pd
    >>> edges = pd.DataFrame({"source": ["A", "A", "A", "B"], "target": ["B", "C", "D", "E"], "weight": 1.0})
    >>> gf.tl.network_roles(edges)["degree"].tolist()
    [3, 2, 1, 1, 1]
    """
    import pandas as pd

    check_choice("by", by, PLACES)
    check_range("share", share, above=0.0, high=0.5)
    for name, number, low in (("n_edges", n_edges or 1, 1), ("n_null", n_null, 0)):
        check_range(name, number, low=low)
    edges = one_network(edges_of(adata, key), group=group, method=method)
    roles = roles_of(strongest(edges, n_edges or len(edges)), by=by, share=share, n_null=n_null, seed=seed)
    if classifier is None:
        return roles
    given = cells if cells is not None else adata
    if not hasattr(given, "obs_names"):
        msg = "A classifier reads cells, and none are given. Pass cells=adata."
        raise OptionError(msg)
    vocabulary = classifier._pair().vocabulary
    place_of = _columns_of(roles.index.tolist(), vocabulary)
    has_token = np.array([place >= 0 for place in place_of.values()])  # names that only these cells have are not learnt
    classes = {role: roles.index[(roles["role"] == role) & has_token].tolist() for role in (CENTRAL, PERIPHERAL)}
    report = classifier.cross_validate(given, classes)
    position_of = {str(gene): place for place, gene in enumerate(vocabulary.genes)}
    held_out = [position_of[str(gene)] for gene in np.asarray(report.cell_ids)]
    probability = pd.Series(report.proba[:, report.evaluation.classes.index(CENTRAL)], index=held_out)
    return roles.assign(probability=probability.reindex(list(place_of.values())).to_numpy())


def save_network(
    network: "Network",
    path: str | Path,
    *,
    columns: Literal["all", "decoupler", "genernib"] = "all",
    n_edges: int | None = None,
    group: str | None = None,
    method: str | None = None,
    key: str = keys.NETWORK,
    overwrite: bool = False,
) -> None:
    """Write a network for other programs.

    Parameters
    ----------
    network
        Cells after `gf.tl.network`, a table of edges, or a file of one.
    path
        `.parquet` or `.csv`; `.graphml`; or `.cyjs`, JSON as Cytoscape reads it.
    columns
        Of a table: "all"; "decoupler" (`source, target, weight`, each pair once) or "genernib" (those and `cell_type`,
        the group), with the sign of the edge in the weight.
    n_edges
        Most edges of each group, those of highest weight; all by default. geneRNIB reads 50,000.
    group, method
        Which network, where there are several. A table of all columns holds all of them, one for geneRNIB all groups.
    key
        Slot of `uns` with the edges.
    overwrite
        Replace a file that is there.

    Raises
    ------
    UnsupportedFormatError
        Another suffix.
    OutputExistsError
        There is a file already.
    UnknownColumnError
        There is no network, or no such group or method.
    OptionError
        There are several networks, and none is chosen.

    Examples
    --------
    >>> import geneformer as gf
    >>> import pandas as pd
    >>> edges = pd.DataFrame({"source": ["STAT1"], "target": ["ISG15"], "weight": [2.0], "sign": [-1.0]})
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gf.tl.save_network(edges, f"{folder}/network.csv", columns="decoupler")
    ...     print(pd.read_csv(f"{folder}/network.csv").to_numpy().tolist())
    [['STAT1', 'ISG15', -2.0]]
    """
    check_range("n_edges", n_edges or 1, low=1)
    edges = edges_of(network, key)
    export_network(edges, path, columns=columns, n_edges=n_edges, group=group, method=method, overwrite=overwrite)
