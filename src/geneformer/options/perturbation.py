"""Knobs of in silico perturbation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from geneformer.errors import OptionError, StateError
from geneformer.options._fields import Count, Layer, Options, Positive, Range, Seed, Share

EDITS = ("delete", "overexpress", "inhibit", "activate")


@dataclass(frozen=True, kw_only=True, slots=True)
class PerturbOptions(Options):
    """What is done to which cells, and what is read from them."""

    genes: tuple[str, ...] = ("all",)
    """Perturbations: "all" (every gene of a cell, one at a time), or one entry each: a gene (`ISG15`), a group
    (`ISG15+IFI6`), a named one (`interferon=ISG15+IFI6`), or edits one after the other
    (`delete:STAT1 > overexpress:ISG15`). Ensembl ids or symbols."""

    anchor: str | None = None
    """Gene that is perturbed together with each of the others."""

    matched_genes: Count = 0
    """For every gene that is named alone, as many others of like mean rank are perturbed the same way: what its p-value
    is drawn among."""

    edit: Literal["delete", "overexpress", "inhibit", "activate"] = "delete"
    """What happens to a gene: it is taken away, moved to the front, or moved down or up by `dose`."""

    dose: Annotated[float, Range(above=0.0, high=1.0)] = 1.0
    """Share of a cell's genes that "inhibit" and "activate" move a gene past: 0.25 is one quartile, 1 all of them."""

    pooling: Literal["mean", "rank", "cls"] = "mean"
    """Embedding of a cell: the mean over its genes, the same with a gene of rank r (from 0) weighing 1 / (1 + r / 100),
    or the state of `<cls>`."""

    layer: Layer = -1
    """Encoder layer to read, counted back from the output: 0 is the last, -1 the one before it."""

    start: str | None = None
    """State whose cells are perturbed; all cells by default."""

    goal: str | None = None
    """State towards which shifts are measured."""

    alternates: tuple[str, ...] = ()
    """Further states towards which shifts are measured."""

    state_key: str | None = None
    """Column of `obs` with the states. By default the one column that has all of them."""

    gene_effects: bool = False
    """Also report how far every other gene of the cell moves. One number per pair of genes and cell."""

    method: Literal["exact", "screen"] = "exact"
    """"exact" runs the network once per edit. "screen" estimates the deletion of every gene from one forward and a few
    backward passes, and runs exactly the `verify` genes it finds strongest."""

    verify: Count = 50
    """Genes a screen runs exactly in all cells."""

    check_cells: Count = 8
    """Cells a screen also runs exactly for every gene, to measure how good its estimates are."""

    max_cells: Annotated[int | None, Range(low=1)] = None
    """Cells perturbed, drawn at random. All by default."""

    max_state_cells: Annotated[int | None, Range(low=1)] = 1000
    """Cells the embedding of each state is averaged over, drawn at random."""

    min_cells: Positive = 1
    """Genes found in fewer of the cells are passed over."""

    unknown: Literal["drop", "error"] = "drop"
    """Genes without a token, or in fewer than `min_cells` cells, are left out with one warning that lists them; or they
    are an error. A group goes on without them, a sequence of edits only as long as each edit keeps a gene. None left is
    always an error."""

    cells_per_shard: Positive = 16
    """Cells whose effects are written at once; a killed run repeats no more than that."""

    truncate: bool = False
    """Cut cells with more tokens than the model has positions, instead of refusing them."""

    seed: Seed = 0
    """Of every draw."""

    @property
    def states(self) -> tuple[str, ...]:
        """States whose embeddings are needed: start, goal, alternates; none without a goal."""
        return () if self.start is None or self.goal is None else (self.start, self.goal, *self.alternates)

    def _check(self) -> None:
        self._check_states()
        if not self.genes:
            msg = 'No gene is named. Pass genes="all", or entries such as "ISG15".'
            raise OptionError(msg)
        if self.method == "screen" and (self.genes != ("all",) or self.edit != "delete" or self.anchor is not None):
            msg = 'method="screen" estimates the deletion of every gene. Use genes="all" and edit="delete", or "exact".'
            raise OptionError(msg)
        if self.method == "screen" and self.gene_effects:
            msg = 'method="screen" estimates effects on cells only. Leave out gene_effects, or use method="exact".'
            raise OptionError(msg)

    def _check_states(self) -> None:
        if self.start is None and (self.goal is not None or self.alternates):
            msg = f"goal={self.goal!r} needs start, the state whose cells are perturbed."
            raise StateError(msg)
        if self.goal is None and self.alternates:
            msg = f"alternates={self.alternates} need a goal: the state the cells are to be moved to."
            raise StateError(msg)
        if len(set(self.states)) != len(self.states):
            msg = f"Start, goal and alternates must differ; they are {', '.join(map(repr, self.states))}."
            raise StateError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankOptions(Options):
    """How the effects of perturbations are tested and ranked."""

    mode: Literal["auto", "goal_state_shift", "vs_null", "mixture_model", "aggregate", "aggregate_gene_shifts"] = "auto"
    """Shifts towards the goal state; similarities compared with those of a null run; similarities split into two
    components; one row per cell; or one row per pair of genes. "auto" takes shifts where there are states, "vs_null"
    where a null run has the same perturbations, else components for 20 perturbations or more, and cells for fewer."""

    fdr: Annotated[float, Range(above=0.0, high=1.0)] = 0.05
    """False discovery rate below which a row is significant."""

    donor: str | None = None
    """Column of the cells with their donors. Then intervals are over donors, and there is a test over donors."""

    permutations: Positive = 1000
    """Draws among matched genes for each p-value."""

    matched: Positive = 100
    """Most genes of similar mean rank a gene is compared with."""

    max_rank_difference: Share = 0.1
    """Largest difference of the mean rank (0 = highest, 1 = lowest) of a matched gene."""

    confidence: Annotated[float, Range(low=0.5, high=0.999)] = 0.95
    """Coverage of intervals."""

    min_detections: Positive = 1
    """Perturbations of fewer cells are left out."""

    seed: Seed = 0
    """Of every draw."""
