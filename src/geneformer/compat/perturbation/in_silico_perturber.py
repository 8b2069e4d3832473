"""`InSilicoPerturber`: perturbation of tokenized cells, under its published name."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from geneformer.compat.cell_states import read_cell_states
from geneformer.compat.perturbation.files import RunFiles, write_cells
from geneformer.compat.perturbation.given_genes import given_genes
from geneformer.compat.perturbation.given_states import state_names, state_vectors
from geneformer.compat.perturbation.models import MODEL_TYPES, open_model
from geneformer.compat.perturbation.runs import STATE, PerturbationRun, cells_table
from geneformer.compat.vocabularies import published_vocabulary
from geneformer.data.dataset import TokenizedDataset
from geneformer.data.row_order import listed
from geneformer.data.storage import read_dataset
from geneformer.errors import GeneformerWarning, OptionError, OutOfRangeError, UnsupportedArgumentError
from geneformer.options import PerturbOptions
from geneformer.options._check import check_choice, whole_number
from geneformer.tasks.perturbation.published_cells import published_cells
from geneformer.tasks.perturbation.targets import gene_tokens
from geneformer.tasks.unmarked_tokens import mark_tokens
from geneformer.vocab.checks import CLS, EOS

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
