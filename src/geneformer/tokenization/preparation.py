"""Every check that needs no full reading, made on all inputs before work on the first one starts."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from geneformer.errors import NoCellsError
from geneformer.options import TokenizeOptions
from geneformer.tokenization.cells import OutputColumn, filter_values, given_totals, kept_cells, plan_columns
from geneformer.tokenization.checks import check_sample
from geneformer.tokenization.counts import open_counts, resolve_inputs, source_names
from geneformer.tokenization.frames import texts
from geneformer.tokenization.source import CountSource
from geneformer.tokenization.units import PreparedSource
from geneformer.vocab.gene_ids import INDEX, GeneMatch, check_matched_share, resolve_genes
from geneformer.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anndata import AnnData

_FEW_GENES = 0.2
"""A matrix with fewer columns than this share of the vocabulary was probably reduced to chosen genes."""

_NAMES_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class Preparation:
    """Inputs ready to be tokenized.

    Attributes
    ----------
    sources
        The inputs in order.
    matches
        Which of their columns is which gene.
    columns
        Columns of `obs` that go into the dataset.
    remarks
        What looks wrong but does not stop the work.
    """

    sources: tuple[PreparedSource, ...]
    matches: tuple[GeneMatch, ...]
    columns: tuple[OutputColumn, ...]
    remarks: tuple[str, ...]

    @property
    def n_cells(self) -> int:
        """Cells of all inputs."""
        return sum(prepared.source.n_cells for prepared in self.sources)


def prepare(
    inputs: "Iterable[str | Path | AnnData]", vocabulary: Vocabulary, options: TokenizeOptions, stack: ExitStack
) -> Preparation:
    """Open and check all inputs; `stack` closes them.

    Raises
    ------
    CountsError
        An input that cannot be used; see `geneformer.errors`.
    """
    sources: list[CountSource] = []
    for item in resolve_inputs(inputs):
        sources.append(open_counts(item, options.layer))
        stack.callback(sources[-1].close)
    if not any(source.n_cells for source in sources):
        msg = f"There are no cells in {', '.join(source.label for source in sources)}."
        raise NoCellsError(msg)
    columns, remarks = plan_columns(sources, options.keep)
    prepared, matches = [], []
    for source, name in zip(sources, source_names(sources), strict=True):
        ready, match, more = _prepare_source(source, name, vocabulary, options)
        prepared.append(ready)
        matches.append(match)
        remarks.extend(more)
    if not any(_n_kept(ready) for ready in prepared):
        filtered = [ready.source for ready in prepared if ready.kept is not None]
        told = "; ".join(f"{source.label}: {filter_values(source)}" for source in filtered)
        total = sum(source.n_cells for source in sources)
        msg = f"0 of {total:,} cells have `filter_pass` true. Values seen: {told}. Correct the column, or drop it."
        raise NoCellsError(msg)
    remarks.extend(_differing_genes(prepared, matches))
    return Preparation(tuple(prepared), tuple(matches), tuple(columns), tuple(remarks))


def _prepare_source(
    source: CountSource, name: str, vocabulary: Vocabulary, options: TokenizeOptions
) -> tuple[PreparedSource, GeneMatch, list[str]]:
    names = {INDEX: source.var.index(0, source.n_genes)}
    for column in source.var.names:
        if source.var.kind(column) == pa.string() or column == options.gene_ids:
            names[column] = texts(source.var, column)
    match = _match(names, vocabulary, options)
    check_sample(source, options)
    _check_share_of_sample(source, match, options)
    kept = kept_cells(source)
    totals = given_totals(source, kept)
    ready = PreparedSource(source, name, match.positions, kept, totals)
    remarks = []
    if source.n_genes < _FEW_GENES * len(vocabulary.genes):
        remarks.append(
            f"{source.label} has only {source.n_genes:,} genes: it looks reduced to chosen genes. Ranks compare all "
            "genes of a cell; give the full matrix if there is one."
        )
    repeated = _n_repeated_names(source)
    if repeated:
        remarks.append(
            f"{source.label}: {repeated:,} cells share their name with another one; `cell_id` does not tell them apart."
        )
    if source.n_other_features:
        remarks.append(f"{source.label}: {source.n_other_features:,} features that are no genes are left out.")
    if kept is not None and not kept.any():
        remarks.append(f"{source.label}: no cell has `filter_pass` true ({filter_values(source)}).")
    return ready, match, remarks


def _match(names: dict[str, Any], vocabulary: Vocabulary, options: TokenizeOptions) -> GeneMatch:
    """Ensembl ids by the vocabulary's own tables alone, as published; symbols also by the history of another."""
    match = resolve_genes(names, vocabulary, options.gene_ids, borrow=False)
    if match.kind == "ensembl" or vocabulary.tables.has_aliases:
        return match
    return resolve_genes(names, vocabulary, options.gene_ids)


def _check_share_of_sample(source: CountSource, match: GeneMatch, options: TokenizeOptions) -> None:
    """Refuse early where a sample of whole cells has next to nothing in the vocabulary; the end decides exactly."""
    if not source.matrix.seekable:
        return
    sample = source.sample()
    values = np.nan_to_num(np.asarray(sample.values, dtype=np.float64), posinf=0.0, neginf=0.0)
    counts = np.bincount(sample.genes, weights=values, minlength=source.n_genes)
    check_matched_share(match, counts, options.min_matched / 2)


def _n_repeated_names(source: CountSource) -> int:
    hashes = np.empty(source.n_cells, dtype=np.int64)
    for start in range(0, source.n_cells, _NAMES_AT_ONCE):
        names = source.cell_names(start, min(start + _NAMES_AT_ONCE, source.n_cells))
        hashes[start : start + len(names)] = [hash(name) for name in names]
    return source.n_cells - len(np.unique(hashes))


def _n_kept(ready: PreparedSource) -> int:
    return ready.source.n_cells if ready.kept is None else int(ready.kept.sum())


def _differing_genes(prepared: list[PreparedSource], matches: list[GeneMatch]) -> list[str]:
    """A remark where inputs measure clearly different genes: their zeros then differ in meaning."""
    if len(matches) < 2:
        return []
    gene_sets = [np.unique(match.positions[match.positions >= 0]) for match in matches]
    everywhere = gene_sets[0]
    for genes in gene_sets[1:]:
        everywhere = np.intersect1d(everywhere, genes)
    largest = max(range(len(gene_sets)), key=lambda number: len(gene_sets[number]))
    if len(everywhere) >= 0.9 * len(gene_sets[largest]):
        return []
    listed = ", ".join(f"{ready.name} {len(genes):,}" for ready, genes in zip(prepared[:6], gene_sets[:6], strict=True))
    return [
        f"The inputs measure different genes ({listed}; {len(everywhere):,} in all of them): a gene missing from one "
        "looks like a gene not expressed there."
    ]
