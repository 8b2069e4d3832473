"""How far genes move when others are edited, added up as the edits are run."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from geneformer.applications.network_statistics import Ints
from geneformer.engine.device import resolve_device, verify_placement
from geneformer.files.atomic import JOURNAL, Journal, atomic_file
from geneformer.files.manifest import digest
from geneformer.files.progress import Progress
from geneformer.options import NetworkOptions, PerturbOptions, RuntimeOptions
from geneformer.perturbation.edits import Perturbation
from geneformer.perturbation.exact import Edit, Effects, ExactRunner, Pairs, PerturbedModel, possible_edits
from geneformer.perturbation.plan import PerturbationPlan, plan_perturbation
from geneformer.perturbation.screen import screen_gene_effects
from geneformer.tokens.dataset import TokenizedDataset

if TYPE_CHECKING:
    from geneformer.models.loading import LoadedModel

_SECONDS = 30
"""Work that a run which is killed repeats at most, about."""


def perturbation_plan(
    tokens: TokenizedDataset,
    model: "LoadedModel",
    sources: Sequence[Ints],
    options: NetworkOptions,
    runtime: RuntimeOptions,
) -> PerturbationPlan:
    """Edits of single genes, and of several together, of some cells."""
    genes = model.vocabulary.gene_of
    entries = tuple("+".join(str(genes[token]) for token in of_source) for of_source in sources)
    perturb = PerturbOptions(
        genes=entries, edit=options.edit, layer=options.layer, gene_effects=True, truncate=True, seed=options.seed
    )
    return plan_perturbation(tokens, PerturbedModel.pretrained(model), perturb, runtime)


SCREEN_PASSES = 6
"""Forward passes that the screen of a cell takes as long as, about."""


@dataclass(frozen=True, slots=True, eq=False)
class EffectSums:
    """Sums ``(B, S, T)`` that effects of edits are added to, cell by cell; pairs less the effects of both alone."""

    sums: NDArray[np.float32]
    column_of: Ints
    """Place of every token among the targets, -1 where it is none, ``(V,)``."""
    rows_of: Mapping[frozenset[int], Sequence[tuple[int, float, frozenset[int]]]]
    """By edited genes: rows of sums, with a factor, and the genes that a cell must have."""

    @classmethod
    def of(cls, sources: Sequence[Ints], targets: Ints, n_blocks: int, size: int) -> "EffectSums":
        """No effects yet."""
        column_of = np.full(size, -1, dtype=np.int64)
        column_of[targets] = np.arange(len(targets))
        rows_of = defaultdict(list)
        for row, of_source in enumerate(sources):
            together = frozenset(of_source.tolist())
            rows_of[together].append((row, 1.0, together))
            for alone in together if len(together) > 1 else ():
                rows_of[frozenset([alone])].append((row, -1.0, together))
        sums = np.zeros((n_blocks, len(sources), len(targets)), dtype=np.float32)
        return cls(sums, column_of, rows_of)

    def add(self, block: int, cell: frozenset[int], edited: frozenset[int], tokens: Ints, values: Any) -> None:
        """Add the effects of one edit on some genes of a cell."""
        columns = self.column_of[tokens]
        known = columns >= 0
        columns, values = columns[known], values[known]
        for row, factor, needed in self.rows_of[edited]:
            if needed <= cell:
                self.sums[block, row, columns] += factor * values


def run_edits(plan: PerturbationPlan, rows: Ints, blocks: Ints, sums: EffectSums) -> None:
    """Add the exact effects of all edits of genes that the cells in some rows have."""
    cells = plan.token_rows(rows)
    members = [frozenset(cell.tolist()) for cell in cells]

    def take(edits: Sequence[Edit], effects: Effects, pairs: Pairs) -> None:
        if effects.genes is None:
            return
        values = 1 - effects.genes.cpu().numpy()
        is_other = (pairs.weight > 0).cpu().numpy()
        stops = np.cumsum([len(edit.edited.tokens) for edit in edits])
        for edit, stop in zip(edits, stops, strict=True):
            of_edit = slice(stop - len(edit.edited.tokens), stop)
            other = is_other[of_edit]
            tokens, edited = edit.edited.tokens[other], frozenset(edit.perturbation.tokens)
            sums.add(int(blocks[edit.cell]), members[edit.cell], edited, tokens, values[of_edit][other])

    runner = ExactRunner(plan.model, plan.options, plan.runtime)
    by_genes = {frozenset(one.tokens): one for one in plan.targets.named}
    runner.run(cells, possible_edits(cells, [list(_of_cell(cell, by_genes)) for cell in members], plan.model), take)


def _of_cell(cell: frozenset[int], by_genes: Mapping[frozenset[int], Perturbation]) -> Iterator[Perturbation]:
    """The edits of genes that a cell has."""
    for genes, perturbation in by_genes.items():
        if genes <= cell:
            yield perturbation


def screen_edits(plan: PerturbationPlan, rows: Ints, blocks: Ints, sums: EffectSums) -> None:
    """The same, estimated for deletions of single genes from a few passes over each cell."""
    device, model = resolve_device(plan.runtime.device), plan.model
    model.network.to(device)
    verify_placement(model.network, device)
    special = model.vocabulary.special_ids
    row_of = {genes: entries[0][0] for genes, entries in sums.rows_of.items()}
    for row, cell, block in zip(rows.tolist(), plan.token_rows(rows), blocks.tolist(), strict=True):
        ids = torch.as_tensor(cell, device=device)
        seed = plan.options.seed + row
        effects_LL = screen_gene_effects(
            model.encoder, ids, layer=plan.options.layer, special_ids=special.tolist(), seed=seed
        )
        columns = sums.column_of[cell]
        is_target = (columns >= 0) & ~np.isin(cell, special)
        alone = [frozenset([token]) for token in cell.tolist()]
        found = [(row_of[gene], place) for place, gene in enumerate(alone) if gene in row_of]
        if found:
            into, places = np.array(found).T
            sums.sums[block, into[:, None], columns[is_target]] += effects_LL[places][:, is_target]


@dataclass(frozen=True, slots=True)
class Saved:
    """Folder in which a run keeps what it has added up, so that one that is killed goes on."""

    folder: Path
    resume: bool
    overwrite: bool

    def is_begun(self) -> bool:
        """Whether there is a run to go on with."""
        return any(Journal.has_entries(path) for path in self.folder.glob(f"*{JOURNAL}"))

    def journal(self, name: str, identity: Mapping[str, Any]) -> Journal:
        """The journal of one group of cells."""
        self.folder.mkdir(exist_ok=True, parents=True)
        path = self.folder / name
        if not self.resume:
            path.unlink(missing_ok=True)
        return Journal(path, identity)


def add_up(
    plan: PerturbationPlan,
    blocks: Ints,
    sums: EffectSums,
    *,
    screened: bool,
    saved: Saved | None,
    progress: Progress | None,
) -> None:
    """All cells of a run, shard by shard."""
    journal = None
    first = 0
    if saved is not None:
        identity = {**plan.identity, "blocks": digest(blocks), "screened": screened}
        name = digest(plan.identity["cell_ids"])[:12]
        journal = saved.journal(f"{name}-{JOURNAL}", identity)
        if journal.entries:
            first = int(journal.entries[-1]["shard"]) + 1
            sums.sums[:] = np.load(saved.folder / f"{name}-{first - 1}.npy")
    started = time.monotonic()
    run = screen_edits if screened else run_edits
    for shard in range(first, plan.n_shards):
        rows = plan.rows_of(shard)
        run(plan, rows, blocks[rows], sums)
        if progress is not None:
            progress(shard + 1, plan.n_shards)
        if saved is not None and journal is not None and time.monotonic() - started > _SECONDS:
            with (
                atomic_file(saved.folder / f"{name}-{shard}.npy", overwrite=True) as temporary,
                temporary.open("wb") as file,
            ):
                np.save(file, sums.sums)
            journal.append({"shard": shard})
            for old in saved.folder.glob(f"{name}-*.npy"):
                if old.name != f"{name}-{shard}.npy":
                    old.unlink()
            started = time.monotonic()
