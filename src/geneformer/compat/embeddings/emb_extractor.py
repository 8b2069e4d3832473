"""`EmbExtractor` and `get_embs`: embeddings of cells, genes and states of cells, with the published names and files."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.compat.cell_states import read_cell_states
from geneformer.compat.embeddings.extraction import Extraction
from geneformer.compat.embeddings.figures import plot_labels
from geneformer.compat.embeddings.frames import write_frame
from geneformer.compat.embeddings.state_embeddings import write_state_embeddings
from geneformer.compat.embeddings.tables import Extracted, extract_cells, extract_genes
from geneformer.compat.embeddings.torch_embeddings import NO_TDIGEST, get_embs
from geneformer.compat.loaded_models import published_model
from geneformer.compat.vocabularies import published_vocabulary
from geneformer.data.dataset import TokenizedDataset
from geneformer.data.row_order import listed, longest_first, rows_with
from geneformer.data.storage import read_dataset
from geneformer.errors import OptionError, UnknownVocabularyError, UnsupportedArgumentError
from geneformer.models.loading import LoadedModel
from geneformer.options._check import check_choice, check_range
from geneformer.tasks.unmarked_tokens import mark_tokens

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["EmbExtractor", "get_embs"]

_logger = logging.getLogger(__name__)

_CHOICES: dict[str, tuple[Any, ...]] = {
    "model_type": ("Pretrained", "GeneClassifier", "CellClassifier"),
    "emb_mode": ("cls", "cell", "gene"),
    "cell_emb_style": ("mean_pool",),
    "gene_emb_style": ("mean_pool", "all"),
    "emb_layer": (-1, 0),
    "summary_stat": (None, "mean", "median", "exact_mean", "exact_median"),
}
_EXACT = ("exact_mean", "exact_median")


class EmbExtractor:
    """Embeddings from a model folder, as tables in memory and on disk.

    Cells come in the published order: those that the filter leaves, at most `max_ncells` of them drawn with seed 42,
    longest first. Where the dataset tells a `cell_id`, it is the last column of every table.

    Parameters
    ----------
    model_type
        "Pretrained", "GeneClassifier" or "CellClassifier". Embeddings are read from the encoder, which all of them
        have; what a folder holds is seen from its weights.
    num_classes
        Classes of a fine-tuned model, compared with its head; 0 for one that is not told.
    emb_mode
        "cls": state of `<cls>`. "cell": mean over the genes of a cell, special tokens aside. "gene": states of genes.
        For `model_version="V1"`, which has no `<cls>`, "cls" means "cell".
    cell_emb_style
        "mean_pool".
    gene_emb_style
        "mean_pool": one row per gene, the mean over the cells. "all": one row per gene and cell.
    filter_data
        Accepted values by column.
    max_ncells
        Most cells; None for all.
    emb_layer
        -1 for the second to last layer, 0 for the last.
    emb_label
        Columns of the dataset to add to tables of cells.
    labels_to_plot
        Columns to plot.
    forward_batch_size
        At most so many cells of the greatest length are read together; changes the memory needed, not the values.
    nproc
        Processes that filter in the published package. One pass over a column is enough here, so that it has nothing
        to do.
    summary_stat
        "mean" or "median": one row for all cells, or one for each gene; exact, where the published package
        approximates. "exact_mean" or "exact_median": the file has all cells, what is returned is their summary.
    save_tdigest
        There are no digests to save; see Raises.
    model_version
        "V1" or "V2". Left at "V2", a model of V1 is recognized and read with its own dictionary.
    token_dictionary_file
        Published token dictionary of the model, if it has one of its own.

    Raises
    ------
    UnknownChoiceError, OutOfRangeError, OptionError
        A value that the argument does not take.
    UnsupportedArgumentError
        `save_tdigest`, or exact summaries of genes.

    Examples
    --------
    >>> from geneformer import EmbExtractor
    >>> extractor = EmbExtractor(emb_mode="cell", max_ncells=None, emb_label=["cell_type"], model_version="V1")
    >>> extractor.pad_token_id, extractor.token_gene_dict[2]
    (0, 'ENSG00000000003')
    """

    def __init__(  # noqa: PLR0913, PLR0917  the published arguments
        self,
        model_type: str = "Pretrained",
        num_classes: int = 0,
        emb_mode: str = "cls",
        cell_emb_style: str = "mean_pool",
        gene_emb_style: str = "mean_pool",
        filter_data: Mapping[str, Any] | None = None,
        max_ncells: int | None = 1000,
        emb_layer: int = -1,
        emb_label: Sequence[str] | None = None,
        labels_to_plot: Sequence[str] | None = None,
        forward_batch_size: int = 100,
        nproc: int = 4,
        summary_stat: str | None = None,
        save_tdigest: bool = False,
        model_version: str = "V2",
        token_dictionary_file: str | Path | None = None,
    ) -> None:
        self.model_type = model_type
        self.num_classes = num_classes
        self.emb_mode = emb_mode
        self.cell_emb_style = cell_emb_style
        self.gene_emb_style = gene_emb_style
        self.filter_data = filter_data
        self.max_ncells = max_ncells
        self.emb_layer = emb_layer
        self.emb_label = emb_label
        self.labels_to_plot = labels_to_plot
        self.forward_batch_size = forward_batch_size
        self.nproc = nproc
        self.summary_stat = summary_stat
        self.save_tdigest = save_tdigest
        self.model_version = model_version
        self.token_dictionary_file = token_dictionary_file
        self._check_values()
        vocabulary = published_vocabulary(model_version, token_dictionary_file)
        tells = model_version == "V1" or token_dictionary_file is not None
        self._vocabulary = vocabulary if tells else None
        self.gene_token_dict: dict[str, int] = {**vocabulary.special_tokens, **vocabulary.token_of}
        self.token_gene_dict: dict[int, str] = {token: gene for gene, token in self.gene_token_dict.items()}
        self.pad_token_id: int = vocabulary.pad_id
        self.exact_summary_stat = summary_stat if summary_stat in _EXACT else None
        self.summary_stat = None if summary_stat in _EXACT else summary_stat
        if model_version == "V1" and emb_mode == "cls":
            self.emb_mode = "cell"
            _logger.warning('V1 has no <cls> token: emb_mode is "cell".')

    def _check_values(self) -> None:
        """Refuse values that are not among those accepted, and those that do not go together."""
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        check_range("num_classes", self.num_classes, low=0)
        for name in ("max_ncells", "forward_batch_size", "nproc"):
            check_range(name, getattr(self, name), low=1)
        for name, kind in (("filter_data", Mapping), ("emb_label", list | tuple), ("labels_to_plot", list | tuple)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                what = "dictionary of accepted values by column" if name == "filter_data" else "list of columns"
                msg = f"{name}={value!r} is no {what}. Give one, or None."
                raise OptionError(msg)
        if self.save_tdigest:
            raise UnsupportedArgumentError(NO_TDIGEST)
        if self.emb_mode == "gene" and self.summary_stat in _EXACT:
            plain = str(self.summary_stat).removeprefix("exact_")
            msg = (
                f'summary_stat="{self.summary_stat}" sums up cells. For emb_mode="gene" use summary_stat="{plain}", '
                "which is exact as well: one row per gene."
            )
            raise UnsupportedArgumentError(msg)

    def extract_embs(
        self,
        model_directory: str | Path,
        input_data_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        output_torch_embs: bool = False,
        cell_state: Mapping[str, Any] | None = None,
    ) -> "pd.DataFrame | tuple[pd.DataFrame, Any] | Any":
        """Embeddings of the cells, or of their genes; written to ``<output_prefix>.csv``.

        Parameters
        ----------
        model_directory
            Model folder.
        input_data_file
            Folder of the tokenized dataset.
        output_directory
            Where the file goes; made if missing. A file that is there is replaced.
        output_prefix
            Name of the file before its suffix.
        output_torch_embs
            Return a tensor as well.
        cell_state
            Only cells with this value in this column. Then nothing is written, and only the tensor is returned.

        Returns
        -------
        DataFrame
            Cells: columns `0` to `d - 1`, the labels, `cell_id`; one row with `summary_stat`. Genes: rows named by
            their Ensembl ids; with `gene_emb_style="all"` a column `Identifier` first, which counts the states of one
            gene from 0.
        (DataFrame, Tensor)
            With `output_torch_embs`. The tensor is ``(n, d)``, ``(n, longest, d)`` for genes with zeros behind the end
            of shorter cells, or ``(d,)`` with `summary_stat`; for genes with `summary_stat` a dictionary of lists by
            token id. Of an even number of cells the tensor of "exact_median" holds the lower middle value, as
            `torch.median` does; the table lies halfway between both.

        Raises
        ------
        InputNotFoundError, DatasetError
            There is no dataset, it is damaged, or it lacks a column.
        NoCellsError
            No cell is left.
        UnknownModelError, CheckpointError, UnsafeFileError
            There is no model, or its weights cannot be used.
        PairingError
            Model, dictionary and cells do not belong together.
        OutputError
            The file cannot be written.
        """
        tokens = self._cells(read_dataset(input_data_file), cell_state)
        for name in self.emb_label or ():
            tokens.column(name)
        model = self._model(model_directory)
        if cell_state is not None:
            return self._extracted(tokens, model, with_tensor=True).tensor
        found = self._extracted(tokens, model, with_tensor=output_torch_embs)
        write_frame(found.written, Path(output_directory) / f"{output_prefix}.csv")
        return (found.returned, found.tensor) if output_torch_embs else found.returned

    def get_state_embs(
        self,
        cell_states_to_model: Mapping[str, Any],
        model_directory: str | Path,
        input_data_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        output_torch_embs: bool = True,
    ) -> "dict[Any, Tensor]":
        """Embedding of every state of cells, for `InSilicoPerturber`; written to ``<output_prefix>.pkl``.

        A cell is in a state if its value is that of the state, not if it merely contains it. At most `max_ncells`
        cells of every state are read.

        Parameters
        ----------
        cell_states_to_model
            ``{"state_key": column, "start_state": ..., "goal_state": ..., "alt_states": [...]}``; the alternates may
            be left out.
        model_directory, input_data_file, output_directory, output_prefix
            As for `extract_embs`.
        output_torch_embs
            States are tensors in any case, as published.

        Returns
        -------
        dict
            Tensor ``(d,)`` in main memory by state: start, goal, alternates.

        Raises
        ------
        OptionError
            `summary_stat` is neither "exact_mean" nor "exact_median", or there is an `emb_label`.
        StateError
            States in another form, or that are not told apart.
        NoCellsError
            No cell has one of the states.
        """
        if self.exact_summary_stat is None:
            msg = f'get_state_embs needs summary_stat="exact_mean" or "exact_median", found {self.summary_stat!r}.'
            raise OptionError(msg)
        if self.emb_label is not None:
            msg = f"A state has one embedding for all of its cells, so that emb_label={self.emb_label!r} has no place."
            raise OptionError(msg)
        states = read_cell_states(cell_states_to_model)
        dataset = read_dataset(input_data_file)
        cells = {state: self._cells(dataset, {states.key: [state]}) for state in states.all}
        model = self._model(model_directory)
        embeddings = {state: self._extracted(tokens, model, with_tensor=True).tensor for state, tokens in cells.items()}
        write_state_embeddings(embeddings, Path(output_directory) / f"{output_prefix}.pkl")
        return embeddings

    def plot_embs(
        self,
        embs: "pd.DataFrame",
        plot_style: str,
        output_directory: str | Path,
        output_prefix: str,
        max_ncells_to_plot: int = 1000,
        kwargs_dict: Mapping[str, Any] | None = None,
    ) -> None:
        """Figures of embeddings, one for each of `labels_to_plot`: ``<output_prefix>_<plot_style>_<label>.pdf``.

        Parameters
        ----------
        embs
            Table of cells as `extract_embs` returns it, or as it is read from its file.
        plot_style
            "umap" or "heatmap".
        output_directory, output_prefix
            Where the files go, and how their names begin.
        max_ncells_to_plot
            Most cells, drawn with a fixed seed; never more than `max_ncells`. Fewer are drawn as they are.
        kwargs_dict
            Settings for `scanpy.pl.umap` or `seaborn.clustermap`.

        Raises
        ------
        UnknownChoiceError
            Another style.
        OptionError
            There are no `labels_to_plot`.
        NoCellsError
            Too few cells.
        MissingExtraError
            A library for plots is not installed.
        """
        check_choice("plot_style", plot_style, ("heatmap", "umap"))
        check_range("max_ncells_to_plot", max_ncells_to_plot, low=1)
        if not self.labels_to_plot:
            msg = "There is nothing to plot by. Pass labels_to_plot, a list of columns, to EmbExtractor."
            raise OptionError(msg)
        most = max_ncells_to_plot if self.max_ncells is None else min(max_ncells_to_plot, self.max_ncells)
        start = Path(output_directory) / f"{output_prefix}_{plot_style}"
        plot_labels(embs, plot_style, self.labels_to_plot, start, most, kwargs_dict)

    def _cells(self, dataset: TokenizedDataset, cell_state: Mapping[str, Any] | None) -> TokenizedDataset:
        """Cells that are read, in the published order."""
        rows = rows_with(dataset, {name: listed(values) for name, values in (self.filter_data or {}).items()})
        if cell_state:
            dataset = dataset.take(rows)
            rows = rows_with(dataset, {name: listed(values) for name, values in cell_state.items()})
        return dataset.take(longest_first(dataset, rows, self.max_ncells))

    def _model(self, folder: str | Path) -> LoadedModel:
        try:
            model = published_model(folder, self._vocabulary, num_classes=self.num_classes)
        except UnknownVocabularyError as error:
            msg = f"Which dictionary {folder} was made with cannot be told. Pass its token_dictionary_file."
            raise UnknownVocabularyError(msg) from error
        if self._vocabulary is None and model.vocabulary.name != self.model_version:
            _logger.warning("%s is of %s, and is read with that dictionary.", folder, model.vocabulary.name)
        return model

    def _extracted(self, tokens: TokenizedDataset, model: LoadedModel, *, with_tensor: bool) -> Extracted:
        tokens = mark_tokens(tokens, model.vocabulary)
        cells = Extraction(tokens, model, self.emb_layer, self.forward_batch_size)
        if self.emb_mode != "gene":
            return extract_cells(
                cells, self.emb_mode, self.emb_label or (), self.exact_summary_stat or self.summary_stat
            )
        if self.emb_label:
            _logger.warning("emb_label=%s belongs to cells; tables of genes do not have it.", list(self.emb_label))
        return extract_genes(cells, self.gene_emb_style, self.summary_stat, with_tensor=with_tensor)
