"""A network before it is inferred: its genes, those matched to them, its cells and the blocks these are drawn in."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geneformer.applications.network_evidence import log_counts
from geneformer.applications.network_statistics import Floats, Ints
from geneformer.applications.networks import ALL_CELLS
from geneformer.errors import ConstantLabelError, CountsError, GeneformerWarning, NoCellsError
from geneformer.finetuning.labels import NO_LABEL, distinct_words
from geneformer.genes.lists import named_genes, transcription_factors
from geneformer.genes.lookup import GenePanel, resolve_panel
from geneformer.inference.cells import Cells, check_pairing, token_blocks
from geneformer.options import NetworkOptions, RuntimeOptions
from geneformer.options._fields import some_of
from geneformer.perturbation.plan import gene_table

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from geneformer.models.loading import LoadedModel

TRANSCRIPTION_FACTORS, ALL_GENES = "tf", "all"

_MATCHED = 50
"""Genes that each regulator is compared with, at most."""

_MATCHED_PAIRS = 20
"""Pairs of matched genes that each pair of regulators is compared with."""

_BLOCKS = 20
"""Parts that the cells of a group are resampled in, at most."""

_BLOCK_BYTES = 2**29
"""Memory for sums over pairs of genes, of all blocks."""

_BYTES_PER_PAIR = 6

_FEW_CELLS, _FEW_DONORS = 500, 3
"""Below these, networks are not stable."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkGenes:
    """Token ids of the genes of a network, and who is compared with whom."""

    sources: Ints
    """Regulators and genes matched to them, ``(S, 1)``; or pairs of such, ``(S, 2)``."""
    n_regulators: int
    matched: Ints
    """Rows of the sources that each regulator is compared with, ``(R, K)``."""
    targets: Ints

    @property
    def regulators(self) -> Ints:
        """Sources that edges start from, ``(R, m)``."""
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
    pairs: NetworkGenes | None
    groups: Sequence[CellGroup]
    panel: GenePanel

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
    genes, pairs, panel = _network_genes(cells, model, options, rows_of)
    groups = [_blocked(cells, name, rows, options, genes, len(rows_of)) for name, rows in rows_of.items()]
    _warn_of_few(groups)
    plan = NetworkPlan(cells, model, options, runtime, genes, pairs, groups, panel)
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
) -> tuple[NetworkGenes, NetworkGenes | None, GenePanel]:
    """Regulators, targets and matched genes that the cells allow."""
    tokens, size = cells.tokens, model.vocabulary.size
    n_cells = np.max([presence_of(cells, rows, model).sum(axis=0).A1 for rows in rows_of.values()], axis=0)
    is_usable = n_cells >= options.min_cells
    is_usable[model.vocabulary.special_ids] = False
    table = gene_table(tokens, np.concatenate(list(rows_of.values())), {}, model)
    features = np.full((size, 2), np.nan)
    features[table["token"].to_numpy()] = np.stack(
        [table["mean_rank"].to_numpy(), np.log(table["n_cells"].to_numpy())], axis=1
    )
    panel = _panel(options.regulators, model, options, is_usable, "regulators")
    in_pairs = [tuple(name.strip() for name in pair.split("+")) for pair in options.pairs]
    of_pairs = resolve_panel([name for pair in in_pairs for name in pair], model.vocabulary, unknown="error")
    for name in [name for name, token in of_pairs.token_of.items() if not is_usable[token]]:
        of_pairs.leave_out(name, f"in fewer than {options.min_cells} cells")
    of_pairs.check("error")
    regulators = np.array(list(dict.fromkeys([*panel.tokens, *of_pairs.tokens])), dtype=np.int64)
    targets = np.flatnonzero(is_usable)
    if options.targets:
        asked = _panel(options.targets, model, options, is_usable, "targets")
        targets = np.array(asked.tokens, dtype=np.int64)
    sources, matched_RK = _matched(features, regulators, np.flatnonzero(is_usable), options)
    genes = NetworkGenes(sources[:, None], len(regulators), matched_RK, targets)
    pairs = [tuple(of_pairs.token_of[name] for name in pair) for pair in in_pairs]
    return genes, _paired(genes, pairs, options) if pairs else None, panel


def _paired(genes: NetworkGenes, pairs: Sequence[tuple[int, ...]], options: NetworkOptions) -> NetworkGenes:
    """Pairs of regulators, each with pairs of genes that are matched to its two."""
    row_of = {token: row for row, token in enumerate(genes.sources[:, 0].tolist())}
    generator = np.random.default_rng([options.seed, 19])
    sources: list[tuple[int, ...]] = list(pairs)
    matched = np.empty((len(pairs), _MATCHED_PAIRS if genes.matched.shape[1] > 1 else 0), dtype=np.int64)
    for number, pair in enumerate(pairs):
        near = [genes.sources[genes.matched[row_of[token]], 0] for token in pair]
        for place in range(matched.shape[1]):
            drawn = tuple(int(generator.choice(genes_of)) for genes_of in near)
            while len(set(drawn)) < len(drawn):
                drawn = tuple(int(generator.choice(genes_of)) for genes_of in near)
            matched[number, place] = len(sources)
            sources.append(drawn)
    return NetworkGenes(np.array(sources, dtype=np.int64), len(pairs), matched, genes.targets)


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
    n_bytes = len(genes.sources) * len(genes.targets) * _BYTES_PER_PAIR * n_groups
    most = int(np.clip(_BLOCK_BYTES // n_bytes, 2, _BLOCKS))
    shuffled = np.random.default_rng([options.seed, 3]).permutation(len(rows))
    if options.donor_key is None:
        return CellGroup(name, rows, shuffled % most, min(most, len(rows)), None, blocks_are_donors=False)
    words, donors = np.unique(np.asarray(cells.column(options.donor_key))[rows].astype(str), return_inverse=True)
    if len(words) < _FEW_DONORS:
        return CellGroup(name, rows, shuffled % most, min(most, len(rows)), donors, blocks_are_donors=False)
    return CellGroup(name, rows, donors % most, min(most, len(words)), donors, blocks_are_donors=True)


def _warn_of_few(groups: Sequence[CellGroup]) -> None:
    few = [f"{group.name} ({len(group.rows):,})" for group in groups if len(group.rows) < _FEW_CELLS]
    if few:
        msg = f"Networks of fewer than {_FEW_CELLS} cells are not stable: {some_of(few)}. See their half-split figure."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    donors = {group.name: len(np.unique(group.donors)) for group in groups if group.donors is not None}
    few = [f"{name} ({number})" for name, number in donors.items() if number < _FEW_DONORS]
    if few:
        msg = f"Intervals are over cells where there are fewer than {_FEW_DONORS} donors: {some_of(few)}."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)


def presence_of(cells: Cells, rows: Ints, model: "LoadedModel") -> "csr_matrix":
    """1 where a cell has a gene, among the tokens the model reads, ``(n_cells, V)``."""
    from scipy.sparse import csr_matrix, vstack

    parts = []
    for packed in token_blocks(cells.tokens, rows, model):
        ones = np.ones(len(packed.input_ids), dtype=np.float32)
        shape = (len(packed.lengths), model.vocabulary.size)
        parts.append(csr_matrix((ones, packed.input_ids, packed.cu_seqlens), shape=shape))
    return csr_matrix(vstack(parts))
