"""Runs of a perturbation over chosen cells, written as published scripts read them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from geneformer import keys
from geneformer.compat.loaded_models import published_runtime
from geneformer.compat.perturbation.dictionaries import (
    UNCHANGED,
    CellEffects,
    anchor_first,
    anchored_effects,
    by_cell,
    gene_effects,
    group_effects,
    in_parts,
    single_effects,
)
from geneformer.compat.perturbation.files import Raw, RunFiles, write_raw
from geneformer.data.dataset import TokenizedDataset
from geneformer.options import PerturbOptions
from geneformer.runs.progress import progress_bar
from geneformer.tasks.perturbation.plan import PerturbationPlan, plan_perturbation
from geneformer.tasks.perturbation.reading import PerturbedModel
from geneformer.tasks.perturbation.shards import exact_effects

if TYPE_CHECKING:
    import pandas as pd

STATE = "state"
"""Column of the perturbed cells with the name of the start, as options have to name it."""


@dataclass(frozen=True, slots=True, eq=False)
class PerturbationRun:
    """Cells with a model, and where their effects go.

    Attributes
    ----------
    model
        What the cells are read with.
    cells
        Cells to be perturbed, in published order.
    files
        Names of the files.
    states
        The user's values of the states by their names, in published order; none for similarities.
    vectors
        Embeddings of these states.
    forward_batch_size
        At most as many of the longest cells in one pass.
    file_size
        Most single perturbations of a cell in one file.
    """

    model: PerturbedModel
    cells: TokenizedDataset
    files: RunFiles
    states: Mapping[str, Any]
    vectors: Mapping[str, Any] | None
    forward_batch_size: int
    file_size: int

    def perturb_together(self, tokens: tuple[int, ...], options: PerturbOptions) -> None:
        """Write what one perturbation of several genes does to all cells.

        Parameters
        ----------
        tokens
            What is perturbed.
        options
            The same as an option, and how.
        """
        plan = self._plan(options)
        tables = [table for _, [table] in self._effects([plan])]
        found = by_cell(pa.concat_tables(tables), range(len(self.cells)), self.model.vocabulary.token_of)
        deleted = options.edit == "delete"
        on_cells, on_genes = group_effects(
            found,
            tokens,
            self.states,
            # Of a cell without any other gene nothing is left to compare.
            unchanged=float("nan") if deleted else UNCHANGED,
            others=self._other_genes(tokens) if options.gene_effects and not deleted else (),
        )
        write_raw(on_cells, self.files.of_group("cell", tokens))
        if options.gene_effects:
            write_raw(on_genes, self.files.of_group("gene", tokens))

    def perturb_each(self, options: PerturbOptions, start: int) -> None:
        """Write what perturbing each gene of a cell does to it; a cell's files as soon as it is done.

        Parameters
        ----------
        options
            How all genes are perturbed.
        start
            Number of the first cell.
        """
        for number, [cell] in self._cell_effects([self._plan(options)]):
            self._write(start + number, single_effects(cell, self.states), gene_effects(cell))

    def perturb_with_anchor(self, single: PerturbOptions, pairs: PerturbOptions, start: int) -> None:
        """Write what perturbing each gene with an anchor does to a cell; without states, beside both alone.

        Parameters
        ----------
        single, pairs
            How all genes are perturbed alone, and with the anchor.
        start
            Number of the first cell.
        """
        together = self._plan(pairs)
        anchor = together.targets.anchor
        if anchor is None:
            msg = "Pairs need an anchor."
            raise ValueError(msg)
        plans = [together] if self.states else [self._plan(single), together]
        for number, effects in self._cell_effects(plans):
            cell = anchor_first(effects[-1], anchor)
            on_cell = single_effects(cell, self.states) if self.states else anchored_effects(effects[0], cell, anchor)
            self._write(start + number, on_cell, gene_effects(cell))

    def _plan(self, options: PerturbOptions) -> PerturbationPlan:
        """A checked run, its cells called by their numbers."""
        columns = {
            keys.INPUT_IDS: self.cells.table.column(keys.INPUT_IDS),
            keys.CELL_ID: [str(number) for number in range(len(self.cells))],
        }
        if self.states:
            columns[STATE] = [next(iter(self.states))] * len(self.cells)
        tokens = TokenizedDataset(pa.table(columns), vocabulary=self.cells.vocabulary)
        runtime = published_runtime(self.model.encoder, self.forward_batch_size)
        return plan_perturbation(tokens, self.model, options, runtime, states=self.vectors)

    def _effects(self, plans: Sequence[PerturbationPlan]) -> Iterator[tuple[range, list[pa.Table]]]:
        """Numbers of some cells at a time, with the effects that every plan has on them."""
        first = plans[0]
        with progress_bar("perturb") as progress:
            for shard in range(first.n_shards):
                rows = first.rows_of(shard)
                cells = first.token_rows(rows)
                tables = [exact_effects(plan, rows, [plan.targets.of_cell(cell) for cell in cells]) for plan in plans]
                yield range(int(rows[0]), int(rows[-1]) + 1), tables
                progress(shard + 1, first.n_shards)

    def _cell_effects(self, plans: Sequence[PerturbationPlan]) -> Iterator[tuple[int, list[CellEffects]]]:
        """Number of each cell, with the effects that every plan has on it."""
        for cells, tables in self._effects(plans):
            found = [by_cell(table, cells, self.model.vocabulary.token_of) for table in tables]
            yield from zip(cells, map(list, zip(*found, strict=True)), strict=True)

    def _write(self, cell: int, on_cell: Raw, on_genes: Raw) -> None:
        """The files of one cell; the first one is called -1, as it always was."""
        for kind, content in (("cell", on_cell), ("gene", on_genes)):
            for batch, part in enumerate(in_parts(content, self.file_size), start=-1):
                write_raw(part, self.files.of_cell(kind, cell, batch))

    def _other_genes(self, tokens: tuple[int, ...]) -> list[list[int]]:
        """Genes of every cell beside those perturbed."""
        passed = {*tokens, *self.model.vocabulary.special_ids.tolist()}
        cells = (self.cells[row].tolist() for row in range(len(self.cells)))
        return [[token for token in cell if token not in passed] for cell in cells]


def cells_table(cells: TokenizedDataset, rows: Sequence[int], start: int) -> "pd.DataFrame":
    """What is known about perturbed cells: number, row of the input, columns; last the name, where they have one.

    Parameters
    ----------
    cells
        The cells.
    rows
        Their rows in the input.
    start
        Number of the first one.
    """
    names = sorted(cells.columns, key=lambda name: name == keys.CELL_ID)
    table: pd.DataFrame = cells.table.select(names).to_pandas()
    table.insert(0, "cell", list(range(start, start + len(rows))), allow_duplicates=True)
    table.insert(1, "row", list(rows), allow_duplicates=True)
    return table
