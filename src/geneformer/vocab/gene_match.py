"""Which column of a matrix is which gene of a vocabulary, and the account of what was matched and what was not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import GeneIdsNotFoundError, TooFewGenesMatchedError
from geneformer.vocab.gene_lookup import HOW, MISSING_CODE, WITHHELD_CODE
from geneformer.vocab.identifiers import UNSUPPORTED
from geneformer.vocab.vocabulary import Vocabulary

MAX_UNNAMED = 0.01
"""Most of the counts that may lie in columns without any name."""

_LABELS = {
    "id": "by Ensembl id",
    "symbol": "by symbol",
    "retired": "by retired Ensembl id",
    "alias": "by earlier symbol",
}
_REPAIRS = {
    "version": "version suffix removed",
    "prefix": "assembly prefix removed",
    "par_y": "_PAR_Y removed",
    "case": "case corrected",
    "spaces": "spaces removed",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneMatch:
    """Columns of a matrix matched to the genes of a vocabulary.

    Attributes
    ----------
    vocabulary
        What was matched against.
    positions
        Index into `vocabulary.genes` of each column, -1 where it is none of them, ``(n,)``. Columns of the same
        position are to be summed.
    names
        The name each column was looked up by, ``(n,)`` text; empty where it has none.
    hows
        Index into `gene_lookup.HOW` of each column: by id, symbol, retired id, earlier symbol; or why not, ``(n,)``.
    column
        Where the names were found: a column of `var`, or "index".
    kind
        "ensembl" or "symbol": what most of the matched names are.
    n_repaired
        Names that matched after a repair, by repair: "version", "prefix", "par_y", "case", "spaces".
    n_from_other
        Columns without a name there that were matched by their name in another column of `var`.
    foreign
        Names left out that are of another species or kind, by species or kind.
    """

    vocabulary: Vocabulary
    positions: NDArray[np.int32]
    names: NDArray[Any]
    hows: NDArray[np.int8]
    column: str
    kind: str
    n_repaired: Mapping[str, int]
    n_from_other: int
    foreign: Mapping[str, int]

    @property
    def n_genes(self) -> int:
        """Columns of the matrix."""
        return len(self.positions)

    @property
    def n_matched(self) -> int:
        """Columns that are a gene of the vocabulary."""
        return int(np.count_nonzero(self.positions >= 0))

    @property
    def n_distinct(self) -> int:
        """Genes of the vocabulary that the matrix has."""
        return len(np.unique(self.positions[self.positions >= 0]))

    @property
    def n_summed(self) -> int:
        """Columns added to another one of the same gene."""
        return self.n_matched - self.n_distinct

    @property
    def n_missing(self) -> int:
        """Columns without any name."""
        return int(np.count_nonzero(self.hows == MISSING_CODE))

    @property
    def n_by_how(self) -> dict[str, int]:
        """Matched columns by "id", "symbol", "retired" and "alias"."""
        return {how: int(np.count_nonzero(self.hows == HOW.index(how))) for how in _LABELS}

    def merged(self) -> dict[str, list[str]]:
        """For each gene that several columns stand for, the names of these columns."""
        order = np.argsort(self.positions, kind="stable")
        order = order[self.positions[order] >= 0]
        starts = np.flatnonzero(np.diff(self.positions[order], prepend=-1))
        groups = np.split(order, starts[1:]) if len(order) else []
        return {
            str(self.vocabulary.genes[self.positions[group[0]]]): [str(self.names[row]) for row in group]
            for group in groups
            if len(group) > 1
        }

    def audit(self) -> dict[str, list[str]]:
        """One entry per column of the matrix: "name", "gene" (empty if none) and "how" it was resolved."""
        genes = np.append(self.vocabulary.genes, "")
        return {
            "name": self.names.tolist(),
            "gene": genes[self.positions].tolist(),
            "how": [HOW[code] for code in self.hows],
        }

    def report(self, counts_per_column: ArrayLike, *, examples: int = 5) -> "GeneReport":
        """The account of the match.

        Parameters
        ----------
        counts_per_column
            Sum over all cells of each column of the matrix, ``(n,)``.
        examples
            How many of the left out names to list, those with most counts first.
        """
        counts = np.asarray(counts_per_column, dtype=np.float64).ravel()
        total = float(counts.sum()) or 1.0
        out = np.flatnonzero(self.positions < 0)
        named = out[self.hows[out] != MISSING_CODE]
        top = named[np.argsort(-counts[named], kind="stable")][:examples]
        return GeneReport(
            match=self,
            share_matched=float(counts[self.positions >= 0].sum()) / total,
            share_left_out=float(counts[out].sum()) / total,
            share_missing=float(counts[self.hows == MISSING_CODE].sum()) / total,
            unmatched={str(self.names[row]): float(counts[row]) / total for row in top},
        )


@dataclass(frozen=True, kw_only=True)
class GeneReport:
    """How many genes matched, how, and which share of the counts that is.

    Attributes
    ----------
    match
        What it is about.
    share_matched, share_left_out, share_missing
        Shares of all counts in matched columns, in the others, and in columns without any name.
    unmatched
        Names left out with most counts, and the share of all counts of each.
    """

    match: GeneMatch
    share_matched: float
    share_left_out: float
    share_missing: float
    unmatched: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The account as plain numbers and text, for a manifest."""
        match = self.match
        return {
            "vocabulary": match.vocabulary.name,
            "column": match.column,
            "kind": match.kind,
            "genes_read": match.n_genes,
            "genes_matched": match.n_matched,
            "genes_summed": match.n_summed,
            "genes_left_out": match.n_genes - match.n_matched,
            "genes_without_name": match.n_missing,
            "matched_by": match.n_by_how,
            "matched_by_another_column": match.n_from_other,
            "repaired": dict(match.n_repaired),
            "other_kinds": dict(match.foreign),
            "share_of_counts_matched": self.share_matched,
            "share_of_counts_left_out": self.share_left_out,
            "share_of_counts_without_name": self.share_missing,
            "left_out_most_counts": dict(self.unmatched),
        }

    def rows(self) -> list[tuple[str, str]]:
        """The account as lines of a table: what, and how many."""
        match = self.match
        rows = [("genes read", f"{match.n_genes:,}"), ("identifiers found in", match.column)]
        rows.append(("genes matched", f"{match.n_matched:,} ({self.share_matched:.1%} of the counts)"))
        rows += [(f"  {_LABELS[how]}", f"{number:,}") for how, number in match.n_by_how.items() if number]
        if match.n_from_other:
            rows.append(("  by another column", f"{match.n_from_other:,}"))
        rows += [(f"  {_REPAIRS[repair]}", f"{number:,}") for repair, number in match.n_repaired.items()]
        rows.append(("summed into another", f"{match.n_summed:,}"))
        rows.append(("left out", f"{match.n_genes - match.n_matched:,} ({self.share_left_out:.1%} of the counts)"))
        if match.n_missing:
            rows.append(("  without a name", f"{match.n_missing:,} ({self.share_missing:.1%} of the counts)"))
        withheld = int(np.count_nonzero(match.hows == WITHHELD_CODE))
        if withheld:
            rows.append(("  retired, current one is there", f"{withheld:,}"))
        if self.unmatched:
            rows.append(("  most counts in", ", ".join(self.unmatched)))
        return rows


def check_matched_share(match: GeneMatch, counts_per_column: ArrayLike, min_matched: float) -> float:
    """Share of all counts in matched columns, once that is enough.

    Parameters
    ----------
    match
        Which column is which gene.
    counts_per_column
        Sum over all cells of each column of the matrix, ``(n,)``.
    min_matched
        Least share. Without any counts nothing is refused and the share is 0.

    Raises
    ------
    TooFewGenesMatchedError
        Less than that lies in genes of the vocabulary.
    GeneIdsNotFoundError
        More than 1 % of the counts lie in columns without any name.
    """
    counts = np.asarray(counts_per_column, dtype=np.float64).ravel()
    report = match.report(counts)
    if not counts.any():
        return report.share_matched
    if report.share_matched < min_matched:
        msg = (
            f'Only {report.share_matched:.1%} of the counts lie in genes of vocabulary "{match.vocabulary.name}" '
            f"({match.n_matched:,} of {match.n_genes:,} genes, identifiers from {_place(match.column)}); at least "
            f"{min_matched:.0%} are needed. Most counts are left out in {_quoted(report.unmatched)}."
            f"{_suspicion(match)} Name the column of var with Ensembl ids or symbols with gene_ids=, "
            "or lower min_matched= if that is meant."
        )
        raise TooFewGenesMatchedError(msg)
    if report.share_missing > MAX_UNNAMED:
        msg = (
            f"{report.share_missing:.1%} of the counts lie in {match.n_missing:,} genes without an identifier in "
            f"{_place(match.column)} (empty, None or NaN); at most {MAX_UNNAMED:.0%} may. Fill in the "
            "identifiers, remove these genes, or name another column of var with gene_ids=."
        )
        raise GeneIdsNotFoundError(msg)
    return report.share_matched


def _suspicion(match: GeneMatch) -> str:
    """What the names left out look like, if they look like something else."""
    if not match.foreign:
        return ""
    kind = max(match.foreign, key=lambda name: match.foreign[name])
    share = match.foreign[kind] / max(match.n_genes - match.n_missing, 1)
    if share < 0.1:
        return ""
    if kind in UNSUPPORTED:
        return f" {share:.0%} of the identifiers are {kind}. {UNSUPPORTED[kind]}"
    return f" {share:.0%} of the identifiers are {kind} genes; translate these to human orthologs first."


def _place(column: str) -> str:
    return "the index of var" if column == "index" else f'var["{column}"]'


def _quoted(names: Mapping[str, float]) -> str:
    return ", ".join(f'"{name}"' for name in names) or "genes without a name"
