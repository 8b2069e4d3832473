"""Effects of a shard of cells, collected into a table whose rows do not depend on how they were batched."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer.results.perturbation import (
    EFFECT_COLUMNS,
    EXACT,
    GENE_SIMILARITY,
    PROBABILITY_SHIFT,
    SHIFT,
    SIMILARITY,
)
from geneformer.tasks.perturbation.edits import Ints, Perturbation
from geneformer.tasks.perturbation.exact import Edit
from geneformer.tasks.perturbation.shifts import Effects, Pairs

KINDS = (SIMILARITY, SHIFT, PROBABILITY_SHIFT, GENE_SIMILARITY)
"""Order of the effects of one edit."""


def effects_schema() -> pa.Schema:
    """Columns of a table of effects: repeated texts once, numbers in float32."""
    texts = pa.dictionary(pa.int32(), pa.string())
    kinds = {name: pa.float32() if name == "value" else texts for name in EFFECT_COLUMNS}
    return pa.schema(list(kinds.items()))


@dataclass(slots=True, eq=False)
class EffectRows:
    """Rows of one shard.

    Parameters
    ----------
    cell_ids
        Names of its cells, ``(n,)``.
    states, classes
        What shifts are told towards, in order.
    genes
        Gene of each token id, ``(V,)``.
    method
        `EXACT` or `SCREEN`.
    """

    cell_ids: NDArray[np.object_]
    states: Sequence[str]
    classes: Sequence[str]
    genes: NDArray[np.object_]
    method: str = EXACT
    _edits: dict[int, tuple[int, Perturbation]] = field(default_factory=dict)
    _parts: list[tuple[Ints, int, Ints, NDArray[np.float32]]] = field(default_factory=list)

    def take(self, edits: Sequence[Edit], effects: Effects, pairs: Pairs) -> None:
        """Keep the effects of a batch."""
        self._edits |= {edit.number: (edit.cell, edit.perturbation) for edit in edits}
        numbers = np.array([edit.number for edit in edits], dtype=np.int64)
        if effects.similarity is not None:
            self._add(numbers, SIMILARITY, np.zeros(len(edits), np.int64), effects.similarity.cpu().numpy())
        for kind, values in ((SHIFT, effects.shifts), (PROBABILITY_SHIFT, effects.proba_shifts)):
            if values is not None:
                n_edits, n_targets = values.shape
                targets = np.tile(np.arange(n_targets), n_edits)
                self._add(np.repeat(numbers, n_targets), kind, targets, values.cpu().numpy().ravel())
        if effects.genes is not None:
            other = pairs.is_other.cpu().numpy()
            tokens = np.concatenate([edit.edited.tokens for edit in edits])
            of_edit = numbers[pairs.cell.cpu().numpy()]
            self._add(of_edit[other], GENE_SIMILARITY, tokens[other], effects.genes.cpu().numpy()[other])

    def add_estimates(
        self, number: int, cell: int, perturbation: Perturbation, kind: str, values: NDArray[np.floating]
    ) -> None:
        """Keep estimates of one edit, one for every target of their kind."""
        self._edits[number] = (cell, perturbation)
        targets = np.arange(len(values))
        self._add(np.full(len(values), number), kind, targets, np.asarray(values))

    def _add(self, numbers: Ints, kind: str, targets: Ints, values: NDArray[np.floating]) -> None:
        self._parts.append((numbers, KINDS.index(kind), targets, values.astype(np.float32)))

    def table(self) -> pa.Table:
        """All rows: cell by cell, edit by edit, effect by effect, in the order of states, classes and tokens."""
        if not self._parts:
            return effects_schema().empty_table()
        numbers, targets, values = (np.concatenate([part[i] for part in self._parts]) for i in (0, 2, 3))
        kinds = np.concatenate([np.full(len(part[0]), part[1]) for part in self._parts])
        order = np.lexsort((targets, kinds, numbers))
        numbers, kinds, targets = numbers[order], kinds[order], targets[order]
        edits = sorted(self._edits)
        place = np.searchsorted(edits, numbers)
        of_edit = [self._edits[number] for number in edits]
        columns = {
            "cell_id": _texts([str(self.cell_ids[cell]) for cell, _ in of_edit], place),
            "perturbation": _texts([perturbation.name for _, perturbation in of_edit], place),
            "genes": _texts(["+".join(str(self.genes[t]) for t in p.tokens) for _, p in of_edit], place),
            "edit": _texts([perturbation.edit for _, perturbation in of_edit], place),
            "effect": _texts(KINDS, kinds),
            "target": self._targets(kinds, targets),
            "value": pa.array(values[order]),
            "method": _texts([self.method], np.zeros(len(numbers), np.int64)),
        }
        return pa.table(columns, schema=effects_schema())

    def _targets(self, kinds: Ints, targets: Ints) -> pa.Array:
        """Names of states, classes and genes; empty for similarity."""
        names = ["", *self.states, *self.classes, *map(str, self.genes)]
        first = np.array([0, 1, 1 + len(self.states), 1 + len(self.states) + len(self.classes)])
        return _texts(names, first[kinds] + targets)


def _texts(names: Sequence[str], rows: Ints) -> pa.Array:
    """One of several texts per row; texts that no row has, and repetitions, are left out."""
    wanted, place = np.unique(rows, return_inverse=True)
    distinct = {name: number for number, name in enumerate(dict.fromkeys(names[row] for row in wanted.tolist()))}
    number_of = np.array([distinct[names[row]] for row in wanted.tolist()], dtype=np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(number_of[place]), pa.array(list(distinct), pa.string()))
