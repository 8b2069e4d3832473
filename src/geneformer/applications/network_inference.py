"""From cells to networks: which genes, which cells, the evidence of each method, and its statistics."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer.applications.network_evidence import Moments, log_counts
from geneformer.applications.network_statistics import (
    Comparison,
    Draw,
    Evidence,
    Floats,
    Ints,
    Tested,
    compare_with_matched,
    differences,
    intervals,
    stability,
)
from geneformer.applications.networks import ALL_CELLS, COLUMNS, CONSENSUS, GeneNetwork, as_edges
from geneformer.errors import ConstantLabelError, CountsError, GeneformerWarning, NoCellsError
from geneformer.files.progress import Progress
from geneformer.finetuning.labels import NO_LABEL, distinct_words
from geneformer.genes.lists import named_genes, transcription_factors
from geneformer.genes.lookup import GenePanel, resolve_panel
from geneformer.inference.cells import Cells, check_pairing, describe_run, token_blocks
from geneformer.options import NetworkOptions, RuntimeOptions
from geneformer.options._fields import some_of
from geneformer.perturbation.plan import gene_table

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

    from geneformer.models.loading import LoadedModel

TRANSCRIPTION_FACTORS, ALL_GENES = "tf", "all"

_MATCHED = 50
"""Genes that each regulator is compared with, at most."""

_BLOCKS = 20
"""Parts that the cells of a group are resampled in, at most."""

_BLOCK_BYTES = 2**29
"""Memory for sums over pairs of genes, of all blocks."""

_BYTES_PER_PAIR = 8

_FEW_CELLS, _FEW_DONORS = 500, 3
"""Below these, networks are not stable."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkGenes:
    """Token ids of the genes of a network, and who is compared with whom."""

    sources: Ints
    n_regulators: int
    matched: Ints
    targets: Ints
    panel: GenePanel

    @property
    def regulators(self) -> Ints:
        """Token ids of the genes that edges start from."""
        return self.sources[: self.n_regulators]


@dataclass(frozen=True, slots=True, eq=False)
class CellGroup:
    """Cells that are read together: their rows among the tokens, and the block of each."""

    name: str
    rows: Ints
    blocks: Ints
    n_blocks: int
    donors: Ints | None
    blocks_are_donors: bool


@dataclass(frozen=True, eq=False)
class NetworkPlan:
    """Everything that decides a network, checked."""

    cells: Cells
    model: "LoadedModel"
    options: NetworkOptions
    runtime: RuntimeOptions
    genes: NetworkGenes
    groups: Sequence[CellGroup]

    @cached_property
    def log_counts(self) -> "csr_matrix":
        """Log counts of all cells by the genes of the vocabulary."""
        counts = self.cells.counts(self.model)
        if counts is None:
            msg = (
                "The tokens have no counts, which correlations are taken of. Pass the counts themselves, or choose "
                'another method (signed="never", without "correlation" and "boosting").'
            )
            raise CountsError(msg)
        return log_counts(counts)

    def columns(self, tokens: Ints) -> Ints:
        """Columns of `log_counts` of some genes."""
        column_of = np.full(self.model.vocabulary.size, -1)
        column_of[self.model.vocabulary.token_ids] = np.arange(len(self.model.vocabulary.genes))
        return column_of[tokens]


def plan_network(cells: Cells, model: "LoadedModel", options: NetworkOptions, runtime: RuntimeOptions) -> NetworkPlan:
    """A network, with everything checked that can be known before the first forward pass."""
    check_pairing(cells.tokens, model, truncate=True)
    rows_of = _rows_of_groups(cells, options)
    genes = _network_genes(cells, model, options, rows_of)
    groups = [_blocked(cells, name, rows, options, genes, len(rows_of)) for name, rows in rows_of.items()]
    _warn_of_few(groups, options)
    plan = NetworkPlan(cells, model, options, runtime, genes, groups)
    if {"correlation", "boosting"} & set(options.method) or options.signed == "correlation":
        _ = plan.log_counts  # refused now where there are none
    return plan


def _rows_of_groups(cells: Cells, options: NetworkOptions) -> dict[str, Ints]:
    """Rows of the cells of every group, drawn at random where there are many."""
    places = np.zeros(len(cells.tokens), dtype=np.int64)
    words = [ALL_CELLS]
    if options.groupby is not None:
        places, words = distinct_words(np.asarray(cells.column(options.groupby)), options.groupby)
        if len([word for word in words if word.lower() not in NO_LABEL]) < 2:
            msg = f"Column {options.groupby!r} has one group, {words}. Leave groupby out, or choose another column."
            raise ConstantLabelError(msg)
    if options.donor_key is not None:
        donors, _ = distinct_words(np.asarray(cells.column(options.donor_key)), options.donor_key)
        places = np.where(donors >= 0, places, -1)
    has_genes = np.asarray(cells.tokens.lengths) > 0
    rows_of: dict[str, Ints] = {}
    small = []
    for place, word in enumerate(words):
        if word.lower() in NO_LABEL:
            continue
        rows = np.flatnonzero((places == place) & has_genes)
        if len(rows) < max(options.min_cells, 2):
            small.append(f"{word} ({len(rows):,})")
            continue
        if options.max_cells is not None and len(rows) > options.max_cells:
            generator = np.random.default_rng([options.seed, place])
            rows = np.sort(generator.choice(rows, options.max_cells, replace=False))
        rows_of[word] = rows
    if not rows_of:
        msg = (
            f"A network needs min_cells={options.min_cells} cells or more, of one group; there are {some_of(small)}. "
            "Choose other cells, or lower min_cells."
        )
        raise NoCellsError(msg)
    if small:
        msg = f"Groups of fewer than min_cells={options.min_cells} cells have no network: {some_of(small)}."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    return rows_of


def _network_genes(
    cells: Cells, model: "LoadedModel", options: NetworkOptions, rows_of: Mapping[str, Ints]
) -> NetworkGenes:
    """Regulators, targets and matched genes that the cells allow."""
    tokens, size = cells.tokens, model.vocabulary.size
    n_cells = np.max([_presence(cells, rows, model).sum(axis=0).A1 for rows in rows_of.values()], axis=0)
    is_usable = n_cells >= options.min_cells
    is_usable[model.vocabulary.special_ids] = False
    table = gene_table(tokens, np.concatenate(list(rows_of.values())), {}, model)
    features = np.full((size, 2), np.nan)
    features[table["token"].to_numpy()] = np.stack(
        [table["mean_rank"].to_numpy(), np.log(table["n_cells"].to_numpy())], axis=1
    )
    panel = _panel(options.regulators, model, options, is_usable, "regulators")
    regulators = np.array(panel.tokens, dtype=np.int64)
    targets = np.flatnonzero(is_usable)
    if options.targets:
        asked = _panel(options.targets, model, options, is_usable, "targets")
        targets = np.array(asked.tokens, dtype=np.int64)
    sources, matched_RK = _matched(features, regulators, np.flatnonzero(is_usable), options)
    return NetworkGenes(sources, len(regulators), matched_RK, targets, panel)


def _panel(
    names: tuple[str, ...], model: "LoadedModel", options: NetworkOptions, is_usable: NDArray[np.bool_], unit: str
) -> GenePanel:
    """Genes asked for, those left out that have no token or are in too few cells."""
    vocabulary = model.vocabulary
    usable = {str(vocabulary.gene_of[token]): int(token) for token in np.flatnonzero(is_usable)}
    if names == (ALL_GENES,):
        return GenePanel(vocabulary, usable, {}, unit=unit, asked=len(usable)).check("drop")
    is_listed = names == (TRANSCRIPTION_FACTORS,)
    unknown = "drop" if is_listed else options.unknown
    listed = [
        gene
        for name in names
        for gene in (transcription_factors() if name == TRANSCRIPTION_FACTORS else named_genes([name]))
    ]
    panel = resolve_panel(listed, vocabulary, unknown=unknown)
    panel.unit = unit
    for name in [name for name, token in panel.token_of.items() if not is_usable[token]]:
        panel.leave_out(name, f"in fewer than {options.min_cells} cells")
    return panel if is_listed and panel.token_of else panel.check(unknown)


def _matched(features: Floats, regulators: Ints, usable: Ints, options: NetworkOptions) -> tuple[Ints, Ints]:
    """Regulators and genes matched to them by mean rank and number of cells, and the rows of those of each."""
    from scipy.spatial import cKDTree

    pool = np.setdiff1d(usable, regulators)
    pool = usable if len(pool) < min(options.n_null, _MATCHED) else pool
    n_null = min(options.n_null, len(pool) - 1)
    if n_null < 3:
        return regulators, np.empty((len(regulators), 0), dtype=np.int64)
    scale = np.nanstd(features[usable], axis=0)
    scaled = features / np.where(scale > 0, scale, 1)
    shuffled = np.random.default_rng([options.seed, 5]).permutation(regulators)
    near = pool[cKDTree(scaled[pool]).query(scaled[shuffled], k=min(_MATCHED + 1, len(pool)))[1]]
    # The nearest of every regulator first, then the second ones, and so on.
    drawn = np.array(list(dict.fromkeys(near.T.ravel().tolist()))[:n_null], dtype=np.int64)
    sources = np.array(list(dict.fromkeys([*regulators.tolist(), *drawn.tolist()])), dtype=np.int64)
    row_of = {token: row for row, token in enumerate(sources.tolist())}
    rows = np.array([row_of[token] for token in drawn.tolist()])
    found = rows[cKDTree(scaled[drawn]).query(scaled[regulators], k=min(_MATCHED + 1, len(drawn)))[1]]
    # A gene is not matched to itself.
    is_self = found == np.arange(len(regulators))[:, None]
    order = np.argsort(is_self, axis=1, kind="stable")
    return sources, np.take_along_axis(found, order, axis=1)[:, : found.shape[1] - 1]


def _blocked(
    cells: Cells, name: str, rows: Ints, options: NetworkOptions, genes: NetworkGenes, n_groups: int
) -> CellGroup:
    """The parts in which the cells of a group are resampled: donors, where there are enough, or random ones."""
    pairs = len(genes.sources) * len(genes.targets) * _BYTES_PER_PAIR * n_groups
    most = int(np.clip(_BLOCK_BYTES // pairs, 2, _BLOCKS))
    shuffled = np.random.default_rng([options.seed, 3]).permutation(len(rows))
    if options.donor_key is None:
        return CellGroup(name, rows, shuffled % most, min(most, len(rows)), None, blocks_are_donors=False)
    words, donors = np.unique(np.asarray(cells.column(options.donor_key))[rows].astype(str), return_inverse=True)
    if len(words) < _FEW_DONORS:
        return CellGroup(name, rows, shuffled % most, min(most, len(rows)), donors, blocks_are_donors=False)
    return CellGroup(name, rows, donors % most, min(most, len(words)), donors, blocks_are_donors=True)


def _warn_of_few(groups: Sequence[CellGroup], options: NetworkOptions) -> None:
    few = [f"{group.name} ({len(group.rows):,})" for group in groups if len(group.rows) < _FEW_CELLS]
    if few:
        msg = f"Networks of fewer than {_FEW_CELLS} cells are not stable: {some_of(few)}. See their half-split figure."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    donors = {group.name: len(np.unique(group.donors)) for group in groups if group.donors is not None}
    few = [f"{name} ({number})" for name, number in donors.items() if number < _FEW_DONORS]
    if few:
        msg = f"Intervals are over cells where there are fewer than {_FEW_DONORS} donors: {some_of(few)}."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)


def _presence(cells: Cells, rows: Ints, model: "LoadedModel") -> "csr_matrix":
    """1 where a cell has a gene, among the tokens the model reads, ``(n_cells, V)``."""
    from scipy.sparse import csr_matrix, vstack

    parts = []
    for packed in token_blocks(cells.tokens, rows, model):
        ones = np.ones(len(packed.input_ids), dtype=np.float32)
        shape = (len(packed.lengths), model.vocabulary.size)
        parts.append(csr_matrix((ones, packed.input_ids, packed.cu_seqlens), shape=shape))
    return csr_matrix(vstack(parts))


def infer_network(
    plan: NetworkPlan, *, names: Mapping[int, str] | None = None, progress: Progress | None = None
) -> GeneNetwork:
    """Networks of all groups by all methods; genes under their `names` by token id, or else by symbol."""
    import pandas as pd

    labels = gene_labels(plan, names)
    tables: list[pd.DataFrame] = []
    differing: list[pd.DataFrame] = []
    stable: list[dict[str, Any]] = []
    ranks: dict[str, Floats] = {}
    for method in plan.options.method:
        read = [_Read.of(plan, group, method, progress) for group in plan.groups]
        for one in read:
            tables.append(one.table(labels))
            stable.append({"group": one.group.name, "method": method, **one.stability()})
            if len(plan.options.method) > 1:
                ranks[one.group.name] = ranks.get(one.group.name, 0) + _ranks(one.weights)
        if len(read) > 1:
            differing += _differing(read, labels)
    if ranks:
        n_methods = len(plan.options.method)
        tables += [_consensus(plan, group, ranks[group.name] / n_methods, labels) for group in plan.groups]
    edges = as_edges(pd.concat(tables, ignore_index=True))
    frame = pd.concat(differing, ignore_index=True) if differing else pd.DataFrame()
    return GeneNetwork(edges, frame, _provenance(plan, stable))


def gene_labels(plan: NetworkPlan, names: Mapping[int, str] | None) -> NDArray[Any]:
    """Name of every token, ``(V,)``: as given, by symbol, or by Ensembl id where two share a symbol."""
    vocabulary = plan.model.vocabulary
    labels = vocabulary.gene_of.astype(object).copy()
    used = np.unique(np.concatenate([plan.genes.sources, plan.genes.targets]))
    texts = [str((names or {}).get(int(token)) or vocabulary.symbol_of(str(labels[token]))) for token in used]
    _, place, times = np.unique(texts, return_inverse=True, return_counts=True)
    for token, text, number in zip(used, texts, times[place], strict=True):
        labels[token] = text if number == 1 else labels[token]
    return labels


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What one method read from one group of cells, and the statistics of it."""

    plan: NetworkPlan
    group: CellGroup
    method: str
    evidence: Evidence
    comparison: Comparison
    usable: NDArray[np.bool_]
    n_cells: NDArray[np.float32]
    tested: Tested
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, plan: NetworkPlan, group: CellGroup, method: str, progress: Progress | None) -> "_Read":
        """Read the cells and test all edges."""
        evidence = _EVIDENCE[method](plan, group, progress)
        genes, options = plan.genes, plan.options
        comparison = Comparison(genes.n_regulators, genes.matched, relative=method == "perturbation")
        usable_RT, n_cells_RT = _usable_edges(plan, group, together=method in _READ_TOGETHER)
        effects_ST = _effects(plan, evidence, np.ones(group.n_blocks))
        weights_RT = np.where(usable_RT, comparison.weights(effects_ST), np.nan)
        tested = compare_with_matched(effects_ST, weights_RT, comparison, most=options.max_edges, seed=options.seed)
        return cls(plan, group, method, evidence, comparison, usable_RT, n_cells_RT, tested, weights_RT)

    @property
    def draw(self) -> Draw:
        """Weights over blocks of cells."""
        return _drawn(self.plan, self.evidence, self.comparison, self.usable)

    def table(self, labels: NDArray[Any]) -> "pd.DataFrame":
        """The edges that are kept."""
        import pandas as pd

        tested, options, genes = self.tested, self.plan.options, self.plan.genes
        n_draws = options.n_bootstrap if self.method not in _SLOW else 0
        low, high = intervals(
            self.draw,
            tested,
            self.group.n_blocks,
            n_draws=n_draws,
            confidence=options.confidence,
            seed=options.seed,
        )
        n_cells = self.n_cells[tested.row, tested.column]
        columns = {
            "source": labels[genes.sources[tested.row]],
            "target": labels[genes.targets[tested.column]],
            **{name: getattr(tested, name) for name in ("weight", "z", "p", "q", "null_mean", "null_sd")},
            "low": low,
            "high": high,
            "n_cells": n_cells,
            "group": self.group.name,
            "method": self.method,
            "sign": _signs(self.plan, self.group, self.method, tested),
            "n_donors": _donors_of(self.plan, self.group, tested),
        }
        return pd.DataFrame(columns)[list(COLUMNS)]

    def stability(self) -> dict[str, float]:
        """How much of the strongest edges is found again."""
        return stability(
            self.draw,
            self.group.n_blocks,
            blocks_are_donors=self.group.blocks_are_donors,
            seed=self.plan.options.seed,
            n_splits=1 if self.method in _SLOW else 5,
        ) | {"tested": float(self.tested.n_tested)}


def _effects(plan: NetworkPlan, evidence: Evidence, weights_B: Floats) -> NDArray[np.float32]:
    """Effects of all sources, those of genes on themselves NaN, ``(S, T)``."""
    effects_ST = evidence.effects(weights_B)
    effects_ST[plan.genes.sources[:, None] == plan.genes.targets] = np.nan
    return effects_ST


def _drawn(plan: NetworkPlan, evidence: Evidence, comparison: Comparison, usable_RT: NDArray[np.bool_]) -> Draw:
    def draw(weights_B: Floats) -> NDArray[np.float32]:
        weights_RT = comparison.weights(_effects(plan, evidence, weights_B))
        weights_RT[~usable_RT] = np.nan
        return weights_RT

    return draw


def _usable_edges(
    plan: NetworkPlan, group: CellGroup, *, together: bool
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Edges between genes that enough cells of a group have, if need be `together`, and cells with both, ``(R, T)``."""
    genes, least = plan.genes, plan.options.min_cells
    presence = _presence(plan.cells, group.rows, plan.model).tocsc()
    of_regulators, of_targets = presence[:, genes.regulators], presence[:, genes.targets]
    n_cells_RT = (of_regulators.T @ of_targets).toarray()
    if together:
        return n_cells_RT >= least, n_cells_RT
    found_R, found_T = (least <= part.sum(axis=0).A1 for part in (of_regulators, of_targets))
    return np.logical_and.outer(found_R, found_T), n_cells_RT


def _donors_of(plan: NetworkPlan, group: CellGroup, tested: Tested) -> Floats:
    """Donors with cells that have both genes, ``(E,)``."""
    if group.donors is None:
        return np.full(len(tested.row), np.nan)
    presence = _presence(plan.cells, group.rows, plan.model).tocsc()
    of_regulators = presence[:, plan.genes.regulators].tocsr()
    of_targets = presence[:, plan.genes.targets].tocsr()
    n_donors = np.zeros(len(tested.row))
    for donor in np.unique(group.donors):
        of_donor = group.donors == donor
        n_cells_RT = (of_regulators[of_donor].T @ of_targets[of_donor]).toarray()
        n_donors += n_cells_RT[tested.row, tested.column] > 0
    return n_donors


def _signs(plan: NetworkPlan, group: CellGroup, method: str, tested: Tested) -> Floats:
    """Signs of correlations, where they are asked for, ``(E,)``."""
    signed = plan.options.signed
    if signed == "never" or (signed == "auto" and method != "correlation"):
        return np.full(len(tested.row), np.nan)
    values = plan.log_counts[group.rows]
    genes = plan.genes
    blocks = np.zeros(len(group.rows), dtype=np.int64)
    moments = Moments.of(values, plan.columns(genes.regulators), plan.columns(genes.targets), blocks, 1)
    found: Floats = np.sign(moments.correlations(np.ones(1))[tested.row, tested.column]).astype(np.float64)
    return found


def _differing(read: Sequence[_Read], labels: NDArray[Any]) -> "Iterator[pd.DataFrame]":
    """Edges whose weight in a group differs from that in all others."""
    import pandas as pd

    plan, method = read[0].plan, read[0].method
    if method in _SLOW or not plan.options.n_permutations:
        return
    kind: Any = type(read[0].evidence)
    together = [[getattr(one.evidence, field.name) for one in read] for field in fields(kind)]
    evidence = kind(*(np.concatenate(parts) for parts in together))
    usable_RT = np.logical_and.reduce([one.usable for one in read])
    draw = _drawn(plan, evidence, read[0].comparison, usable_RT)
    of_block = np.repeat(np.arange(len(read)), [one.group.n_blocks for one in read])
    for number, one in enumerate(read):
        n_draws, seed = plan.options.n_permutations, plan.options.seed
        found, z, p, q = differences(draw, one.tested, of_block == number, n_draws=n_draws, seed=seed)
        columns = {
            "source": labels[plan.genes.sources[one.tested.row]],
            "target": labels[plan.genes.targets[one.tested.column]],
            "group": one.group.name,
            "method": method,
            "difference": found,
            "z": z,
            "p": p,
            "q": q,
        }
        yield pd.DataFrame(columns).dropna(subset=["difference"])


def _ranks(weights_RT: Floats) -> Floats:
    """Ranks from 0, the lowest, to 1, the highest; NaN where there are no weights."""
    from scipy.stats import rankdata

    finite = np.isfinite(weights_RT)
    ranks = np.full(weights_RT.shape, np.nan, dtype=np.float32)
    ranks[finite] = rankdata(weights_RT[finite]) / max(finite.sum(), 1)
    return ranks


def _consensus(plan: NetworkPlan, group: CellGroup, ranks_RT: Floats, labels: NDArray[Any]) -> "pd.DataFrame":
    """Edges by the mean of their ranks."""
    import pandas as pd

    _, n_cells_RT = _usable_edges(plan, group, together=False)
    nothing = Comparison(plan.genes.n_regulators, np.empty((0, 0), dtype=np.int64), relative=False)
    tested = compare_with_matched(ranks_RT, ranks_RT, nothing, most=plan.options.max_edges, seed=plan.options.seed)
    columns = {
        "source": labels[plan.genes.sources[tested.row]],
        "target": labels[plan.genes.targets[tested.column]],
        "weight": tested.weight,
        "n_cells": n_cells_RT[tested.row, tested.column],
        "n_donors": _donors_of(plan, group, tested),
        "group": group.name,
        "method": CONSENSUS,
    }
    return pd.DataFrame(columns)


def _provenance(plan: NetworkPlan, stable: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where a network comes from, and how stable it is; lists by column, as files of AnnData take them."""
    given = {name: value for name, value in asdict(plan.options).items() if value is not None}
    network = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    names = list(dict.fromkeys(name for one in stable for name in one))
    return describe_run(
        plan.model,
        plan.cells.tokens,
        network=network,
        panel=plan.genes.panel.record(),
        stability={name: [one.get(name, float("nan")) for one in stable] for name in names},
        n_targets=len(plan.genes.targets),
        n_matched_genes=len(plan.genes.sources) - plan.genes.n_regulators,
        sign_source="correlation of log counts",
    )


def _correlation(plan: NetworkPlan, group: CellGroup, progress: Progress | None) -> Evidence:
    values = plan.log_counts[group.rows]
    sources, targets = plan.columns(plan.genes.sources), plan.columns(plan.genes.targets)
    return Moments.of(values, sources, targets, group.blocks, group.n_blocks)


_EVIDENCE = {"correlation": _correlation}
_READ_TOGETHER = ("attention", "perturbation")
"""Methods that read both genes in the same cell."""
_SLOW = ("boosting",)
"""Methods that are not run again for every draw of cells."""
