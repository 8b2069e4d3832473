"""Which genes are perturbed, and how: what a user names, as edits of token ids.

An entry names one perturbation::

    ISG15                               the gene, with the edit of the run
    ISG15+IFI6                          both together
    interferon=ISG15+IFI6+IFIT1         the same, under a name
    delete:STAT1 > overexpress:ISG15    edits of their own, one after the other
    inhibit@0.25:ISG15                  moved down by a quarter of the cell
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from geneformer.data.dataset import Packed, TokenizedDataset
from geneformer.errors import AbsentGeneError, GroupTooLargeError, OptionError, UnknownGeneError
from geneformer.options import PerturbOptions
from geneformer.options._check import check_choice, check_range, nearest
from geneformer.options.perturbation import EDITS
from geneformer.tasks.adata_inputs import PairedModel
from geneformer.tasks.perturbation.edits import Ints, Perturbation, Step
from geneformer.tasks.perturbation.matched_genes import matched_perturbations
from geneformer.vocab.gene_lookup import known_names, look_up
from geneformer.vocab.vocabulary import Vocabulary

ALL = "all"
"""Every gene of a cell, one at a time."""

_CELLS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What is done to the cells of a run.

    Attributes
    ----------
    named
        Perturbations of all cells they apply to.
    every
        Token ids perturbed one at a time in each cell that has them, ascending; None where only named ones are.
    edit, dose
        What is done to those.
    anchor
        Token id that is perturbed together with each of them.
    genes
        Gene of each token id, ``(V,)``, for names.
    """

    named: tuple[Perturbation, ...]
    every: Ints | None
    edit: str
    dose: float
    anchor: int | None
    genes: np.ndarray

    def of_cell(self, cell: Ints) -> list[Perturbation]:
        """What is done to one cell, whether or not it changes it."""
        return [*self.named, *self._single(cell)]

    def _single(self, cell: Ints) -> Iterable[Perturbation]:
        if self.every is None or (self.anchor is not None and self.anchor not in cell):
            return
        for token in cell[np.isin(cell, self.every)].tolist():
            if token == self.anchor:
                continue
            tokens = (token,)
            if self.anchor is not None:
                # Both keep their order in the cell, as in the published package.
                tokens = tuple(sorted((self.anchor, token), key=lambda t: int(np.flatnonzero(cell == t)[0])))
            yield Perturbation(self.single_name(token), (Step(self.edit, tokens, self.dose),))

    def single_name(self, token: int) -> str:
        """What the perturbation of one of `every` is called."""
        return "+".join(str(self.genes[t]) for t in (self.anchor, token) if t is not None)


def find_targets(tokens: TokenizedDataset, model: PairedModel, options: PerturbOptions) -> Targets:
    """What a user asked for, checked against the cells before anything runs.

    Parameters
    ----------
    tokens
        Cells to be perturbed.
    model
        Whose genes are meant; what is beyond its longest cell is not there.
    options
        Genes, edit, dose, anchor, and the least number of cells with a gene.

    Raises
    ------
    UnknownGeneError
        Names the vocabulary does not have.
    AbsentGeneError
        Genes to be deleted, inhibited or activated that fewer than `options.min_cells` cells have together.
    GroupTooLargeError
        More genes at once than a cell has room for.
    """
    vocabulary = model.vocabulary
    n_cells = cells_with(tokens, model)
    anchor = None if options.anchor is None else gene_tokens([options.anchor], vocabulary)[0]
    every = None
    if ALL in options.genes:
        every = np.flatnonzero(n_cells >= options.min_cells)
        every = every[~np.isin(every, vocabulary.special_ids)]
        if not len(every):
            msg = f"No gene is found in {options.min_cells} or more of the {len(tokens):,} cells. Lower min_cells."
            raise AbsentGeneError(msg)
        _check_anchor(anchor, tokens, n_cells, vocabulary, options.min_cells)
    named = tuple(
        _with_anchor(parse_perturbation(entry, vocabulary, options), anchor) for entry in options.genes if entry != ALL
    )
    for perturbation in named:
        _check_room(perturbation, tokens, model)
        _check_presence(perturbation, tokens, n_cells, model, options.min_cells)
    if options.matched_genes and every is None:
        named = (*named, *matched_perturbations(named, tokens, model, options.matched_genes))
    targets = Targets(named, every, options.edit, options.dose, anchor, vocabulary.gene_of)
    _check_names(targets)
    return targets


def parse_perturbation(entry: str, vocabulary: Vocabulary, options: PerturbOptions) -> Perturbation:
    """One entry as written.

    Examples
    --------
    >>> from geneformer.options import PerturbOptions
    >>> from geneformer.tasks.perturbation.targets import parse_perturbation
    >>> from geneformer.vocab.vocabulary import Vocabulary
    >>> parse_perturbation("delete:STAT1 > overexpress:ISG15", Vocabulary.load("V1"), PerturbOptions()).edit
    'delete > overexpress'
    """
    name, named, written = entry.rpartition("=")
    steps = tuple(_step(part.strip(), vocabulary, options) for part in written.split(">"))
    return Perturbation(name.strip() if named else written.strip(), steps)


def _step(text: str, vocabulary: Vocabulary, options: PerturbOptions) -> Step:
    what, colon, names = text.rpartition(":")
    edit, dose = (what or options.edit), options.dose
    if colon and "@" in edit:
        edit, _, told = edit.partition("@")
        try:
            dose = float(told)
        except ValueError as error:
            msg = f'"{text}" has the dose "{told}", which is no number. Write, for example, inhibit@0.25:ISG15.'
            raise OptionError(msg) from error
    edit = edit.strip()
    check_choice("edit", edit, EDITS)
    check_range("dose", dose, above=0.0, high=1.0)
    return Step(edit, gene_tokens([name.strip() for name in names.split("+")], vocabulary), dose)


def _with_anchor(perturbation: Perturbation, anchor: int | None) -> Perturbation:
    """The anchor joins the genes of the first edit."""
    if anchor is None or anchor in perturbation.tokens:
        return perturbation
    first, *others = perturbation.steps
    return replace(perturbation, steps=(replace(first, tokens=(anchor, *first.tokens)), *others))


def _check_anchor(
    anchor: int | None, tokens: TokenizedDataset, n_cells: Ints, vocabulary: Vocabulary, least: int
) -> None:
    """Every gene is perturbed together with the anchor, in cells that have it."""
    if anchor is None or n_cells[anchor] >= least:
        return
    msg = (
        f"The anchor {vocabulary.symbol_of(str(vocabulary.gene_of[anchor]))} is found in {n_cells[anchor]:,} of the "
        f"{len(tokens):,} cells, and min_cells={least}. Choose another anchor, or other cells."
    )
    raise AbsentGeneError(msg)


def _check_names(targets: Targets) -> None:
    names = [perturbation.name for perturbation in targets.named]
    single = {targets.single_name(token) for token in ([] if targets.every is None else targets.every.tolist())}
    twice = sorted({name for name in names if names.count(name) > 1 or name in single})
    if twice:
        msg = f"Two perturbations are called {twice[0]!r}. Name one of them otherwise: other_name=GENE."
        raise OptionError(msg)


def gene_tokens(names: Sequence[str], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Token id of every name, each once.

    Parameters
    ----------
    names
        Ensembl ids or symbols.
    vocabulary
        Genes that are known.

    Raises
    ------
    UnknownGeneError
        Some names are no genes of the vocabulary.
    """
    found = look_up("genes", names, known_names(vocabulary)).positions
    unknown = [name for name, place in zip(names, found, strict=True) if place < 0]
    if unknown:
        hint = nearest(unknown[0], vocabulary.symbols) if unknown[0] else ""
        msg = (
            f"Not among the {len(vocabulary.genes):,} genes of vocabulary {vocabulary.name}: "
            f"{', '.join(map(repr, unknown[:10]))}. Pass Ensembl ids or symbols.{hint}"
        )
        raise UnknownGeneError(msg)
    return tuple(dict.fromkeys(int(vocabulary.token_ids[place]) for place in found))


def _blocks(tokens: TokenizedDataset, model: PairedModel) -> Iterator[Packed]:
    """Cells as the model sees them, some at a time."""
    for start in range(0, len(tokens), _CELLS_AT_ONCE):
        rows = np.arange(start, min(start + _CELLS_AT_ONCE, len(tokens)))
        yield tokens.gather(rows, max_length=model.max_length)


def cells_with(tokens: TokenizedDataset, model: PairedModel) -> Ints:
    """Cells that have each token, ``(V,)``; a cell has a token once."""
    counts = np.zeros(model.vocabulary.size, dtype=np.int64)
    for block in _blocks(tokens, model):
        counts += np.bincount(block.input_ids, minlength=len(counts))
    return counts


def _cells_with_all(tokens: TokenizedDataset, model: PairedModel, wanted: set[int]) -> int:
    """Cells that have several tokens at once."""
    found = 0
    for block in _blocks(tokens, model):
        cell = np.repeat(np.arange(len(block.cu_seqlens) - 1), np.diff(block.cu_seqlens))
        found += int((np.bincount(cell[np.isin(block.input_ids, list(wanted))]) == len(wanted)).sum())
    return found


def _check_room(perturbation: Perturbation, tokens: TokenizedDataset, model: PairedModel) -> None:
    frame = sum(token is not None for token in (model.vocabulary.cls_id, model.vocabulary.eos_id))
    most = model.max_length - frame
    added = {token for step in perturbation.steps if step.edit == "overexpress" for token in step.tokens}
    if len(added) > most:
        msg = f"{perturbation.name!r} overexpresses {len(added):,} genes at once; a cell has room for {most:,}."
        raise GroupTooLargeError(msg)
    longest = min(int(tokens.lengths.max(initial=0)), model.max_length) - frame
    deleted = max((len(step.tokens) for step in perturbation.steps if step.edit == "delete"), default=0)
    if deleted >= max(longest, 1):
        msg = (
            f"{perturbation.name!r} deletes {deleted:,} genes at once, and the largest cell has {longest:,}: nothing "
            "would be left. Name fewer genes."
        )
        raise GroupTooLargeError(msg)


def _check_presence(
    perturbation: Perturbation, tokens: TokenizedDataset, n_cells: Ints, model: PairedModel, least: int
) -> None:
    """Genes a cell must have are found together in enough cells."""
    vocabulary = model.vocabulary
    needed: set[int] = set()
    added: set[int] = set()
    for step in perturbation.steps:
        if step.edit == "overexpress":
            added |= set(step.tokens)
        else:
            needed |= set(step.tokens) - added
    missing = [vocabulary.symbol_of(str(vocabulary.gene_of[token])) for token in needed if n_cells[token] < least]
    if missing:
        msg = (
            f"{perturbation.name!r} needs cells that have {', '.join(sorted(missing)[:10])}; of the {len(tokens):,} "
            f"cells fewer than {least} do. Leave it out, choose other cells, or overexpress it."
        )
        raise AbsentGeneError(msg)
    if len(needed) > 1:
        together = _cells_with_all(tokens, model, needed)
        if together < least:
            msg = (
                f"{perturbation.name!r} needs cells that have all of its {len(needed)} genes at once; {together} of "
                f"{len(tokens):,} cells do, and min_cells={least}. Name fewer genes together, or one at a time."
            )
            raise AbsentGeneError(msg)
