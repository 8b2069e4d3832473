"""Raw numbers of published layouts as effects of a run, which the statistics of this package read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import pyarrow as pa

from geneformer.compat.perturbation.files import CELL, RawFile
from geneformer.errors import DatasetError, StateError, VocabularyMismatchError
from geneformer.results.perturbation import (
    EXACT,
    GENE_SIMILARITY,
    SHIFT,
    SIMILARITY,
    PerturbationEffects,
)
from geneformer.tasks.perturbation.anchored_statistics import ALONE, ANCHOR, TOGETHER
from geneformer.vocab.vocabulary import Vocabulary

_TRIPLE = (ANCHOR, ALONE, TOGETHER)

CELL_NAME = "name"
"""Column of the cells with what they are called, where that is known; files may call two cells the same."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How raw numbers are read.

    Attributes
    ----------
    vocabulary
        Genes of the tokens.
    states
        Names of the states, in the order in which files of old have their numbers.
    triples
        Keep all three numbers of a gene and an anchor apart; else only that of both.
    anchor
        Read what perturbing this token does to other genes, as if it were their own effect; nothing else.
    """

    vocabulary: Vocabulary
    states: tuple[str, ...] = ()
    triples: bool = False
    anchor: int | None = None

    def effects(self, files: Iterable[RawFile]) -> PerturbationEffects:
        """Everything the files hold, as one run.

        Raises
        ------
        VocabularyMismatchError
            A token that the vocabulary does not have.
        StateError
            Tuples of numbers that do not fit the states.
        DatasetError
            Numbers that are none.
        """
        rows = _Rows(self)
        for file in files:
            for state, entries in file.by_state.items():
                for (perturbed, affected), values in entries.items():
                    if values:
                        rows.add(file, state, perturbed, affected, values)
            rows.end_file(file)
        return rows.effects()


@dataclass(slots=True)
class _Column:
    """Texts, each stored once, and which of them every row has."""

    number_of: dict[str, int] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)

    def add(self, text: str, times: int) -> None:
        self.numbers.extend([self.number_of.setdefault(text, len(self.number_of))] * times)

    def array(self) -> pa.DictionaryArray:
        texts = pa.array(list(self.number_of), pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(self.numbers, pa.int32()), texts)


@dataclass(slots=True)
class _Rows:
    """Effects in the making."""

    reading: Reading
    genes: _Column = field(default_factory=_Column)
    kinds: _Column = field(default_factory=_Column)
    targets: _Column = field(default_factory=_Column)
    values: list[float] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    cell_names: list[str | None] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    _widest: int = 0

    def add(self, file: RawFile, state: Any, perturbed: Any, affected: Any, values: Sequence[Any]) -> None:
        """One entry of a file."""
        anchor = self.reading.anchor
        if anchor is not None:
            if perturbed != anchor or affected == CELL:
                return
            perturbed, affected = affected, CELL
        genes = self._gene_names(perturbed, file)
        if affected != CELL:
            self._add(file, genes, GENE_SIMILARITY, self._gene_names(affected, file), values)
        elif state is not None:
            self._add(file, genes, SHIFT, str(state), values)
        elif isinstance(values[0], tuple | list):
            self._add_tuples(file, genes, values)
        else:
            self._add(file, genes, SIMILARITY, "", values)

    def _add_tuples(self, file: RawFile, genes: str, values: Sequence[Sequence[float]]) -> None:
        """Entries of old: a number for every state, or three for a gene and its anchor."""
        states = self.reading.states
        wanted = states or _TRIPLE
        if any(len(value) != len(wanted) for value in values):
            told = f"the {len(states)} states {', '.join(states)}" if states else "a gene and its anchor"
            msg = (
                f"{file.name} holds {len(values[0])} numbers per cell, which does not fit {told}. Pass the "
                "cell_states_to_model of the run, with the same alternates."
            )
            raise StateError(msg)
        for target, column in zip(wanted, zip(*values, strict=True), strict=True):
            if states:
                self._add(file, genes, SHIFT, target, column)
            elif self.reading.triples or target == TOGETHER:
                self._add(file, genes, SIMILARITY, target if self.reading.triples else "", column)

    def _add(self, file: RawFile, genes: str, kind: str, target: str, values: Sequence[Any]) -> None:
        try:
            self.values.extend(map(float, values))
        except (TypeError, ValueError) as error:
            msg = f"{file.name} holds values that are no numbers: {values[0]!r}. Make the file again."
            raise DatasetError(msg) from error
        n, start = len(values), len(self.cell_names)
        for column, text in ((self.genes, genes), (self.kinds, kind), (self.targets, target)):
            column.add(text, n)
        self.cells.extend(range(start, start + n))
        self._widest = max(self._widest, n)

    def end_file(self, file: RawFile) -> None:
        """Name the cells of a file: the first numbers of all its entries are of the same cell, and so on."""
        known = file.cell_ids if file.cell_ids is not None and len(file.cell_ids) == self._widest else None
        self.cell_names.extend(known or [None] * self._widest)
        self._widest = 0

    def _gene_names(self, tokens: Any, file: RawFile) -> str:
        """Genes of one token or of several, joined by +."""
        vocabulary, names = self.reading.vocabulary, []
        for token in tokens if isinstance(tokens, tuple) else (tokens,):
            number = int(token) if isinstance(token, Integral) else -1
            if not 0 <= number < vocabulary.size:
                msg = (
                    f"{file.name} has the token {token!r}, which is none of the {vocabulary.size:,} of vocabulary "
                    f"{vocabulary.name}. Pass the model_version or token_dictionary_file of the run."
                )
                raise VocabularyMismatchError(msg)
            name = str(vocabulary.gene_of[number])
            self.tokens[name] = number
            names.append(name)
        return "+".join(names)

    def effects(self) -> PerturbationEffects:
        """All of them."""
        genes, vocabulary = self.genes.array(), self.reading.vocabulary
        cells = pa.array([str(number) for number in range(len(self.cell_names))], pa.string())
        columns = {
            "cell_id": pa.DictionaryArray.from_arrays(pa.array(self.cells, pa.int32()), cells),
            "perturbation": genes,
            "genes": genes,
            "edit": _constant("", len(genes)),
            "effect": self.kinds.array(),
            "target": self.targets.array(),
            "value": pa.array(self.values, pa.float64()),
            "method": _constant(EXACT, len(genes)),
        }
        known = {
            "gene": pa.array(list(self.tokens), pa.string()),
            "symbol": pa.array([vocabulary.symbol_of(gene) for gene in self.tokens], pa.string()),
            "token": pa.array(list(self.tokens.values()), pa.int32()),
        }
        all_cells = pa.table({"cell_id": cells, CELL_NAME: pa.array(self.cell_names, pa.string())})
        told = {"vocabulary": vocabulary.name, "vocabulary_fingerprint": vocabulary.fingerprint}
        return PerturbationEffects(pa.table(columns), all_cells, pa.table(known), {}, told)


def _constant(text: str, n: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([text], pa.string()))
