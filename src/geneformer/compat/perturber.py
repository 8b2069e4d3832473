"""`InSilicoPerturber`: perturbation of tokenized cells, under its published name."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from geneformer import keys
from geneformer.compat.cells import CellStates, listed, mark_tokens, published_cells, read_cell_states
from geneformer.compat.dictionaries import published_vocabulary
from geneformer.compat.networks import check_low_bit, published_model, published_runtime
from geneformer.compat.perturber_files import CELL, Raw, RunFiles, write_cells, write_raw
from geneformer.engine.device import resolve_device
from geneformer.errors import (
    DeviceError,
    GeneformerWarning,
    MissingExtraError,
    OptionError,
    OutOfRangeError,
    StateError,
    UnsupportedArgumentError,
)
from geneformer.files.pickles import write_pickle
from geneformer.files.progress import progress_bar
from geneformer.genes.vocabulary import CLS, EOS, Vocabulary
from geneformer.models.finetuned import quantize_linears
from geneformer.options import PerturbOptions
from geneformer.options._fields import check_choice, whole_number
from geneformer.perturbation.effects import GENE_SIMILARITY, SHIFT, SIMILARITY
from geneformer.perturbation.exact import PerturbedModel
from geneformer.perturbation.plan import PerturbationPlan, gene_tokens, plan_perturbation
from geneformer.perturbation.run import exact_effects
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import read_dataset

if TYPE_CHECKING:
    import pandas as pd


def given_genes(argument: str, genes: Any) -> str | list[str]:
    """The word for all genes, or Ensembl ids in the order given."""
    if isinstance(genes, str) and genes == "all":
        return genes
    names = [] if isinstance(genes, str | set | frozenset) else listed(genes)
    if not names or not all(isinstance(name, str) for name in names):
        msg = f'{argument}={genes!r} is neither "all" nor a list of Ensembl ids. Write ["ENSG00000187608"].'
        raise OptionError(msg)
    return names


def state_names(states: CellStates | None) -> dict[str, Any]:
    """The user's values of the states by their names as text: start, goal, alternates; none without states."""
    values = () if states is None else states.all
    named = dict(zip(map(str, values), values, strict=True))
    if len(named) < len(values):
        msg = f"Two of the states {list(values)} read the same. Rename one of them in the column of the cells."
        raise StateError(msg)
    return named


def state_vectors(states: CellStates | None, embeddings: Mapping[Any, Any] | None) -> dict[str, Any] | None:
    """Embeddings of the states by their names, on the host, ``(D,)`` each; None without states."""
    if states is None:
        return None
    missing = [state for state in states.all if state not in (embeddings or {})]
    if embeddings is None or missing:
        msg = (
            f"cell_states_to_model needs state_embs_dict with an embedding of each state; {missing} are missing. Make "
            "it with EmbExtractor(summary_stat=...).get_state_embs."
        )
        raise StateError(msg)
    import torch

    vectors: dict[str, Any] = {}
    for name, state in state_names(states).items():
        try:
            vector = torch.as_tensor(embeddings[state])
        except (TypeError, ValueError, RuntimeError) as error:
            msg = f"state_embs_dict[{state!r}] is no tensor, array or list of numbers ({error})."
            raise StateError(msg) from error
        vectors[name] = vector.detach().to("cpu", torch.float32).reshape(-1).numpy()
    return vectors


_QUANTIZED = "-Quantized"

MODEL_TYPES = (
    "Pretrained",
    "GeneClassifier",
    "CellClassifier",
    "MTLCellClassifier",
    "MTLCellClassifier-Quantized",
    "Pretrained-Quantized",
)
"""Published types; of all of them the encoder is read."""


def open_model(model_type: str, folder: str | Path, vocabulary: Vocabulary, *, num_classes: int = 0) -> PerturbedModel:
    """The encoder of a model of a published type."""
    quantized = model_type.endswith(_QUANTIZED)
    if quantized:
        _check_quantized(model_type)
    told = num_classes if model_type in ("CellClassifier", "GeneClassifier") else 0
    model = PerturbedModel.pretrained(published_model(folder, vocabulary, num_classes=told))
    if quantized:
        quantize_linears(model.encoder, "8bit")
    return model


def _check_quantized(model_type: str) -> None:
    try:
        check_low_bit("8bit", resolve_device("auto"))
    except (DeviceError, MissingExtraError) as error:
        plain = model_type.removesuffix(_QUANTIZED)
        reason = str(error).partition(": ")[2]
        msg = f'model_type="{model_type}" cannot run here: {reason} In other words, use model_type="{plain}".'
        raise type(error)(msg) from error


Tokens = tuple[int, ...]

UNCHANGED = 1.0
"""Similarity of a cell that a perturbation leaves as it is; its shifts are 0."""


@dataclass(slots=True)
class CellEffects:
    """Effects on one cell, by the tokens that were perturbed."""

    similarity: dict[Tokens, float] = field(default_factory=dict)
    shifts: dict[Tokens, dict[str, float]] = field(default_factory=dict)
    genes: dict[Tokens, dict[int, float]] = field(default_factory=dict)


def by_cell(effects: pa.Table, cells: range, token_of: Mapping[str, int]) -> list[CellEffects]:
    """Effects of a table whose cells are called by their numbers, one entry per cell."""
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
    """Effects of single perturbations on a cell; with states, by state."""
    if not states:
        return {(key_of(tokens), CELL): [value] for tokens, value in cell.similarity.items()}
    return {
        state: {(key_of(tokens), CELL): [shifts[name]] for tokens, shifts in cell.shifts.items()}
        for name, state in states.items()
    }


def anchored_effects(alone: CellEffects, pairs: CellEffects, anchor: int) -> Raw:
    """Three similarities of every gene: of the anchor alone, of the gene alone, of both."""
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
    """Effects of one perturbation on all cells, one number per cell; and on their other genes."""
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


STATE = "state"
"""Column of the perturbed cells with the name of the start, as options have to name it."""


@dataclass(frozen=True, slots=True, eq=False)
class PerturbationRun:
    """Cells with a model, and where their effects go."""

    model: PerturbedModel
    cells: TokenizedDataset
    files: RunFiles
    states: Mapping[str, Any]
    vectors: Mapping[str, Any] | None
    forward_batch_size: int
    file_size: int

    def perturb_together(self, tokens: tuple[int, ...], options: PerturbOptions) -> None:
        """Write what one perturbation of several genes does to all cells."""
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
        """Write what perturbing each gene of a cell does to it; a cell's files as soon as it is done."""
        for number, [cell] in self._cell_effects([self._plan(options)]):
            self._write(start + number, single_effects(cell, self.states), gene_effects(cell))

    def perturb_with_anchor(self, single: PerturbOptions, pairs: PerturbOptions, start: int) -> None:
        """Write what perturbing each gene with an anchor does to a cell; without states, beside both alone."""
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
    """What is known about perturbed cells: number, row of the input, columns; last the name, where they have one."""
    names = sorted(cells.columns, key=lambda name: name == keys.CELL_ID)
    table: pd.DataFrame = cells.table.select(names).to_pandas()
    table.insert(0, "cell", list(range(start, start + len(rows))), allow_duplicates=True)
    table.insert(1, "row", list(rows), allow_duplicates=True)
    return table


_logger = logging.getLogger(__name__)

_EDITS = ("overexpress", "delete", "inhibit", "activate")
_MODES = ("cls", "cell", "cls_and_gene", "cell_and_gene")
_CELLS_AT_ONCE = 16
_QUARTILES = 4


class InSilicoPerturber:
    """Deletes or overexpresses genes in tokenized cells, and writes how far that moves the cells.

    The network runs on whatever device there is, in float32. Of the model the encoder is read; heads are not needed.

    Parameters
    ----------
    perturb_type
        "delete"; "overexpress", to the front; "inhibit" or "activate", down or up by `perturb_rank_shift`.
    perturb_rank_shift
        Quarters of a cell's genes that "inhibit" and "activate" move a gene past: 1, 2 or 3; None for all of them.
        Without meaning for the other types, which say so.
    genes_to_perturb
        "all", every gene of a cell, one at a time; or a list of Ensembl ids that are perturbed together. Deletion,
        inhibition and activation are of the cells that have all of them.
    combos
        0, or 1: every gene is perturbed alone and together with `anchor_gene`.
    anchor_gene
        Ensembl id. Only cells that have it are perturbed.
    model_type
        "Pretrained", "GeneClassifier", "CellClassifier" or "MTLCellClassifier"; "Pretrained-Quantized" and
        "MTLCellClassifier-Quantized" keep dense layers in 8 bits, where the device can.
    num_classes
        Classes of the head, if told. The head is not read; a model with another number of classes is refused.
    emb_mode
        "cls" or "cell": the embedding of a cell is the state of `<cls>`, or the mean over its genes. With "_and_gene",
        effects on every other gene are written too. V1 has no `<cls>`: its cells are embedded as with "cell".
    cell_emb_style
        "mean_pool".
    filter_data
        Accepted values by column.
    cell_states_to_model
        ``{"state_key": column, "start_state": ..., "goal_state": ..., "alt_states": [...]}``: cells of the start are
        perturbed, and shifts towards all states are written.
    state_embs_dict
        Embedding of each of these states, as `EmbExtractor.get_state_embs` makes them: tensors of ``(D,)``.
    max_ncells
        Most cells, drawn with seed 42. All by default.
    cell_inds_to_perturb
        "all", or a slice ``{"start": 0, "end": 100}`` of the chosen cells, longest first.
    emb_layer
        -1 for the layer before the last, 0 for the last.
    token_dictionary_file
        Pickle with the token of each gene; by default that of the version.
    forward_batch_size
        At most as many of the longest cells in one pass; says how, not what.
    nproc
        Has nothing to do: no worker processes are needed.
    model_version
        "V1" or "V2".
    clear_mem_ncells
        Most single perturbations of a cell in one file.

    Raises
    ------
    OptionError
        A value that is not among those told.
    UnknownGeneError
        A gene that the dictionary does not have.
    StateError
        States in another form, or without embeddings.
    UnsupportedArgumentError
        Arguments that do not go together.

    Examples
    --------
    >>> from geneformer import InSilicoPerturber
    >>> perturber = InSilicoPerturber(perturb_type="delete", genes_to_perturb=["ENSG00000187608"], model_version="V1")
    >>> perturber.tokens_to_perturb
    [16018]
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        perturb_type: str = "delete",
        perturb_rank_shift: int | None = None,
        genes_to_perturb: str | list[str] = "all",
        combos: int = 0,
        anchor_gene: str | None = None,
        model_type: str = "Pretrained",
        num_classes: int = 0,
        emb_mode: str = "cls",
        cell_emb_style: str = "mean_pool",
        filter_data: Mapping[str, Any] | None = None,
        cell_states_to_model: Mapping[str, Any] | None = None,
        state_embs_dict: Mapping[Any, Any] | None = None,
        max_ncells: int | None = None,
        cell_inds_to_perturb: str | Mapping[str, int] = "all",
        emb_layer: int = -1,
        forward_batch_size: int = 100,
        nproc: int = 4,
        model_version: str = "V2",
        token_dictionary_file: str | Path | None = None,
        clear_mem_ncells: int = 1000,
    ) -> None:
        self.perturb_type = perturb_type
        self.perturb_rank_shift = perturb_rank_shift
        self.genes_to_perturb = given_genes("genes_to_perturb", genes_to_perturb)
        self.combos = combos
        self.anchor_gene = anchor_gene
        self.model_type = model_type
        self.num_classes = whole_number("num_classes", num_classes, low=0)
        self.emb_mode = emb_mode
        self.cell_emb_style = cell_emb_style
        self.filter_data = filter_data
        self.cell_states_to_model = cell_states_to_model
        self.state_embs_dict = state_embs_dict
        self.max_ncells = whole_number("max_ncells", max_ncells, low=1)
        self.cell_inds_to_perturb = cell_inds_to_perturb
        self.emb_layer = emb_layer
        self.forward_batch_size = whole_number("forward_batch_size", forward_batch_size, low=1)
        self.nproc = whole_number("nproc", nproc, low=1)
        self.model_version = model_version
        self.token_dictionary_file = token_dictionary_file
        self.clear_mem_ncells = whole_number("clear_mem_ncells", clear_mem_ncells, low=1)
        self._check_values()
        self._vocabulary = published_vocabulary(model_version, token_dictionary_file)
        self._part = _slice_of(cell_inds_to_perturb)
        self._states = None if cell_states_to_model is None else read_cell_states(cell_states_to_model)
        self._names = state_names(self._states)
        self._vectors = state_vectors(self._states, state_embs_dict)
        self._check_together()
        self.tokens_to_perturb = (
            self.genes_to_perturb
            if isinstance(self.genes_to_perturb, str)
            else list(gene_tokens(self.genes_to_perturb, self._vocabulary))
        )
        self._anchor = None if self.anchor_gene is None else gene_tokens([self.anchor_gene], self._vocabulary)[0]

    def _check_values(self) -> None:
        """Refuse values that are not among those accepted, one by one."""
        check_choice("perturb_type", self.perturb_type, _EDITS)
        check_choice("perturb_rank_shift", self.perturb_rank_shift, (None, 1, 2, 3))
        check_choice("combos", self.combos, (0, 1))
        check_choice("model_type", self.model_type, MODEL_TYPES)
        check_choice("emb_mode", self.emb_mode, _MODES)
        check_choice("cell_emb_style", self.cell_emb_style, ("mean_pool",))
        check_choice("emb_layer", self.emb_layer, (-1, 0))
        filters: Any = self.filter_data
        if filters is not None and not isinstance(filters, Mapping):
            msg = f"filter_data={filters!r} is no dictionary of accepted values by column."
            raise OptionError(msg)

    def _check_together(self) -> None:
        """What values mean for each other."""
        if self.combos and self.anchor_gene is None:
            msg = "combos=1 perturbs every gene together with another one. Name that one with anchor_gene."
            raise UnsupportedArgumentError(msg)
        if self.perturb_rank_shift is not None and self.perturb_type in ("delete", "overexpress"):
            _warn(f'perturb_rank_shift has no meaning for perturb_type="{self.perturb_type}" and is left out.')
            self.perturb_rank_shift = None
        if self.combos and self.genes_to_perturb != "all":
            _warn("combos=1 has no meaning for a list of genes, which are perturbed together, and is left out.")
            self.combos = 0
        if self._states is not None and self.anchor_gene is not None and not self.combos:
            _warn("anchor_gene has no meaning with states of cells and combos=0, and is left out.")
            self.anchor_gene = None
        if self._states is None and self.state_embs_dict is not None:
            _warn("state_embs_dict has no meaning without cell_states_to_model, and is left out.")
        if self.model_version == "V1" and self.emb_mode.startswith("cls"):
            self.emb_mode = self.emb_mode.replace("cls", "cell")
            _logger.info('V1 has no <cls> token: emb_mode is "%s"', self.emb_mode)

    @cached_property
    def gene_token_dict(self) -> dict[str, int]:
        """Token of each gene and of the special tokens."""
        return {**self._vocabulary.special_tokens, **self._vocabulary.token_of}

    @cached_property
    def token_gene_dict(self) -> dict[int, str]:
        """Gene or special token of each id."""
        return {token: gene for gene, token in self.gene_token_dict.items()}

    @property
    def pad_token_id(self) -> int:
        """Id of `<pad>`."""
        return self._vocabulary.pad_id

    @property
    def special_token(self) -> bool:
        """Whether the dictionary has `<cls>` and `<eos>`."""
        return {CLS, EOS} <= set(self._vocabulary.special_tokens)

    def perturb_data(
        self,
        model_directory: str | Path,
        input_data_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
    ) -> None:
        """Perturb cells and write what came of it, in the published form.

        Every gene, one at a time: `in_silico_<type>_<prefix>_dict_cell_embs_<cell>batch<n>_raw.pickle` for each cell,
        written as soon as the cell is done. A list: `in_silico_<type>_<prefix>_cell_embs_dict_<tokens>_raw.pickle`.
        Effects on genes have `gene_embs` in place of `cell_embs`. A table that ends with `_cells.csv` says which cell
        is which: `cell` is the number in the names of files, or the place in lists of numbers, plus the start of the
        slice; `row` is its row in the input. Numbers of cells are those of the whole run, so that slices keep apart.

        Parameters
        ----------
        model_directory
            Model folder, or a name that `geneformer.load_model` knows.
        input_data_file
            Folder of the tokenized cells.
        output_directory
            Folder for the files; made if it is missing.
        output_prefix
            What the run is called in their names.

        Raises
        ------
        NoCellsError, AbsentGeneError
            No cells are left to perturb.
        PairingError
            Cells, model and dictionary do not belong together.
        DeviceError
            A quantized model where the device cannot run it.
        OutputError
            The folder cannot be written to.
        """
        files = RunFiles.prepare(output_directory, self.perturb_type, output_prefix, self._part)
        model = open_model(self.model_type, model_directory, self._vocabulary, num_classes=self.num_classes)
        everyone = mark_tokens(read_dataset(input_data_file), model.vocabulary)
        rows = self._cells(everyone)
        cells = everyone.take(rows)
        start = 0 if self._part is None else self._part[0]
        table = cells_table(cells, rows.tolist(), start)
        run = PerturbationRun(
            model=model,
            cells=cells,
            files=files,
            states=self._names,
            vectors=self._vectors,
            forward_batch_size=self.forward_batch_size,
            file_size=self.clear_mem_ncells,
        )
        if isinstance(self.tokens_to_perturb, list):
            tokens = tuple(self.tokens_to_perturb)
            run.perturb_together(tokens, self._options("+".join(str(self._vocabulary.gene_of[t]) for t in tokens)))
            write_cells(table, files.cells_of_group(tokens))
            return
        write_cells(table, files.cells)
        if not self.combos:
            run.perturb_each(self._options("all"), start)
        else:
            run.perturb_with_anchor(self._options("all"), self._options("all", anchored=True), start)

    def _cells(self, everyone: TokenizedDataset) -> Any:
        """Rows of the cells to be perturbed, in published order."""
        filters = [{column: listed(values) for column, values in (self.filter_data or {}).items()}]
        if self._states is not None:
            filters.append({self._states.key: [self._states.start]})
        genes: list[tuple[str, Sequence[int]]] = []
        if isinstance(self.tokens_to_perturb, list) and self.perturb_type != "overexpress":
            genes.append(("genes_to_perturb", self.tokens_to_perturb))
        if self._anchor is not None:
            genes.append(("anchor_gene", [self._anchor]))
        return published_cells(everyone, filters, genes, max_cells=self.max_ncells, part=self._part)

    def _options(self, genes: str, *, anchored: bool = False) -> PerturbOptions:
        """One perturbation, or all single ones, as options of this package."""
        names: dict[str, Any] = {}
        if self._names:
            start, goal, *alternates = self._names
            names = {"start": start, "goal": goal, "alternates": tuple(alternates), "state_key": STATE}
        together = genes != "all"
        on_genes = self.emb_mode.endswith("_and_gene")
        return PerturbOptions(
            genes=(genes,),
            anchor=self.anchor_gene if anchored else None,
            edit=self.perturb_type,  # type: ignore[arg-type]
            dose=1.0 if self.perturb_rank_shift is None else self.perturb_rank_shift / _QUARTILES,
            pooling="cls" if self.emb_mode.startswith("cls") else "mean",
            layer=self.emb_layer,
            gene_effects=on_genes,
            cells_per_shard=self.forward_batch_size if together else 1 if on_genes else _CELLS_AT_ONCE,
            **names,
        )


def _slice_of(told: str | Mapping[str, int]) -> tuple[int, int] | None:
    """A slice of the cells; None for all."""
    if isinstance(told, str) and told == "all":
        return None
    if not isinstance(told, Mapping) or set(told) != {"start", "end"}:
        msg = f'cell_inds_to_perturb={told!r} is neither "all" nor a slice such as {{"start": 0, "end": 100}}.'
        raise OptionError(msg)
    start = whole_number("start of cell_inds_to_perturb", told["start"], low=0)
    end = whole_number("end of cell_inds_to_perturb", told["end"], low=0)
    if end <= start:
        msg = f"cell_inds_to_perturb={dict(told)} is empty: its end is not above its start."
        raise OutOfRangeError(msg)
    return start, end


def _warn(message: str) -> None:
    warnings.warn(message, GeneformerWarning, stacklevel=4)


def get_possible_states(cell_states_to_model: Mapping[str, Any]) -> list[Any]:
    """Start, goal and alternate states, in this order.

    Parameters
    ----------
    cell_states_to_model
        `state_key`, `start_state`, `goal_state` and, if any, `alt_states`.

    Raises
    ------
    StateError
        A part is missing, or states are the same.
    """
    return list(read_cell_states(cell_states_to_model).all)


def write_perturbation_dictionary(cos_sims_dict: Mapping[Any, Any], output_path_prefix: str | Path) -> None:
    """Write shifts by tokens perturbed to `<output_path_prefix>_raw.pickle`; dots in the prefix stay.

    Raises
    ------
    OutputError
        The place cannot be written to.
    """
    write_pickle(cos_sims_dict, f"{output_path_prefix}_raw.pickle")
