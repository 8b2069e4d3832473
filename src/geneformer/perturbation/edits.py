"""Edits of a cell: one function from a row of tokens to a row of tokens.

Special tokens (`<cls>`, `<eos>`) stay where they are; an edit sees the genes between them, ranked from high to low.

======================  ======================================================  ========================
edit                    what happens to its genes                               a gene the cell lacks
======================  ======================================================  ========================
``delete``              removed; genes behind move up                           the cell is passed over
``overexpress``         moved to the front, in the order given                  added at the front
``inhibit``             moved down by a share of the cell's genes               the cell is passed over
``activate``            moved up by a share of the cell's genes                 the cell is passed over
======================  ======================================================  ========================

A cell that would outgrow the model's input loses its lowest ranked genes, and is compared with itself without them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ADDED = -1
"""Origin of a token that the cell did not have."""


@dataclass(frozen=True, slots=True)
class Step:
    """One edit of one gene, or of several at once."""

    edit: str
    tokens: tuple[int, ...]
    dose: float = 1.0


@dataclass(frozen=True, slots=True)
class Perturbation:
    """What is done to a cell: one edit, or several one after the other."""

    name: str
    steps: tuple[Step, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Every gene it touches, once, in order of appearance."""
        return tuple(dict.fromkeys(token for step in self.steps for token in step.tokens))

    @property
    def key(self) -> object:
        """What it does; the order of genes matters only where they are put to the front."""
        return tuple((s.edit, s.dose, s.tokens if s.edit == "overexpress" else frozenset(s.tokens)) for s in self.steps)

    @property
    def edit(self) -> str:
        """Edits in order, such as "delete" or "delete > overexpress"."""
        return " > ".join(
            f"{step.edit}@{step.dose:g}" if step.edit in ("inhibit", "activate") else step.edit for step in self.steps
        )


@dataclass(frozen=True, slots=True, eq=False)
class EditedCell:
    """A cell after an edit, and what it is compared with."""

    tokens: Ints
    origin: Ints
    lost: Ints


def edit_cell(
    tokens: Sequence[int] | NDArray[Any], steps: Iterable[Step], special_ids: Iterable[int], max_length: int
) -> EditedCell | None:
    """A cell after some edits, or None where they do not apply to it or change nothing."""
    row = np.asarray(tokens, dtype=np.int64)
    # Genes stand between the special tokens.
    is_gene = np.flatnonzero(~np.isin(row, np.asarray(list(special_ids), dtype=np.int64)))
    head, tail = (int(is_gene[0]), int(is_gene[-1]) + 1) if len(is_gene) else (len(row), len(row))
    genes, places = row[head:tail], np.arange(head, tail)
    before = genes
    for step in steps:
        moved = _EDITS[step.edit](genes, places, step)
        if moved is None:
            return None
        genes, places = moved
    if not len(genes) or np.array_equal(genes, before):
        return None
    # A gene may have been deleted and added again.
    place_of = {token: head + place for place, token in enumerate(before.tolist())}
    places = np.where(places == ADDED, [place_of.get(token, ADDED) for token in genes.tolist()], places)
    n_genes = max(max_length - head - (len(row) - tail), 0)
    lost = np.sort(places[n_genes:])
    lost = lost[lost != ADDED]
    ends = np.arange(head), np.arange(tail, len(row))
    edited = np.concatenate([row[ends[0]], genes[:n_genes], row[ends[1]]])
    origin = np.concatenate([ends[0], places[:n_genes], ends[1]])
    return EditedCell(edited, np.where(origin == ADDED, ADDED, origin - np.searchsorted(lost, origin)), lost)


def _delete(genes: Ints, places: Ints, step: Step) -> tuple[Ints, Ints] | None:
    if not np.isin(step.tokens, genes).all():
        return None
    hit = np.isin(genes, step.tokens)
    return genes[~hit], places[~hit]


def _overexpress(genes: Ints, places: Ints, step: Step) -> tuple[Ints, Ints]:
    place_of = dict(zip(genes.tolist(), places.tolist(), strict=True))
    front = np.array(list(dict.fromkeys(step.tokens)), dtype=np.int64)
    front_places = np.array([place_of.get(token, ADDED) for token in front.tolist()], dtype=np.int64)
    rest = ~np.isin(genes, front)
    return np.concatenate([front, genes[rest]]), np.concatenate([front_places, places[rest]])


def _shift(genes: Ints, places: Ints, step: Step, *, sign: int) -> tuple[Ints, Ints] | None:
    """Genes moved down (1) or up (-1) by a share of the cell, those of one step keeping their order."""
    if not np.isin(step.tokens, genes).all():
        return None
    hit = np.isin(genes, step.tokens)
    rank = np.arange(len(genes), dtype=np.float64)
    distance = max(round(step.dose * len(genes)), 1)
    goal = np.clip(rank + sign * distance, 0, len(genes) - 1) + sign * 0.5
    order = np.argsort(np.where(hit, goal, rank), kind="stable")
    return genes[order], places[order]


_EDITS: dict[str, Callable[[Ints, Ints, Step], tuple[Ints, Ints] | None]] = {
    "delete": _delete,
    "overexpress": _overexpress,
    "inhibit": partial(_shift, sign=1),
    "activate": partial(_shift, sign=-1),
}
