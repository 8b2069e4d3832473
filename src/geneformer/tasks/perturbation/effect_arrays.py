"""Effects as arrays: which perturbation, which cell, which value; and what each perturbation is called."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer.results.perturbation import EFFECT_COLUMNS, EXACT, PerturbationEffects
from geneformer.vocab.vocabulary import BUNDLED, Vocabulary

if TYPE_CHECKING:
    import pandas as pd

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]

UNKNOWN_TOKEN = -1
PARTS = ("perturbation", "genes", "edit")
"""What tells perturbations apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Effects of one kind.

    Attributes
    ----------
    group
        What each is an effect of, ``(n,)``: a row of `Perturbed.table`.
    cell
        Cell of each, ``(n,)``: a place in `Perturbed.cell_ids`.
    value
        The effects, ``(n,)``; all finite.
    """

    group: Ints
    cell: Ints
    value: Floats

    def __len__(self) -> int:
        return len(self.value)

    def counts(self, n_groups: int) -> Ints:
        """Effects of each group, ``(G,)``."""
        return np.bincount(self.group, minlength=n_groups)

    def means(self, n_groups: int) -> Floats:
        """Mean effect of each group, ``(G,)``; NaN where there is none."""
        return mean_by(self.value, self.group, n_groups)

    def by_group(self) -> "Values":
        """The same, group by group; the order within a group stays."""
        order = np.argsort(self.group, kind="stable")
        return Values(self.group[order], self.cell[order], self.value[order])

    def distances(self) -> "Values":
        """Similarities as distances: 1 - value."""
        return Values(self.group, self.cell, 1.0 - self.value)


def mean_by(values: Floats, groups: Ints, n_groups: int) -> Floats:
    """Mean of each group, ``(G,)``; NaN where there is no value."""
    counts = np.bincount(groups, minlength=n_groups)
    sums = np.bincount(groups, weights=values, minlength=n_groups)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


class Perturbed:
    """Effects of a run by kind and target.

    Parameters
    ----------
    effects
        The run.

    Attributes
    ----------
    table
        One row per perturbation, by ascending token id: `Gene`, `Gene_name` and `Ensembl_ID` as in the published
        statistics, `perturbation`, `genes` and `edit`.
    cell_ids
        Names of the cells, ``(C,)``.
    """

    def __init__(self, effects: PerturbationEffects) -> None:
        self.source = effects
        self.names = GeneNames(effects)
        texts = [name for name in EFFECT_COLUMNS if name != "value"]
        columns = {name: effects.effects.column(name).to_pandas().astype("category") for name in texts}
        self._codes = {name: np.asarray(column.cat.codes, dtype=np.intp) for name, column in columns.items()}
        self._texts = {name: [str(text) for text in column.cat.categories] for name, column in columns.items()}
        self._value = np.asarray(effects.effects.column("value").to_numpy(), dtype=np.float64)
        self.cell_ids: NDArray[Any] = np.array(self._texts["cell_id"], dtype=object)
        self.table, self._group = self._perturbations()

    def __len__(self) -> int:
        return len(self.table)

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Forget every other perturbation, ``(G,)`` true where it stays."""
        place = np.where(kept, np.cumsum(kept) - 1, -1)
        self.table = self.table[kept].reset_index(drop=True)
        self._group = np.where(self._group < 0, -1, place[self._group])

    def kinds(self) -> list[str]:
        """Kinds of effects the run has, exact or estimated."""
        return [self._texts["effect"][code] for code in np.unique(self._codes["effect"])]

    def targets(self, effect: str) -> list[str]:
        """Targets that effects of a kind are told towards, in order of their first row."""
        rows = self._rows(effect)
        codes, first = np.unique(self._codes["target"][rows], return_index=True)
        return [self._texts["target"][code] for code in codes[np.argsort(first)]]

    def values(self, effect: str, target: str | None = None, *, exact: bool = True) -> Values:
        """Effects of a kind, towards one target or all; those that are no number are left out."""
        rows = self._rows(effect, exact=exact)
        if target is not None:
            rows = rows[self._codes["target"][rows] == self._code("target", target)]
        rows = rows[np.isfinite(self._value[rows])]
        return Values(self._group[rows], self._codes["cell_id"][rows], self._value[rows])

    def pairs(self, effect: str) -> tuple[Ints, list[str]]:
        """Target of each effect of a kind, ``(n,)``, and what targets are called; rows as in `values`."""
        rows = self._rows(effect)
        rows = rows[np.isfinite(self._value[rows])]
        return self._codes["target"][rows], self._texts["target"]

    def cell_column(self, name: str) -> "pd.Series[Any]":
        """What is known about the cells, in the order of `cell_ids`."""
        cells = self.source.cells.to_pandas()
        known = cells.set_index(cells["cell_id"].astype(str))[name]
        column: pd.Series[Any] = known[~known.index.duplicated()].reindex(self.cell_ids)
        return column

    def _code(self, column: str, text: str) -> int:
        return self._texts[column].index(text) if text in self._texts[column] else -1

    def _rows(self, effect: str, *, exact: bool = True) -> Ints:
        is_exact = self._codes["method"] == self._code("method", EXACT)
        wanted = self._codes["effect"] == self._code("effect", effect)
        return np.flatnonzero(wanted & (is_exact == exact) & (self._group >= 0))

    def _perturbations(self) -> tuple["pd.DataFrame", Ints]:
        """The table, and the row of it of every effect."""
        import pandas as pd

        key = np.zeros(len(self._value), dtype=np.int64)
        for name in PARTS:
            key = key * max(len(self._texts[name]), 1) + self._codes[name]
        distinct, first, group = np.unique(key, return_index=True, return_inverse=True)
        told = {name: [self._texts[name][code] for code in self._codes[name][first]] for name in PARTS}
        genes = [tuple(text.split("+")) for text in told["genes"]]
        tokens = [self.names.tokens(some) for some in genes]
        order = sorted(
            range(len(distinct)), key=lambda row: (tokens[row], told["edit"][row], told["perturbation"][row])
        )
        place = np.empty(len(order), dtype=np.intp)
        place[order] = np.arange(len(order))
        symbols = [self.names.symbols(some) for some in genes]
        table = {"Gene": _single(tokens), "Gene_name": _single(symbols), "Ensembl_ID": _single(genes), **told}
        frame = pd.DataFrame({name: column_of(column) for name, column in table.items()})
        return frame.iloc[order].reset_index(drop=True), place[group.reshape(-1)]


class GeneNames:
    """Token ids and symbols of genes: from the run, or else from the vocabulary it names.

    Parameters
    ----------
    effects
        The run.
    """

    def __init__(self, effects: PerturbationEffects) -> None:
        genes = effects.genes
        names = [str(gene) for gene in genes.column("gene").to_pylist()]
        self._token = dict(zip(names, genes.column("token").to_pylist(), strict=True))
        self._symbol = dict(zip(names, genes.column("symbol").to_pylist(), strict=True))
        named = str(effects.provenance.get("vocabulary"))
        told = effects.provenance.get("vocabulary_fingerprint")
        bundled = Vocabulary.load(named) if named in BUNDLED else None
        self._vocabulary = bundled if bundled is not None and told in (None, bundled.fingerprint) else None

    def tokens(self, genes: Sequence[str]) -> tuple[int, ...]:
        """Token id of each; `UNKNOWN_TOKEN` where neither knows it."""
        spare = {} if self._vocabulary is None else self._vocabulary.token_of
        return tuple(int(self._token.get(gene, spare.get(gene, UNKNOWN_TOKEN))) for gene in genes)

    def symbols(self, genes: Sequence[str]) -> tuple[str, ...]:
        """Symbol of each, or its id where none is known."""
        return tuple(self._symbol.get(gene) or self._spare_symbol(gene) for gene in genes)

    def _spare_symbol(self, gene: str) -> str:
        return gene if self._vocabulary is None else self._vocabulary.symbol_of(gene)


def _single(entries: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """The entry of a perturbation of one gene itself, the tuple of several."""
    return (entry[0] if len(entry) == 1 else entry for entry in entries)


def column_of(entries: Iterable[Any]) -> NDArray[Any]:
    """Entries as a column: whole numbers where all are, else objects such as tuples."""
    listed = list(entries)
    if listed and all(isinstance(entry, int) for entry in listed):
        return np.array(listed, dtype=np.int64)
    column = np.empty(len(listed), dtype=object)
    column[:] = listed
    return column
