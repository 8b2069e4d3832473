"""`InSilicoPerturber`: perturbation of tokenized cells, under its published name."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from geneformer import errors, keys
from geneformer.compat.cells import CellStates, listed, mark_tokens, published_cells, read_cell_states, read_slice
from geneformer.compat.dictionaries import TokenDictionary
from geneformer.compat.emb_extractor import Embedder, summarize
from geneformer.compat.networks import QUANTIZED, published_model, published_runtime, usable_bits
from geneformer.compat.options import Count, Limit, Positive, Values, Version, check_arguments, given_filter
from geneformer.compat.perturber_files import CELL, CELLS_SUFFIX, Raw, RunFiles, write_raw
from geneformer.engine.device import resolve_device
from geneformer.files.atomic import atomic_file
from geneformer.files.pickles import write_pickle
from geneformer.files.progress import progress_bar
from geneformer.genes.vocabulary import CLS, EOS
from geneformer.models.finetuned import quantize_linears
from geneformer.models.loading import LoadedModel
from geneformer.options import PerturbOptions
from geneformer.perturbation.edits import Ints
from geneformer.perturbation.effects import GENE_SIMILARITY, SHIFT, SIMILARITY
from geneformer.perturbation.exact import PerturbedModel
from geneformer.perturbation.plan import PerturbationPlan, gene_tokens, plan_perturbation
from geneformer.perturbation.run import exact_effects
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import read_dataset

if TYPE_CHECKING:
    import pandas as pd

_logger = logging.getLogger(__name__)

_QUARTERS = 4
"""`perturb_rank_shift` counts quarters of a cell's genes."""

_CELLS_AT_ONCE = 16
"""Cells perturbed gene by gene before their files are written."""

_STATE = "state"
"""Column of the perturbed cells with the name of the start, as options have to name it."""


@dataclass(eq=False, repr=False)
class InSilicoPerturber(TokenDictionary):
    """Deletes or overexpresses genes in tokenized cells, and writes how far that moves the cells.

    The network runs on whatever device there is, in float32. Of the model the encoder is read; heads are not needed.

    Parameters
    ----------
    perturb_type : "delete"; "overexpress", to the front; "inhibit" or "activate", down or up by `perturb_rank_shift`.
    perturb_rank_shift : Quarters of a cell's genes to move past, 1 to 3; None for all. For "inhibit" and "activate".
    genes_to_perturb
        "all", one at a time; or Ensembl ids, perturbed together in cells that have all of them ("overexpress": in all).
    combos : 0, or 1: every gene is perturbed alone and together with `anchor_gene`.
    anchor_gene : Ensembl id. Only cells that have it are perturbed.
    model_type : Published type; those that end with "-Quantized" keep dense layers in 8 bits, on a CPU all in 32.
    num_classes : Classes of the head, where known; a model with another number is refused.
    emb_mode : "cls" or, as always for V1, "cell", as for `EmbExtractor`; "_and_gene" for effects on other genes too.
    cell_emb_style : "mean_pool".
    filter_data : Accepted values by column.
    cell_states_to_model
        ``{"state_key": column, "start_state": ..., "goal_state": ..., "alt_states": [...]}``: cells of the start are
        perturbed, and shifts towards all states are written.
    state_embs_dict
        Embedding of each state, a tensor of ``(D,)``, as `EmbExtractor.get_state_embs` makes them. Without it, as in
        the first releases, it is the mean over all cells of the state that pass the filter.
    max_ncells : Most cells, drawn with seed 42. All by default.
    cell_inds_to_perturb : "all", or a slice ``{"start": 0, "end": 100}`` of the chosen cells, longest first.
    emb_layer : -1 for the layer before the last, 0 for the last.
    token_dictionary_file : Pickle with the token of each gene; by default that of the version.
    forward_batch_size : At most so many of the longest cells in one pass; how, not what.
    nproc : Has nothing to do: no worker processes are needed.
    model_version : "V1" or "V2". Left at "V2", a model of V1 is recognized, and perturbed as with "V1".
    clear_mem_ncells : Most single perturbations of a cell in one file.
    filter_data_dict : Another name of `filter_data`.

    Examples
    --------
    >>> from geneformer import InSilicoPerturber
    >>> perturber = InSilicoPerturber(perturb_type="delete", genes_to_perturb=["ENSG00000187608"], model_version="V1")
    >>> perturber.tokens_to_perturb
    [16018]
    """

    perturb_type: Literal["overexpress", "delete", "inhibit", "activate"] = "delete"
    perturb_rank_shift: Literal[None, 1, 2, 3] = None
    genes_to_perturb: str | list[str] = "all"
    combos: Literal[0, 1] = 0
    anchor_gene: str | None = None
    model_type: Literal[
        "Pretrained",
        "GeneClassifier",
        "CellClassifier",
        "MTLCellClassifier",
        "MTLCellClassifier-Quantized",
        "Pretrained-Quantized",
    ] = "Pretrained"
    num_classes: Count = 0
    emb_mode: Literal["cls", "cell", "cls_and_gene", "cell_and_gene"] = "cls"
    cell_emb_style: Literal["mean_pool"] = "mean_pool"
    filter_data: Values = None
    cell_states_to_model: Mapping[str, Any] | None = None
    state_embs_dict: Mapping[Any, Any] | None = None
    max_ncells: Limit = None
    cell_inds_to_perturb: str | Mapping[str, int] = "all"
    emb_layer: Literal[-1, 0] = -1
    forward_batch_size: Positive = 100
    nproc: Positive = 4
    model_version: Version = "V2"
    token_dictionary_file: str | Path | None = None
    clear_mem_ncells: Positive = 1000
    filter_data_dict: InitVar[Values] = None

    def __post_init__(self, filter_data_dict: Values) -> None:
        self.filter_data = given_filter(self.filter_data, filter_data_dict)
        self.genes_to_perturb = given_genes("genes_to_perturb", self.genes_to_perturb)
        vars(self).update(check_arguments(type(self), vars(self)))
        self._vocabulary = vocabulary = self._read_dictionary()
        self.special_token = {CLS, EOS} <= set(vocabulary.special_tokens)
        self._part = read_slice(self.cell_inds_to_perturb)
        self._states = None if self.cell_states_to_model is None else read_cell_states(self.cell_states_to_model)
        self._vectors: dict[str, Any] | None = None
        if self._states is not None and self.state_embs_dict is not None:
            self._vectors = _state_vectors(self._states, self.state_embs_dict)
        self._settle_conflicts()
        asked = f'model_type="{self.model_type}"'
        if self.model_type.endswith(QUANTIZED) and usable_bits("8bit", resolve_device(), asked) == "full":
            self.model_type = self.model_type.removesuffix(QUANTIZED)  # type: ignore[assignment]
        genes = self.genes_to_perturb
        self.tokens_to_perturb = genes if isinstance(genes, str) else list(gene_tokens(genes, vocabulary))
        self._anchor = None if self.anchor_gene is None else gene_tokens([self.anchor_gene], vocabulary)[0]

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
        output_directory, output_prefix : Folder for the files, made if missing, and what the run is called in names.
        """
        files = RunFiles.prepare(output_directory, self.perturb_type, output_prefix, self._part)
        loaded = self._open_model(model_directory)
        model = PerturbedModel.pretrained(loaded)
        if self.token_dictionary_file is None and model.vocabulary.name != self.model_version:
            _logger.warning("%s is of %s, and is perturbed as such.", model_directory, model.vocabulary.name)
            as_such = replace(self, model_version=model.vocabulary.name)  # type: ignore[arg-type]
            return as_such.perturb_data(model_directory, input_data_file, output_directory, output_prefix)
        everyone = mark_tokens(read_dataset(input_data_file), model.vocabulary)
        rows = self._rows(everyone)
        vectors = self._vectors or self._state_vectors(everyone, loaded)
        run = _Run(self, model, everyone.take(rows), files, 0 if self._part is None else self._part[0], vectors)
        tokens = self.tokens_to_perturb
        table = files.of_group("cell", tokens, CELLS_SUFFIX) if isinstance(tokens, list) else files.cells
        with atomic_file(table, overwrite=True) as temporary:
            run.cell_table(rows).to_csv(temporary, index=False)
        if isinstance(tokens, list):
            run.perturb_together(tokens)
        else:
            run.perturb_each()
        return None

    def _open_model(self, folder: str | Path) -> LoadedModel:
        """The model, its encoder quantized where the type says so; of V1 too, where no other version was chosen."""
        plain = self.model_type.removesuffix(QUANTIZED)
        n_classes = self.num_classes if plain in ("CellClassifier", "GeneClassifier") else 0
        try:
            found = published_model(folder, self._vocabulary, num_classes=n_classes)
        except errors.VocabularyMismatchError:
            if self.model_version == "V1" or self.token_dictionary_file is not None:
                raise
            found = published_model(folder, num_classes=n_classes)
        if self.model_type != plain:
            quantize_linears(found.network.bert, "8bit")
        return found

    def _state_vectors(self, everyone: TokenizedDataset, model: LoadedModel) -> dict[str, Any] | None:
        """The mean embedding of the cells of each state, where nobody gave one."""
        if self._states is None:
            return None
        _logger.warning("state_embs_dict is not given: the cells of each state are embedded first.")
        mode, vectors = ("cls" if self.emb_mode.startswith("cls") else "cell"), {}
        for name, state in self._states.by_name.items():
            rows = published_cells(everyone, [self.filter_data or {}, {self._states.key: [state]}])
            embedder = Embedder(everyone.take(rows), model, self.emb_layer, self.forward_batch_size)
            vectors[name] = summarize(embedder.embed(mode).values, "mean")
        return vectors

    def _rows(self, everyone: TokenizedDataset) -> Ints:
        """Rows of the cells to be perturbed, in published order."""
        filters = [self.filter_data or {}]
        if self._states is not None:
            filters.append({self._states.key: [self._states.start]})
        genes = {}
        if isinstance(self.tokens_to_perturb, list) and self.perturb_type != "overexpress":
            genes["genes_to_perturb"] = self.tokens_to_perturb
        if self._anchor is not None:
            genes["anchor_gene"] = [self._anchor]
        return published_cells(everyone, filters, genes, max_cells=self.max_ncells, part=self._part)


def write_perturbation_dictionary(cos_sims_dict: Mapping[Any, Any], output_path_prefix: str | Path) -> None:
    """Write shifts by tokens perturbed to `<output_path_prefix>_raw.pickle`; dots in the prefix stay."""
    write_pickle(cos_sims_dict, f"{output_path_prefix}_raw.pickle")


CellEffects = tuple[Raw, Raw]
"""What perturbations do to a cell and to its genes, as it is stored: one number in each list."""

_UNCHANGED = 1.0
"""Similarity of a cell that a perturbation leaves as it is; its shifts are 0."""


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Cells with a model, and where their effects go."""

    settings: InSilicoPerturber
    model: PerturbedModel
    cells: TokenizedDataset
    files: RunFiles
    start: int
    """Number of the first cell in the names of files."""
    vectors: dict[str, Any] | None
    """Embedding of each state by its name."""

    @property
    def states(self) -> dict[str, Any]:
        """The user's values of the states by their names."""
        states = self.settings._states
        return {} if states is None else states.by_name

    def cell_table(self, rows: Ints) -> "pd.DataFrame":
        """Perturbed cells: number, row of the input, columns; last their name, where they have one."""
        names = sorted(self.cells.columns, key=lambda name: name == keys.CELL_ID)
        table: pd.DataFrame = self.cells.table.select(names).to_pandas()
        table.insert(0, "cell", range(self.start, self.start + len(rows)), allow_duplicates=True)
        table.insert(1, "row", rows, allow_duplicates=True)
        return table

    def perturb_together(self, tokens: list[int]) -> None:
        """Write what one perturbation of several genes does to all cells, and to their other genes."""
        perturbed = tuple(tokens) if len(tokens) > 1 else tokens[0]
        deletes = self.settings.perturb_type == "delete"
        # Of a cell without any other gene a deletion leaves nothing to compare.
        unchanged = float("nan") if deletes else _UNCHANGED
        cells = [effects for [effects] in self._effects(self._options(tokens))]

        def column(of_cells: list[Raw], spare: float) -> Raw:
            return {(perturbed, CELL): [cell.get((perturbed, CELL), [spare])[0] for cell in of_cells]}

        on_cells = column([on_cell for on_cell, _ in cells], unchanged)
        if self.states:
            on_cells = {
                state: column([on_cell[state] for on_cell, _ in cells], unchanged - 1) for state in self.states.values()
            }
        write_raw(on_cells, self.files.of_group("cell", tokens))
        if not self.settings.emb_mode.endswith("_and_gene"):
            return
        ignored = {*tokens, *self.model.vocabulary.special_ids.tolist()}
        on_genes: Raw = {}
        for row, (_, effects) in enumerate(cells):
            others = [] if effects or deletes else [token for token in self.cells[row].tolist() if token not in ignored]
            for pair, value in (effects or {(perturbed, token): [_UNCHANGED] for token in others}).items():
                on_genes.setdefault(pair, []).extend(value)
        write_raw(on_genes, self.files.of_group("gene", tokens))

    def perturb_each(self) -> None:
        """Write what perturbing each gene of a cell does to it; a cell's files as soon as it is done.

        With combos each gene is perturbed together with the anchor; without states, what both do alone is written too.
        """
        options = [self._options()]
        if self.settings.combos:
            pairs = self._options(anchor=self.settings.anchor_gene)
            options = [pairs] if self.states else [*options, pairs]
        for number, effects in enumerate(self._effects(*options), start=self.start):
            on_cell, on_genes = effects[-1]
            if len(effects) == 2:
                alone = {gene: value for (gene, _), [value] in effects[0][0].items()}
                of_anchor = alone.get(self.settings._anchor, _UNCHANGED)
                on_cell = {
                    (gene, CELL): [(of_anchor, alone.get(gene, _UNCHANGED), together)]
                    for ((_, gene), _), [together] in on_cell.items()
                }
            for kind, content in (("cell", on_cell), ("gene", on_genes)):
                # The first file of a cell is called -1, as it always was.
                for batch, part in enumerate(_parts(content, self.settings.clear_mem_ncells), start=-1):
                    write_raw(part, self.files.of_cell(kind, number, batch))

    def _options(self, tokens: list[int] | None = None, anchor: str | None = None) -> PerturbOptions:
        """One perturbation of several genes, or all single ones, as options of this package."""
        settings, on_genes = self.settings, self.settings.emb_mode.endswith("_and_gene")
        names: dict[str, Any] = {}
        if self.states:
            start, goal, *alternates = self.states
            names = {"start": start, "goal": goal, "alternates": tuple(alternates), "state_key": _STATE}
        cells_at_once = settings.forward_batch_size if tokens else 1 if on_genes else _CELLS_AT_ONCE
        return PerturbOptions(
            genes=("+".join(str(self.model.vocabulary.gene_of[token]) for token in tokens) if tokens else "all",),
            anchor=anchor,
            edit=settings.perturb_type,
            dose=1.0 if settings.perturb_rank_shift is None else settings.perturb_rank_shift / _QUARTERS,
            pooling="cls" if settings.emb_mode.startswith("cls") else "mean",
            layer=settings.emb_layer,
            gene_effects=on_genes,
            cells_per_shard=cells_at_once,
            unknown="error",
            **names,
        )

    def _plan(self, options: PerturbOptions) -> PerturbationPlan:
        """A checked run, its cells called by their numbers."""
        columns = {
            keys.INPUT_IDS: self.cells.table.column(keys.INPUT_IDS),
            keys.CELL_ID: [str(number) for number in range(len(self.cells))],
        }
        if self.states:
            columns[_STATE] = [next(iter(self.states))] * len(self.cells)
        tokens = TokenizedDataset(pa.table(columns), vocabulary=self.cells.vocabulary)
        runtime = published_runtime(self.model.encoder, self.settings.forward_batch_size)
        return plan_perturbation(tokens, self.model, options, runtime, states=self.vectors)

    def _effects(self, *options: PerturbOptions) -> Iterator[tuple[CellEffects, ...]]:
        """For each cell, what each of some options does to it."""
        plans = [self._plan(each) for each in options]
        n_done = 0
        with progress_bar("Perturbing", unit="cells") as progress:
            for shard in range(plans[0].n_shards):
                rows = plans[0].rows_of(shard)
                tables = [exact_effects(p, rows, list(map(p.targets.of_cell, p.token_rows(rows)))) for p in plans]
                yield from zip(*(self._by_cell(table, rows) for table in tables), strict=True)
                n_done += len(rows)
                progress(n_done, len(self.cells))

    def _by_cell(self, effects: pa.Table, rows: Ints) -> list[CellEffects]:
        """Effects of a table whose cells are called by their rows, cell by cell; an anchor comes first in its pairs."""
        token_of, states = self.model.vocabulary.token_of, self.states
        anchor = self.settings._anchor if self.settings.combos else None
        cells: dict[str, CellEffects] = {str(row): ({state: {} for state in states.values()}, {}) for row in rows}
        key_of: dict[str, Any] = {}
        columns = [effects.column(name).to_pylist() for name in ("cell_id", "genes", "effect", "target", "value")]
        for cell, genes, kind, target, value in zip(*columns, strict=True):
            if genes not in key_of:
                tokens = [int(token_of[gene]) for gene in genes.split("+")]
                tokens.sort(key=lambda token: token != anchor)
                key_of[genes] = tuple(tokens) if len(tokens) > 1 else tokens[0]
            perturbed, (on_cell, on_genes) = key_of[genes], cells[cell]
            if kind == SIMILARITY:
                on_cell[perturbed, CELL] = [value]
            elif kind == SHIFT:
                on_cell[states[target]][perturbed, CELL] = [value]
            elif kind == GENE_SIMILARITY:
                on_genes[perturbed, int(token_of[target])] = [value]
        return list(cells.values())


def _parts(content: Raw, size: int) -> Iterator[Raw]:
    """At most `size` perturbations at a time, of tables without or with states."""
    has_states = any(isinstance(value, dict) for value in content.values())
    tables = content if has_states else {None: content}
    perturbed = list(dict.fromkeys(key[0] for key in next(iter(tables.values()))))
    for start in range(0, len(perturbed), size):
        some = set(perturbed[start : start + size])
        parts = {
            state: {key: value for key, value in table.items() if key[0] in some} for state, table in tables.items()
        }
        yield parts if has_states else parts[None]


def given_genes(argument: str, genes: Any) -> str | list[str]:
    """The word for all genes, or Ensembl ids in the order given."""
    if isinstance(genes, str) and genes == "all":
        return genes
    names = [] if isinstance(genes, str | set | frozenset) else listed(genes)
    if not names or not all(isinstance(name, str) for name in names):
        msg = f'{argument}={genes!r} is neither "all" nor a list of Ensembl ids. Write ["ENSG00000187608"].'
        raise errors.OptionError(msg)
    return names


def _state_vectors(states: CellStates, embeddings: Mapping[Any, Any] | None) -> dict[str, Any]:
    """Embeddings of the states by their names, on the host, ``(D,)`` each."""
    import torch

    vectors: dict[str, Any] = {}
    for name, state in states.by_name.items():
        if state not in (embeddings or {}):
            msg = (
                f"cell_states_to_model needs state_embs_dict with an embedding of each state; that of {state!r} is "
                'missing. Make it with `EmbExtractor(summary_stat="exact_mean").get_state_embs`.'
            )
            raise errors.StateError(msg)
        try:
            vector = torch.as_tensor((embeddings or {})[state])
        except (TypeError, ValueError, RuntimeError) as error:
            msg = f"state_embs_dict[{state!r}] is no tensor, array or list of numbers ({error})."
            raise errors.StateError(msg) from error
        vectors[name] = vector.detach().to("cpu", torch.float32).reshape(-1).numpy()
    return vectors


def _warn(message: str) -> None:
    warnings.warn(message, errors.GeneformerWarning, stacklevel=5)
