"""Effects of a run, cell by cell, as the published package stores them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from geneformer.compat.perturbation.files import CELL, Raw
from geneformer.results.perturbation import GENE_SIMILARITY, SHIFT, SIMILARITY

Tokens = tuple[int, ...]

UNCHANGED = 1.0
"""Similarity of a cell that a perturbation leaves as it is; its shifts are 0."""


@dataclass(slots=True)
class CellEffects:
    """Effects on one cell, by the tokens that were perturbed.

    Attributes
    ----------
    similarity
        Similarity of the cell before and after.
    shifts
        Shift towards each state, by its name.
    genes
        Similarities of other genes, by token.
    """

    similarity: dict[Tokens, float] = field(default_factory=dict)
    shifts: dict[Tokens, dict[str, float]] = field(default_factory=dict)
    genes: dict[Tokens, dict[int, float]] = field(default_factory=dict)


def by_cell(effects: pa.Table, cells: range, token_of: Mapping[str, int]) -> list[CellEffects]:
    """Effects of a table whose cells are called by their numbers, one entry per cell.

    Parameters
    ----------
    effects
        Columns `EFFECT_COLUMNS`.
    cells
        Numbers of its cells; those without effects have an empty entry.
    token_of
        Token of each gene.
    """
    found = [CellEffects() for _ in cells]
    tokens_of: dict[str, Tokens] = {}
    names = ("cell_id", "genes", "effect", "target", "value")
    for cell, genes, kind, target, value in zip(*(effects.column(name).to_pylist() for name in names), strict=True):
        if genes not in tokens_of:
            tokens_of[genes] = tuple(int(token_of[gene]) for gene in genes.split("+"))
        tokens, entry = tokens_of[genes], found[int(cell) - cells.start]
        if kind == SIMILARITY:
            entry.similarity[tokens] = value
        elif kind == SHIFT:
            entry.shifts.setdefault(tokens, {})[target] = value
        elif kind == GENE_SIMILARITY:
            entry.genes.setdefault(tokens, {})[int(token_of[target])] = value
    return found


def key_of(tokens: Tokens) -> Any:
    """One token as it is, several as a tuple."""
    return tokens[0] if len(tokens) == 1 else tokens


def single_effects(cell: CellEffects, states: Mapping[str, Any]) -> Raw:
    """Effects of single perturbations on a cell; with states, by state.

    Parameters
    ----------
    cell
        Its effects.
    states
        The user's values of the states by their names, in published order; none for similarities.
    """
    if not states:
        return {(key_of(tokens), CELL): [value] for tokens, value in cell.similarity.items()}
    return {
        state: {(key_of(tokens), CELL): [shifts[name]] for tokens, shifts in cell.shifts.items()}
        for name, state in states.items()
    }


def anchored_effects(alone: CellEffects, pairs: CellEffects, anchor: int) -> Raw:
    """Three similarities of every gene: of the anchor alone, of the gene alone, of both.

    Parameters
    ----------
    alone
        Effects of single genes on a cell.
    pairs
        Effects of each of them together with the anchor.
    anchor
        Token of the anchor.
    """
    of_anchor = alone.similarity.get((anchor,), UNCHANGED)
    found: Raw = {}
    for tokens, together in pairs.similarity.items():
        gene = next(token for token in tokens if token != anchor)
        found[gene, CELL] = [(of_anchor, alone.similarity.get((gene,), UNCHANGED), together)]
    return found


def anchor_first(cell: CellEffects, anchor: int) -> CellEffects:
    """Effects of pairs on a cell, the anchor named before the gene."""

    def sorted_keys(table: dict[Tokens, Any]) -> dict[Tokens, Any]:
        return {(anchor, *(token for token in tokens if token != anchor)): value for tokens, value in table.items()}

    return CellEffects(*(sorted_keys(table) for table in (cell.similarity, cell.shifts, cell.genes)))


def gene_effects(cell: CellEffects) -> Raw:
    """Effects of perturbations of a cell on its other genes."""
    return {
        (key_of(tokens), affected): [value]
        for tokens, others in cell.genes.items()
        for affected, value in others.items()
    }


def in_parts(content: Raw, size: int) -> Iterator[Raw]:
    """At most `size` perturbations at a time, of tables without or with states."""
    nested = any(isinstance(value, dict) for value in content.values())
    tables = list(content.values()) if nested else [content]
    perturbed = list(dict.fromkeys(key[0] for key in tables[0])) if tables else []
    for start in range(0, len(perturbed), size):
        some = set(perturbed[start : start + size])
        parts = [{key: value for key, value in table.items() if key[0] in some} for table in tables]
        yield dict(zip(content, parts, strict=True)) if nested else parts[0]


def group_effects(
    cells: Sequence[CellEffects],
    tokens: Tokens,
    states: Mapping[str, Any],
    *,
    unchanged: float,
    others: Sequence[Sequence[int]] = (),
) -> tuple[Raw, Raw]:
    """Effects of one perturbation on all cells, one number per cell; and on their other genes.

    Parameters
    ----------
    cells
        Their effects, in order.
    tokens
        What was perturbed.
    states
        The user's values of the states by their names, in published order; none for similarities.
    unchanged
        Similarity of cells without effects; their shifts are that much less 1.
    others
        Tokens of the other genes of each cell, where effects on genes of unchanged cells are wanted.
    """
    key = (key_of(tokens), CELL)
    if states:
        on_cells: Raw = {
            state: {key: [cell.shifts.get(tokens, {}).get(name, unchanged - 1) for cell in cells]}
            for name, state in states.items()
        }
    else:
        on_cells = {key: [cell.similarity.get(tokens, unchanged) for cell in cells]}
    on_genes: Raw = {}
    for place, cell in enumerate(cells):
        of_unchanged = dict.fromkeys(others[place], unchanged) if others else {}
        for affected, value in cell.genes.get(tokens, of_unchanged).items():
            on_genes.setdefault((key[0], affected), []).append(value)
    return on_cells, on_genes
