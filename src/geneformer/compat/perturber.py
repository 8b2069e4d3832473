"""`InSilicoPerturber`: perturbation of tokenized cells, under its published name."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from geneformer import errors, keys
from geneformer.compat.cells import CellStates, listed, mark_tokens, published_cells, read_cell_states
from geneformer.compat.dictionaries import published_vocabulary
from geneformer.compat.networks import MODEL_TYPES, QUANTIZED, check_low_bit, published_model, published_runtime
from geneformer.compat.perturber_files import CELL, Raw, RunFiles, write_cells, write_raw
from geneformer.engine.device import resolve_device
from geneformer.files.pickles import write_pickle
from geneformer.files.progress import progress_bar
from geneformer.genes.vocabulary import CLS, EOS
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

_logger = logging.getLogger(__name__)

Tokens = tuple[int, ...]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "perturb_type": ("overexpress", "delete", "inhibit", "activate"),
    "perturb_rank_shift": (None, 1, 2, 3),
    "combos": (0, 1),
    "model_type": MODEL_TYPES,
    "emb_mode": ("cls", "cell", "cls_and_gene", "cell_and_gene"),
    "cell_emb_style": ("mean_pool",),
    "emb_layer": (-1, 0),
}
_LOWEST = {"num_classes": 0, "max_ncells": 1, "forward_batch_size": 1, "nproc": 1, "clear_mem_ncells": 1}

_QUARTERS = 4
"""`perturb_rank_shift` counts quarters of a cell's genes."""

_CELLS_AT_ONCE = 16
"""Cells perturbed gene by gene before their files are written."""

_STATE = "state"
"""Column of the perturbed cells with the name of the start, as options have to name it."""


@dataclass(eq=False, repr=False)
class InSilicoPerturber:
    """Deletes or overexpresses genes in tokenized cells, and writes how far that moves the cells.

    The network runs on whatever device there is, in float32. Of the model the encoder is read; heads are not needed.

    Parameters
    ----------
    perturb_type : "delete"; "overexpress", to the front; "inhibit" or "activate", down or up by `perturb_rank_shift`.
    perturb_rank_shift
        Quarters of a cell's genes that "inhibit" and "activate" move a gene past: 1, 2 or 3; None for all of them.
        Without meaning for the other types, which say so.
    genes_to_perturb
        "all", every gene of a cell, one at a time; or a list of Ensembl ids that are perturbed together. Deletion,
        inhibition and activation are of the cells that have all of them.
    combos : 0, or 1: every gene is perturbed alone and together with `anchor_gene`.
    anchor_gene : Ensembl id. Only cells that have it are perturbed.
    model_type
        "Pretrained", "GeneClassifier", "CellClassifier" or "MTLCellClassifier"; "Pretrained-Quantized" and
        "MTLCellClassifier-Quantized" keep dense layers in 8 bits, where the device can.
    num_classes
        Classes of the head, where known. The head is not read; a model with another number of classes is refused.
    emb_mode
        "cls" or "cell": the embedding of a cell is the state of `<cls>`, or the mean over its genes. With "_and_gene",
        effects on every other gene are written too. V1 has no `<cls>`: its cells are embedded as with "cell".
    cell_emb_style : "mean_pool".
    filter_data : Accepted values by column.
    cell_states_to_model
        ``{"state_key": column, "start_state": ..., "goal_state": ..., "alt_states": [...]}``: cells of the start are
        perturbed, and shifts towards all states are written.
    state_embs_dict
        Embedding of each of these states, as `EmbExtractor.get_state_embs` makes them: tensors of ``(D,)``.
    max_ncells : Most cells, drawn with seed 42. All by default.
    cell_inds_to_perturb : "all", or a slice ``{"start": 0, "end": 100}`` of the chosen cells, longest first.
    emb_layer : -1 for the layer before the last, 0 for the last.
    token_dictionary_file : Pickle with the token of each gene; by default that of the version.
    forward_batch_size : At most as many of the longest cells in one pass; says how, not what.
    nproc : Has nothing to do: no worker processes are needed.
    model_version : "V1" or "V2".
    clear_mem_ncells : Most single perturbations of a cell in one file.

    Raises
    ------
    OptionError : A value that the argument does not take.
    UnknownGeneError : A gene that the dictionary does not have.
    StateError : States in another form, or without embeddings.
    UnsupportedArgumentError : Arguments that do not go together.

    Examples
    --------
    >>> from geneformer import InSilicoPerturber
    >>> perturber = InSilicoPerturber(perturb_type="delete", genes_to_perturb=["ENSG00000187608"], model_version="V1")
    >>> perturber.tokens_to_perturb
    [16018]
    """

    perturb_type: str = "delete"
    perturb_rank_shift: int | None = None
    genes_to_perturb: str | list[str] = "all"
    combos: int = 0
    anchor_gene: str | None = None
    model_type: str = "Pretrained"
    num_classes: int = 0
    emb_mode: str = "cls"
    cell_emb_style: str = "mean_pool"
    filter_data: Mapping[str, Any] | None = None
    cell_states_to_model: Mapping[str, Any] | None = None
    state_embs_dict: Mapping[Any, Any] | None = None
    max_ncells: int | None = None
    cell_inds_to_perturb: str | Mapping[str, int] = "all"
    emb_layer: int = -1
    forward_batch_size: int = 100
    nproc: int = 4
    model_version: str = "V2"
    token_dictionary_file: str | Path | None = None
    clear_mem_ncells: int = 1000

    def __post_init__(self) -> None:
        self.genes_to_perturb = given_genes("genes_to_perturb", self.genes_to_perturb)
        for name, low in _LOWEST.items():
            setattr(self, name, whole_number(name, getattr(self, name), low=low))
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        filters: Any = self.filter_data
        if filters is not None and not isinstance(filters, Mapping):
            msg = f"filter_data={filters!r} is no dictionary of accepted values by column."
            raise errors.OptionError(msg)
        vocabulary = published_vocabulary(self.model_version, self.token_dictionary_file)
        self._vocabulary = vocabulary
        self.gene_token_dict: dict[str, int] = {**vocabulary.special_tokens, **vocabulary.token_of}
        self.token_gene_dict: dict[int, str] = {token: gene for gene, token in self.gene_token_dict.items()}
        self.pad_token_id: int = vocabulary.pad_id
        self.special_token = {CLS, EOS} <= set(vocabulary.special_tokens)
        self._part = _slice_of(self.cell_inds_to_perturb)
        self._states = None if self.cell_states_to_model is None else read_cell_states(self.cell_states_to_model)
        self._names = state_names(self._states)
        self._vectors = _state_vectors(self._states, self.state_embs_dict)
        self._settle_conflicts()
        self.tokens_to_perturb = (
            self.genes_to_perturb
            if isinstance(self.genes_to_perturb, str)
            else list(gene_tokens(self.genes_to_perturb, self._vocabulary))
        )
        self._anchor = None if self.anchor_gene is None else gene_tokens([self.anchor_gene], self._vocabulary)[0]

    def _settle_conflicts(self) -> None:
        """Leave out, with a warning, arguments that have no meaning next to others."""
        if self.combos and self.anchor_gene is None:
            msg = "combos=1 perturbs every gene together with another one. Name that one with anchor_gene."
            raise errors.UnsupportedArgumentError(msg)
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

    def perturb_data(
        self,
        model_directory: str | Path,
        input_data_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
    ) -> None:
        """Perturb cells and write its effects, in the published form.

        Every gene, one at a time: `in_silico_<type>_<prefix>_dict_cell_embs_<cell>batch<n>_raw.pickle` for each cell,
        written as soon as the cell is done. A list: `in_silico_<type>_<prefix>_cell_embs_dict_<tokens>_raw.pickle`.
        Effects on genes have `gene_embs` in place of `cell_embs`. A table that ends with `_cells.csv` says which cell
        is which: `cell` is the number in the names of files, or the place in lists of numbers, plus the start of the
        slice; `row` is its row in the input. Numbers of cells are those of the whole run, so that slices keep apart.

        Parameters
        ----------
        model_directory : Model folder, or a name that `geneformer.load_model` knows.
        input_data_file : Folder of the tokenized cells.
        output_directory : Folder for the files; made if it is missing.
        output_prefix : What the run is called in their names.

        Raises
        ------
        NoCellsError, AbsentGeneError : No cells are left to perturb.
        PairingError : Cells, model and dictionary do not belong together.
        DeviceError : A quantized model where the device cannot run it.
        OutputError : The folder cannot be written to.
        """
        files = RunFiles.prepare(output_directory, self.perturb_type, output_prefix, self._part)
        model = self._open_model(model_directory)
        everyone = mark_tokens(read_dataset(input_data_file), model.vocabulary)
        rows = self._rows(everyone)
        cells = everyone.take(rows)
        start = 0 if self._part is None else self._part[0]
        table = _cells_table(cells, rows.tolist(), start)
        run = _Run(
            model=model,
            cells=cells,
            files=files,
            states=self._names,
            vectors=self._vectors,
            forward_batch_size=self.forward_batch_size,
            file_size=self.clear_mem_ncells,
            start=start,
        )
        if isinstance(self.tokens_to_perturb, list):
            tokens = tuple(self.tokens_to_perturb)
            run.perturb_together(tokens, self._options("+".join(str(self._vocabulary.gene_of[t]) for t in tokens)))
            write_cells(table, files.cells_of_group(tokens))
            return
        write_cells(table, files.cells)
        if self.combos and self._anchor is not None:
            run.perturb_each(self._options("all"), self._options("all", anchored=True), self._anchor)
        else:
            run.perturb_each(self._options("all"))

    def _open_model(self, folder: str | Path) -> PerturbedModel:
        """The encoder of the model; quantized, where the type says so and the device can."""
        plain = self.model_type.removesuffix(QUANTIZED)
        if self.model_type != plain:
            try:
                check_low_bit("8bit", resolve_device("auto"))
            except (errors.DeviceError, errors.MissingExtraError) as error:
                reason = str(error).partition(": ")[2]
                msg = (
                    f'model_type="{self.model_type}" cannot run here: {reason} In other words, use '
                    f'model_type="{plain}".'
                )
                raise type(error)(msg) from error
        n_classes = self.num_classes if plain in ("CellClassifier", "GeneClassifier") else 0
        model = PerturbedModel.pretrained(published_model(folder, self._vocabulary, num_classes=n_classes))
        if self.model_type != plain:
            quantize_linears(model.encoder, "8bit")
        return model

    def _rows(self, everyone: TokenizedDataset) -> Any:
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
            names = {"start": start, "goal": goal, "alternates": tuple(alternates), "state_key": _STATE}
        together = genes != "all"
        on_genes = self.emb_mode.endswith("_and_gene")
        return PerturbOptions(
            genes=(genes,),
            anchor=self.anchor_gene if anchored else None,
            edit=self.perturb_type,  # type: ignore[arg-type]
            dose=1.0 if self.perturb_rank_shift is None else self.perturb_rank_shift / _QUARTERS,
            pooling="cls" if self.emb_mode.startswith("cls") else "mean",
            layer=self.emb_layer,
            gene_effects=on_genes,
            cells_per_shard=self.forward_batch_size if together else 1 if on_genes else _CELLS_AT_ONCE,
            **names,
        )


def get_possible_states(cell_states_to_model: Mapping[str, Any]) -> list[Any]:
    """Start, goal and alternate states, in this order; `StateError` where a part is missing, or states are the same."""
    return list(read_cell_states(cell_states_to_model).all)


def write_perturbation_dictionary(cos_sims_dict: Mapping[Any, Any], output_path_prefix: str | Path) -> None:
    """Write shifts by tokens perturbed to `<output_path_prefix>_raw.pickle`; dots in the prefix stay."""
    write_pickle(cos_sims_dict, f"{output_path_prefix}_raw.pickle")


@dataclass(slots=True)
class _CellEffects:
    """Effects on one cell, on itself, on its other genes: by the token, or tuple, that was perturbed."""

    similarity: dict[Any, float] = field(default_factory=dict)
    shifts: dict[Any, dict[str, float]] = field(default_factory=dict)
    genes: dict[Any, dict[int, float]] = field(default_factory=dict)

    def on_cell(self, states: Mapping[str, Any]) -> Raw:
        """Effects on the cell as they are stored; with states, by state."""
        if not states:
            return {(perturbed, CELL): [value] for perturbed, value in self.similarity.items()}
        return {
            state: {(perturbed, CELL): [shifts[name]] for perturbed, shifts in self.shifts.items()}
            for name, state in states.items()
        }

    def on_genes(self) -> Raw:
        """Effects on the other genes of the cell as they are stored."""
        return {
            (perturbed, affected): [value]
            for perturbed, others in self.genes.items()
            for affected, value in others.items()
        }


def _one_or_tuple(tokens: Tokens) -> Any:
    return tokens[0] if len(tokens) == 1 else tokens


_UNCHANGED = 1.0
"""Similarity of a cell that a perturbation leaves as it is; its shifts are 0."""


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Cells with a model, and where their effects go."""

    model: PerturbedModel
    cells: TokenizedDataset
    files: RunFiles
    states: Mapping[str, Any]
    vectors: Mapping[str, Any] | None
    forward_batch_size: int
    file_size: int
    start: int
    """Number of the first cell in the names of files."""

    def perturb_together(self, tokens: Tokens, options: PerturbOptions) -> None:
        """Write what one perturbation of several genes does to all cells, and to their other genes."""
        cells = [effects for _, [effects] in self._effects([self._plan(options)])]
        deletes = options.edit == "delete"
        # Of a cell without any other gene a deletion leaves nothing to compare.
        unchanged = float("nan") if deletes else _UNCHANGED
        perturbed = _one_or_tuple(tokens)
        on_cells: Raw = {(perturbed, CELL): [cell.similarity.get(perturbed, unchanged) for cell in cells]}
        if self.states:
            on_cells = {
                state: {(perturbed, CELL): [cell.shifts.get(perturbed, {}).get(name, unchanged - 1) for cell in cells]}
                for name, state in self.states.items()
            }
        write_raw(on_cells, self.files.of_group("cell", tokens))
        if not options.gene_effects:
            return
        ignored = {*tokens, *self.model.vocabulary.special_ids.tolist()}
        on_genes: Raw = {}
        for row, cell in enumerate(cells):
            effects = cell.genes.get(perturbed, {})
            if not deletes and perturbed not in cell.genes:
                effects = {token: unchanged for token in self.cells[row].tolist() if token not in ignored}
            for affected, value in effects.items():
                on_genes.setdefault((perturbed, affected), []).append(value)
        write_raw(on_genes, self.files.of_group("gene", tokens))

    def perturb_each(self, single: PerturbOptions, pairs: PerturbOptions | None = None, anchor: int = -1) -> None:
        """Write what perturbing each gene of a cell does to it; a cell's files as soon as it is done.

        With pairs each gene is perturbed together with an anchor; without states, what both do alone is written too.
        """
        options = [single] if pairs is None else [pairs] if self.states else [single, pairs]
        for number, effects in self._effects([self._plan(each) for each in options], anchor):
            cell, on_cell = effects[-1], effects[-1].on_cell(self.states)
            if len(effects) == 2:
                alone = effects[0].similarity
                of_anchor = alone.get(anchor, _UNCHANGED)
                on_cell = {
                    (gene, CELL): [(of_anchor, alone.get(gene, _UNCHANGED), together)]
                    for (_, gene), together in cell.similarity.items()
                }
            self._write(number, on_cell, cell.on_genes())

    def _plan(self, options: PerturbOptions) -> PerturbationPlan:
        """A checked run, its cells called by their numbers."""
        columns = {
            keys.INPUT_IDS: self.cells.table.column(keys.INPUT_IDS),
            keys.CELL_ID: [str(number) for number in range(len(self.cells))],
        }
        if self.states:
            columns[_STATE] = [next(iter(self.states))] * len(self.cells)
        tokens = TokenizedDataset(pa.table(columns), vocabulary=self.cells.vocabulary)
        runtime = published_runtime(self.model.encoder, self.forward_batch_size)
        return plan_perturbation(tokens, self.model, options, runtime, states=self.vectors)

    def _effects(self, plans: Sequence[PerturbationPlan], anchor: int = -1) -> Iterator[tuple[int, list[_CellEffects]]]:
        """Number of each cell, with the effects that every plan has on it; an anchor comes first among its tokens."""
        first = plans[0]
        with progress_bar("perturb") as progress:
            for shard in range(first.n_shards):
                rows = first.rows_of(shard)
                cells = first.token_rows(rows)
                tables = [exact_effects(plan, rows, [plan.targets.of_cell(cell) for cell in cells]) for plan in plans]
                by_plan = [self._by_cell(table, range(int(rows[0]), int(rows[-1]) + 1), anchor) for table in tables]
                yield from enumerate(map(list, zip(*by_plan, strict=True)), start=self.start + int(rows[0]))
                progress(shard + 1, first.n_shards)

    def _by_cell(self, effects: pa.Table, numbers: range, anchor: int) -> list[_CellEffects]:
        """Effects of a table whose cells are called by their numbers, one entry per cell."""
        token_of = self.model.vocabulary.token_of
        cells = [_CellEffects() for _ in numbers]
        key_of: dict[str, Any] = {}
        names = ("cell_id", "genes", "effect", "target", "value")
        for cell, genes, kind, target, value in zip(*(effects.column(n).to_pylist() for n in names), strict=True):
            if genes not in key_of:
                tokens = (int(token_of[gene]) for gene in genes.split("+"))
                key_of[genes] = _one_or_tuple(tuple(sorted(tokens, key=lambda token: token != anchor)))
            perturbed, entry = key_of[genes], cells[int(cell) - numbers.start]
            if kind == SIMILARITY:
                entry.similarity[perturbed] = value
            elif kind == SHIFT:
                entry.shifts.setdefault(perturbed, {})[target] = value
            elif kind == GENE_SIMILARITY:
                entry.genes.setdefault(perturbed, {})[int(token_of[target])] = value
        return cells

    def _write(self, cell: int, on_cell: Raw, on_genes: Raw) -> None:
        """The files of one cell; the first one is called -1, as it always was."""
        for kind, content in (("cell", on_cell), ("gene", on_genes)):
            for batch, part in enumerate(_parts(content, self.file_size), start=-1):
                write_raw(part, self.files.of_cell(kind, cell, batch))


def _parts(content: Raw, size: int) -> Iterator[Raw]:
    """At most `size` perturbations at a time, of tables without or with states."""
    by_state = any(isinstance(value, dict) for value in content.values())
    tables = list(content.values()) if by_state else [content]
    perturbed = list(dict.fromkeys(key[0] for key in tables[0])) if tables else []
    for start in range(0, len(perturbed), size):
        some = set(perturbed[start : start + size])
        parts = [{key: value for key, value in table.items() if key[0] in some} for table in tables]
        yield dict(zip(content, parts, strict=True)) if by_state else parts[0]


def _cells_table(cells: TokenizedDataset, rows: Sequence[int], start: int) -> "pd.DataFrame":
    """Perturbed cells: number, row of the input, columns; last their name, where they have one."""
    names = sorted(cells.columns, key=lambda name: name == keys.CELL_ID)
    table: pd.DataFrame = cells.table.select(names).to_pandas()
    table.insert(0, "cell", list(range(start, start + len(rows))), allow_duplicates=True)
    table.insert(1, "row", list(rows), allow_duplicates=True)
    return table


def given_genes(argument: str, genes: Any) -> str | list[str]:
    """The word for all genes, or Ensembl ids in the order given."""
    if isinstance(genes, str) and genes == "all":
        return genes
    names = [] if isinstance(genes, str | set | frozenset) else listed(genes)
    if not names or not all(isinstance(name, str) for name in names):
        msg = f'{argument}={genes!r} is neither "all" nor a list of Ensembl ids. Write ["ENSG00000187608"].'
        raise errors.OptionError(msg)
    return names


def state_names(states: CellStates | None) -> dict[str, Any]:
    """The user's values of the states by their names as text: start, goal, alternates; none without states."""
    values = () if states is None else states.all
    named = dict(zip(map(str, values), values, strict=True))
    if len(named) < len(values):
        msg = f"Two of the states {list(values)} read the same. Rename one of them in the column of the cells."
        raise errors.StateError(msg)
    return named


def _state_vectors(states: CellStates | None, embeddings: Mapping[Any, Any] | None) -> dict[str, Any] | None:
    """Embeddings of the states by their names, on the host, ``(D,)`` each; None without states."""
    if states is None:
        return None
    missing = [state for state in states.all if state not in (embeddings or {})]
    if embeddings is None or missing:
        msg = (
            f"cell_states_to_model needs state_embs_dict with an embedding of each state; {missing} are missing. Make "
            "it with EmbExtractor(summary_stat=...).get_state_embs."
        )
        raise errors.StateError(msg)
    import torch

    vectors: dict[str, Any] = {}
    for name, state in state_names(states).items():
        try:
            vector = torch.as_tensor(embeddings[state])
        except (TypeError, ValueError, RuntimeError) as error:
            msg = f"state_embs_dict[{state!r}] is no tensor, array or list of numbers ({error})."
            raise errors.StateError(msg) from error
        vectors[name] = vector.detach().to("cpu", torch.float32).reshape(-1).numpy()
    return vectors


def _slice_of(value: str | Mapping[str, int]) -> tuple[int, int] | None:
    """A slice of the cells; None for all."""
    if isinstance(value, str) and value == "all":
        return None
    if not isinstance(value, Mapping) or set(value) != {"start", "end"}:
        msg = f'cell_inds_to_perturb={value!r} is neither "all" nor a slice such as {{"start": 0, "end": 100}}.'
        raise errors.OptionError(msg)
    start = whole_number("start of cell_inds_to_perturb", value["start"], low=0)
    end = whole_number("end of cell_inds_to_perturb", value["end"], low=0)
    if end <= start:
        msg = f"cell_inds_to_perturb={dict(value)} is empty: its end is not above its start."
        raise errors.OutOfRangeError(msg)
    return start, end


def _warn(message: str) -> None:
    warnings.warn(message, errors.GeneformerWarning, stacklevel=5)
