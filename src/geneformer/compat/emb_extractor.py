"""`EmbExtractor` and `get_embs`: embeddings of cells, genes and states of cells, with the published names and files.

Axes: ``n`` cells, ``T`` tokens of all cells, ``L`` tokens of the longest cell, ``D`` hidden.
"""

import logging
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig

from geneformer import errors, keys
from geneformer.compat.cells import dataset_tokens, mark_tokens, published_cells, read_cell_states
from geneformer.compat.dictionaries import TokenDictionary, bundled_with, mode_of_version
from geneformer.compat.embedding_plots import plot_labels
from geneformer.compat.networks import merge_adapters, published_model, published_runtime
from geneformer.compat.options import Columns, Count, Limit, Positive, Values, Version, check_arguments, given_filter
from geneformer.engine.inference import Batch, run_batches
from geneformer.files.atomic import atomic_file
from geneformer.files.pickles import write_pickle
from geneformer.files.progress import progress_bar
from geneformer.genes.vocabulary import vocabulary_from
from geneformer.inference.cells import check_layer, check_pairing
from geneformer.inference.embedding import embed
from geneformer.models.loading import TIED, LoadedModel, build_model, recognize_vocabulary
from geneformer.options import EmbedOptions, RuntimeOptions
from geneformer.options._fields import check_choice, check_range
from geneformer.tokens.dataset import Ints, Packed, TokenizedDataset
from geneformer.tokens.storage import read_dataset

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_logger = logging.getLogger(__name__)

_EXACT = ("exact_mean", "exact_median")

_NO_TDIGEST = (
    "save_tdigest=True cannot be honored: means and medians are exact here, so there is no digest to keep. Leave it "
    "out; for other quantiles extract the embeddings without summary_stat and take them from the table."
)


@dataclass(eq=False, repr=False)
class EmbExtractor(TokenDictionary):
    """Embeddings from a model folder, as tables in memory and on disk.

    Cells come in the published order: those that the filter leaves, at most `max_ncells` of them drawn with seed 42,
    longest first. Where the dataset has a `cell_id`, it is the last column of every table.

    Parameters
    ----------
    model_type : "Pretrained", "GeneClassifier" or "CellClassifier"; the encoder is read, which all of them have.
    num_classes : Classes of a fine-tuned model, compared with its head; 0 where it is unknown.
    emb_mode : "cls", the state of `<cls>`; "cell", as "cls" of V1, the mean over the genes of a cell; or "gene".
    cell_emb_style : "mean_pool".
    gene_emb_style : "mean_pool": one row per gene, the mean over the cells. "all": one row per gene and cell.
    filter_data : Accepted values by column.
    max_ncells : Most cells; None for all.
    emb_layer : -1 for the second to last layer, 0 for the last.
    emb_label, labels_to_plot : Columns of the dataset to add to tables of cells, and those to plot.
    forward_batch_size : At most so many of the longest cells in one pass; how, not what.
    nproc : Has nothing to do: one pass over a column filters.
    summary_stat
        "mean" or "median", exact: one row for all cells, or one for each gene. "exact_mean" or "exact_median": the file
        has all cells, what is returned is their summary.
    save_tdigest : Refused, as there are no digests to save.
    model_version
        "V1" or "V2". Left at "V2", a model of V1 is recognized, and read with its own dictionary and "cell" for "cls".
    token_dictionary_file : Published token dictionary of the model, if it has one of its own.
    filter_data_dict : Another name of `filter_data`.

    Examples
    --------
    >>> from geneformer import EmbExtractor
    >>> extractor = EmbExtractor(emb_mode="cell", max_ncells=None, emb_label=["cell_type"], model_version="V1")
    >>> extractor.pad_token_id, extractor.token_gene_dict[2]
    (0, 'ENSG00000000003')
    """

    model_type: Literal["Pretrained", "GeneClassifier", "CellClassifier"] = "Pretrained"
    num_classes: Count = 0
    emb_mode: Literal["cls", "cell", "gene"] = "cls"
    cell_emb_style: Literal["mean_pool"] = "mean_pool"
    gene_emb_style: Literal["mean_pool", "all"] = "mean_pool"
    filter_data: Values = None
    max_ncells: Limit = 1000
    emb_layer: Literal[-1, 0] = -1
    emb_label: Columns = None
    labels_to_plot: Columns = None
    forward_batch_size: Positive = 100
    nproc: Positive = 4
    summary_stat: Literal[None, "mean", "median", "exact_mean", "exact_median"] = None
    save_tdigest: bool = False
    model_version: Version = "V2"
    token_dictionary_file: str | Path | None = None
    filter_data_dict: InitVar[Values] = None

    def __post_init__(self, filter_data_dict: Values) -> None:
        self.filter_data = given_filter(self.filter_data, filter_data_dict)
        vars(self).update(check_arguments(type(self), vars(self)))
        self.exact_summary_stat = self.summary_stat if self.summary_stat in _EXACT else None
        if self.save_tdigest:
            raise errors.UnsupportedArgumentError(_NO_TDIGEST)
        if self.emb_mode == "gene" and self.exact_summary_stat:
            plain = self.exact_summary_stat.removeprefix("exact_")
            msg = f'"{self.summary_stat}" sums up cells. For genes use summary_stat="{plain}", which is exact as well.'
            raise errors.UnsupportedArgumentError(msg)
        self.summary_stat = None if self.exact_summary_stat else self.summary_stat
        vocabulary = self._read_dictionary()
        is_chosen = self.model_version == "V1" or self.token_dictionary_file is not None
        self._vocabulary = vocabulary if is_chosen else None

    def extract_embs(
        self,
        model_directory: str | Path,
        input_data_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        output_torch_embs: bool = False,
        cell_state: Mapping[str, Any] | None = None,
    ) -> "pd.DataFrame | tuple[pd.DataFrame, Any] | Any":
        """Embeddings of the cells, or of their genes; written to ``<output_prefix>.csv``, which is replaced.

        Parameters
        ----------
        model_directory, input_data_file : Model folder, and folder of the tokenized dataset.
        output_directory, output_prefix : Where the file goes, made if missing, and its name before the suffix.
        output_torch_embs : Return a tensor as well.
        cell_state : Only cells with this value in this column; nothing is written, and only the tensor returned.

        Returns
        -------
        DataFrame
            Cells: columns `0` to `d - 1`, the labels, `cell_id`. Genes: rows named by their Ensembl ids; with
            `gene_emb_style="all"` a column `Identifier` first, which counts the states of one gene from 0.
        (DataFrame, Tensor)
            With `output_torch_embs`: ``(n, d)``, or ``(n, longest, d)`` for genes, with zeros behind the end of shorter
            cells; with `summary_stat` ``(d,)``, or lists by token id for genes. Of an even number of cells the tensor
            of "exact_median" has the lower middle value, as of `torch.median`; the table lies halfway between both.
        """
        tokens = self._cells(read_dataset(input_data_file), cell_state)
        for name in self.emb_label or ():
            tokens.column(name)
        model = self._model(model_directory)
        with_tensor = output_torch_embs or cell_state is not None
        written, returned, tensor = self._extract(tokens, model, with_tensor=with_tensor)
        if cell_state is not None:
            return tensor
        path = Path(output_directory) / f"{output_prefix}.csv"
        with atomic_file(path, overwrite=True, parents=True) as temporary:
            written.to_csv(temporary)
        return (returned, tensor) if output_torch_embs else returned

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
        cell_states_to_model : As for `InSilicoPerturber`.
        model_directory, input_data_file, output_directory, output_prefix : As for `extract_embs`.
        output_torch_embs : States are tensors in any case, as published.

        Returns
        -------
        Tensor ``(d,)`` in main memory by state: start, goal, alternates.
        """
        if self.exact_summary_stat is None:
            msg = f'get_state_embs needs summary_stat="exact_mean" or "exact_median", found {self.summary_stat!r}.'
            raise errors.OptionError(msg)
        if self.emb_label is not None:
            msg = f"A state has one embedding for all of its cells, so that emb_label={self.emb_label!r} has no place."
            raise errors.OptionError(msg)
        states, dataset = read_cell_states(cell_states_to_model), read_dataset(input_data_file)
        cells = {state: self._cells(dataset, {states.key: [state]}) for state in states.all}
        model = self._model(model_directory)
        embeddings = {state: self._extract(tokens, model, with_tensor=True)[2] for state, tokens in cells.items()}
        write_pickle(embeddings, Path(output_directory) / f"{output_prefix}.pkl")
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
        embs : Table of cells as `extract_embs` returns it, or as it is read from its file.
        plot_style : "umap" or "heatmap".
        output_directory, output_prefix : Where the files go, and how their names begin.
        max_ncells_to_plot : Most cells, drawn with a fixed seed; never more than `max_ncells`.
        kwargs_dict : Settings for `scanpy.pl.umap` or `seaborn.clustermap`.
        """
        check_choice("plot_style", plot_style, ("heatmap", "umap"))
        check_range("max_ncells_to_plot", max_ncells_to_plot, low=1)
        if not self.labels_to_plot:
            msg = "There is nothing to plot by. Pass labels_to_plot, a list of columns, to EmbExtractor."
            raise errors.OptionError(msg)
        most = max_ncells_to_plot if self.max_ncells is None else min(max_ncells_to_plot, self.max_ncells)
        start = Path(output_directory) / f"{output_prefix}_{plot_style}"
        plot_labels(embs, plot_style, self.labels_to_plot, start, most, kwargs_dict)

    def _cells(self, dataset: TokenizedDataset, cell_state: Mapping[str, Any] | None) -> TokenizedDataset:
        """Cells that are read, in the published order."""
        filters = [self.filter_data or {}, cell_state or {}]
        return dataset.take(published_cells(dataset, filters, max_cells=self.max_ncells))

    def _model(self, folder: str | Path) -> LoadedModel:
        try:
            model = published_model(folder, self._vocabulary, num_classes=self.num_classes)
        except errors.UnknownVocabularyError as error:
            msg = f"Which dictionary {folder} was made with cannot be recognized. Pass its token_dictionary_file."
            raise errors.UnknownVocabularyError(msg) from error
        if self._vocabulary is None and model.vocabulary.name != self.model_version:
            _logger.warning("%s is of %s, and is read with that dictionary.", folder, model.vocabulary.name)
        return model

    def _extract(
        self, tokens: TokenizedDataset, model: LoadedModel, *, with_tensor: bool
    ) -> "tuple[pd.DataFrame, pd.DataFrame, Any]":
        """Table to write, table to return, and the tensor."""
        import pandas as pd

        embedder = Embedder(mark_tokens(tokens, model.vocabulary), model, self.emb_layer, self.forward_batch_size)
        if self.emb_mode == "gene":
            frame, tensor = self._extract_genes(embedder, with_tensor=with_tensor)
            return frame, frame, tensor
        values_nd = embedder.embed(mode_of_version(self.emb_mode, model.vocabulary.name)).values
        if self.summary_stat is not None:
            vector_d = summarize(values_nd, self.summary_stat)
            frame = pd.DataFrame([vector_d])
            return frame, frame, torch.from_numpy(vector_d)
        table, cells = _cell_frame(values_nd, tokens.table, self.emb_label or ()), torch.from_numpy(values_nd)
        if self.exact_summary_stat is None:
            return table, table, cells
        vector_d = summarize(values_nd, self.exact_summary_stat.removeprefix("exact_"))
        row = pd.DataFrame([vector_d], index=[self.exact_summary_stat])
        is_mean = self.exact_summary_stat == "exact_mean"
        return table, row, torch.from_numpy(vector_d) if is_mean else cells.median(dim=0).values

    def _extract_genes(self, embedder: "Embedder", *, with_tensor: bool) -> "tuple[pd.DataFrame, Any]":
        """Genes, each as the mean or median over cells or in every cell; and the tensor."""
        gene_of, summary = embedder.model.vocabulary.gene_of, self.summary_stat
        if self.emb_label:
            _logger.warning("emb_label=%s belongs to cells; tables of genes do not have it.", list(self.emb_label))
        if summary != "median" and (summary or not with_tensor) and (summary or self.gene_emb_style == "mean_pool"):
            # Means over cells need no memory for the states of each.
            means = embedder.embed("gene")
            ids, values, states = np.flatnonzero(np.isin(gene_of, means.genes)), means.values, None
        else:
            states = embedder.gene_states()
            if summary is None and self.gene_emb_style == "all":
                return states.frame(gene_of, embedder.tokens.table), states.padded() if with_tensor else None
            ids, values = states.summaries(summary or "mean")
        frame = _gene_frame(ids, values, gene_of)
        return frame, states.padded() if states and not summary else _by_token(ids, values)


def get_embs(  # noqa: PLR0913, PLR0917  the published arguments
    model: nn.Module,
    filtered_input_data: Any,
    emb_mode: str,
    layer_to_quant: int,
    pad_token_id: int,
    forward_batch_size: int,
    token_gene_dict: Mapping[int, str],
    special_token: bool = False,
    summary_stat: Literal["mean", "median"] | None = None,
    silent: bool = False,
    save_tdigest: bool = False,
    tdigest_path: str | Path | None = None,
) -> Tensor | dict[int, list[float]]:
    """Embeddings of cells, or of genes, from a network in memory.

    Parameters
    ----------
    model : BERT of `transformers` with any head, or a network of this package; it is left as it is, where it is.
    filtered_input_data : `datasets.Dataset` or `TokenizedDataset`, whose order is kept; `<pad>` at ends is no token.
    emb_mode : "cls", "cell" or "gene", as for `EmbExtractor`; special tokens are recognized in the cells.
    layer_to_quant : Index into the hidden states: 0 is before the first layer, the number of layers the last one.
    pad_token_id : Id of `<pad>` in the dictionary.
    forward_batch_size : At most so many of the longest cells in one pass; how, not what.
    token_gene_dict : Gene or special token of each id.
    special_token : Changes nothing: the dictionary and the cells show it.
    summary_stat : "mean" or "median" over the cells, in every dimension; exact.
    silent : Show no progress bar.
    save_tdigest, tdigest_path : Refused, as there are no digests to save.

    Returns
    -------
    In main memory, float32: ``(n, d)``, or ``(d,)`` with `summary_stat`; for "gene" ``(n, longest, d)`` with zeros
    behind the end of shorter cells, or with `summary_stat` lists by token id.
    """
    if save_tdigest:
        raise errors.UnsupportedArgumentError(_NO_TDIGEST)
    check_choice("emb_mode", emb_mode, ("cls", "cell", "gene"))
    check_choice("summary_stat", summary_stat, (None, "mean", "median"))
    check_range("forward_batch_size", forward_batch_size, low=1)
    _check_dictionary(token_gene_dict, pad_token_id)
    loaded = _loaded(model, token_gene_dict)
    index, n_layers = cast(Any, layer_to_quant), loaded.n_layers
    if isinstance(index, bool) or not isinstance(index, int) or not -n_layers - 1 <= index <= n_layers:
        msg = f"layer_to_quant={index!r} is out of range. The model has {n_layers} layers: it takes 0 to {n_layers}."
        raise errors.OutOfRangeError(msg)
    tokens = mark_tokens(dataset_tokens(filtered_input_data, pad_token_id), loaded.vocabulary)
    from_output = index - n_layers if index >= 0 else index + 1
    embedder = Embedder(tokens, loaded, from_output, forward_batch_size, silent)
    if emb_mode == "gene":
        states = embedder.gene_states()
        return states.padded() if summary_stat is None else _by_token(*states.summaries(summary_stat))
    values_nd = embedder.embed(emb_mode).values
    return torch.from_numpy(values_nd if summary_stat is None else summarize(values_nd, summary_stat))


def _check_dictionary(token_gene_dict: Any, pad_token_id: int) -> None:
    if not isinstance(token_gene_dict, Mapping) or any(isinstance(token, str) for token in token_gene_dict):
        given = "gene to id" if isinstance(token_gene_dict, Mapping) else type(token_gene_dict).__name__
        turned = "{token: gene for gene, token in dictionary.items()}"
        msg = (
            f"token_gene_dict ({given}) takes the gene of each id. Turn that of TOKEN_DICTIONARY_FILE round: {turned}."
        )
        raise errors.OptionError(msg)
    if token_gene_dict.get(pad_token_id, "<pad>") != "<pad>":
        msg = f"pad_token_id={pad_token_id} is {token_gene_dict[pad_token_id]} in the dictionary. Give that of <pad>."
        raise errors.OptionError(msg)


_PLAIN = ("torch.", "transformers.", "geneformer.")
"""Where networks without adapters and weights of few bits have their parts from."""


def _loaded(model: Any, token_gene_dict: Mapping[int, str]) -> LoadedModel:
    """The encoder of a network in memory, with the vocabulary of the dictionary or, where that is another, its own."""
    config = getattr(model, "config", None)
    if not isinstance(config, BertConfig):
        msg = f"The model is a {type(model).__name__}, not a BERT. Load a model folder first."
        raise errors.CheckpointError(msg)
    where = Path(type(model).__name__)
    plain: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not all(type(module).__module__.startswith(_PLAIN) for module in plain.modules()):
        plain = deepcopy(plain)  # the user's network keeps its adapters
        merge_adapters(plain)
    weights = {name: value.detach() for name, value in plain.state_dict().items() if name not in TIED}
    network, has_head = build_model(copy(config), weights, where.name)
    if len(token_gene_dict) == config.vocab_size:
        tokens = {gene: int(token) for token, gene in token_gene_dict.items()}
        vocabulary = bundled_with(tokens) or vocabulary_from("token_gene_dict", tokens)
    else:
        vocabulary = recognize_vocabulary(config, where, None)
    return LoadedModel(where.name, where, network, vocabulary, has_head)


def label_cell_embs(embs: Tensor, downsampled_data: Any, emb_labels: Sequence[str] | None) -> "pd.DataFrame":
    """One row per cell: columns `0` to `d - 1`, the labels, and `cell_id` where the cells have one.

    Parameters
    ----------
    embs, downsampled_data : Embeddings, ``(n, d)``, and the cells, in the same order.
    emb_labels : Columns to add.
    """
    tokens = _same_cells(embs, downsampled_data)
    for name in emb_labels or ():
        tokens.column(name)
    return _cell_frame(embs.detach().cpu().numpy(), tokens.table, emb_labels or ())


def label_gene_embs(
    embs: Tensor, downsampled_data: Any, token_gene_dict: Mapping[int, str], gene_emb_style: str = "mean_pool"
) -> "pd.DataFrame":
    """Embeddings of genes by their names: the mean over cells, or one row per gene and cell.

    Parameters
    ----------
    embs, downsampled_data : States of all tokens, ``(n, longest, d)``, and the cells, in the same order.
    token_gene_dict : Gene of each token id.
    gene_emb_style : "mean_pool" or "all", as for `EmbExtractor`.
    """
    check_choice("gene_emb_style", gene_emb_style, ("mean_pool", "all"))
    tokens = _same_cells(embs, downsampled_data)
    is_token = torch.arange(embs.shape[1])[None, :] < torch.from_numpy(tokens.lengths)[:, None]
    states = GeneStates(embs.detach().cpu()[is_token].to(torch.float32).numpy(), tokens.gather(range(len(tokens))))
    if gene_emb_style == "all":
        return states.frame(token_gene_dict, tokens.table)
    return _gene_frame(*states.summaries("mean"), token_gene_dict)


def _same_cells(embs: Tensor, data: Any) -> TokenizedDataset:
    """The cells, once there are as many as embeddings, and none is longer than them."""
    tokens = dataset_tokens(data)
    longest = int(tokens.lengths.max(initial=0))
    if len(tokens) != len(embs) or (embs.ndim == 3 and longest > embs.shape[1]):
        msg = (
            f"Embeddings of shape {tuple(embs.shape)} do not belong to {len(tokens):,} cells of up to {longest:,} "
            "tokens. Give the cells that went into get_embs, in the same order."
        )
        raise errors.DatasetError(msg)
    return tokens


@dataclass(frozen=True, slots=True)
class Embedder:
    """Some cells with a model, in the arithmetic of the published package."""

    tokens: TokenizedDataset
    model: LoadedModel
    layer: int
    batch_size: int
    silent: bool = False

    def embed(self, mode: str) -> Any:
        """Embeddings of cells for the modes "cell" and "cls", mean ones of genes for "gene"."""
        if mode == "cls" and self.model.vocabulary.cls_id is None:
            msg = (
                f'emb_mode="cls" needs <cls>, which {self.model.name} does not have: its vocabulary is '
                f'{self.model.vocabulary.name}. Pass model_version="V1", or emb_mode="cell".'
            )
            raise errors.PairingError(msg)
        pooling = cast(Literal["mean", "cls", "gene"], "mean" if mode == "cell" else mode)
        options, runtime = EmbedOptions(pooling=pooling, layer=self.layer), self._runtime
        with progress_bar("Embedding", shown=not self.silent, unit="cells") as update:
            return embed(self.tokens, self.model, options, runtime, progress=update)

    def gene_states(self) -> "GeneStates":
        """Embeddings of every gene in every cell."""
        tokens, model = self.tokens, self.model
        check_pairing(tokens, model, truncate=None)
        check_layer(self.layer, model.name, model.n_layers)
        packed = tokens.gather(np.arange(len(tokens)))
        values = np.empty((len(packed.input_ids), model.network.config.hidden_size), dtype=np.float32)

        def step(batch: Batch) -> None:
            hidden_TD = model.network.bert(
                batch.input_ids, batch.cu_seqlens, layer=self.layer, attention=batch.attention
            )
            # Cells come longest first; their tokens go where the dataset has them.
            places = [np.arange(*packed.cu_seqlens[row : row + 2]) for row in batch.rows.tolist()]
            values[np.concatenate(places)] = hidden_TD.float().cpu().numpy()

        with progress_bar("Embedding", shown=not self.silent, unit="cells") as update:
            run_batches(tokens, model.network.bert, step, self._runtime, max_length=model.max_length, progress=update)
        return GeneStates(values, packed)

    @property
    def _runtime(self) -> RuntimeOptions:
        return published_runtime(self.model.network.bert, self.batch_size)


@dataclass(frozen=True, slots=True, eq=False)
class GeneStates:
    """States ``(T, D)`` of the genes of some cells, in main memory."""

    values: NDArray[np.float32]
    cells: Packed

    def summaries(self, statistic: str) -> tuple[Ints, NDArray[np.float32]]:
        """Token ids that occur, ascending, and the mean or median over the states of each, ``(g, D)``."""
        order = np.argsort(self.cells.input_ids, kind="stable")
        ids, starts = np.unique(self.cells.input_ids[order], return_index=True)
        return ids, np.stack([summarize(self.values[group], statistic) for group in np.split(order, starts[1:])])

    def padded(self) -> Tensor:
        """States as one block; behind the end of a cell there are zeros, ``(n, L, D)``."""
        states = torch.split(torch.from_numpy(self.values), self.cells.lengths.tolist())
        return pad_sequence(list(states), batch_first=True)

    def frame(self, gene_of: Any, cells: "pa.Table") -> "pd.DataFrame":
        """One row per gene and cell, by token: `Identifier`, columns `0` to `D - 1`, `cell_id` where it is known."""
        order = np.argsort(self.cells.input_ids, kind="stable")
        ids = self.cells.input_ids[order]
        frame = _gene_frame(ids, self.values[order], gene_of)
        frame.insert(0, "Identifier", frame.groupby(ids).cumcount().to_numpy())
        if keys.CELL_ID in cells.column_names:
            frame[keys.CELL_ID] = cells.column(keys.CELL_ID).to_pandas().to_numpy()[self.cells.cells[order]]
        return frame


def _gene_frame(ids: NDArray[Any], values: NDArray[np.float32], gene_of: Any) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(values, index=[gene_of[token] for token in ids.tolist()])


def _cell_frame(values_nd: NDArray[np.float32], cells: "pa.Table", labels: Sequence[str]) -> "pd.DataFrame":
    """One row per cell: columns `0` to `D - 1`, the labels, and `cell_id` where it is known."""
    import pandas as pd

    frame = pd.DataFrame(values_nd)
    has_id = keys.CELL_ID in cells.column_names and keys.CELL_ID not in labels
    for name in (*labels, keys.CELL_ID) if has_id else labels:
        frame[name] = cells.column(name).to_pandas()
    return frame


def summarize(values_nd: NDArray[np.float32], statistic: str) -> NDArray[np.float32]:
    """Mean or median over the cells in every dimension, exact, ``(D,)``."""
    is_mean = statistic == "mean"
    vector_d = values_nd.mean(axis=0, dtype=np.float64) if is_mean else np.median(values_nd, axis=0)
    return cast(NDArray[np.float32], vector_d.astype(np.float32))


def _by_token(ids: Ints, values: NDArray[np.float32]) -> dict[int, list[float]]:
    return dict(zip(ids.tolist(), values.tolist(), strict=True))
