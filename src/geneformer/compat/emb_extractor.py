"""`EmbExtractor` and `get_embs`: embeddings of cells, genes and states of cells, with the published names and files."""

import logging
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from transformers import BertConfig

from geneformer import keys
from geneformer.compat.cells import listed, longest_first, mark_tokens, read_cell_states, rows_with, unpadded
from geneformer.compat.dictionaries import published_vocabulary
from geneformer.compat.networks import merge_adapters, published_model, published_runtime
from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.errors import (
    CheckpointError,
    DatasetError,
    NoCellsError,
    OptionError,
    OutOfRangeError,
    PairingError,
    UnknownColumnError,
    UnknownVocabularyError,
    UnreadableInputError,
    UnsupportedArgumentError,
)
from geneformer.files.atomic import atomic_file, output_errors
from geneformer.files.pickles import read_pickle, write_pickle
from geneformer.files.progress import progress_bar
from geneformer.genes.vocabulary import CLS, SPECIAL, Vocabulary
from geneformer.inference.cells import check_layer, check_pairing
from geneformer.inference.embedding import embed
from geneformer.inference.tables import CellEmbeddings, GeneEmbeddings
from geneformer.models.checkpoint import TIED, build_model
from geneformer.models.loading import LoadedModel, recognize_vocabulary
from geneformer.options import EmbedOptions, RuntimeOptions
from geneformer.options._fields import check_choice, check_range
from geneformer.pl._embedding import HEATMAP_LEGEND_MOST as LEGEND_MOST
from geneformer.pl._embedding import umap_layout
from geneformer.pl._figures import Categories, is_numeric, plotting_library, save_figure
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import read_dataset

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Statistic = Literal["mean", "median", "lower_median"]


def summarize(values_nd: NDArray[np.float32], statistic: Statistic) -> NDArray[np.float32]:
    """A statistic over the cells in every dimension, exact, ``(d,)``."""
    vector_d: NDArray[np.float64]
    if statistic == "mean":
        vector_d = values_nd.mean(axis=0, dtype=np.float64)
    elif statistic == "median":
        vector_d = np.median(values_nd, axis=0)
    else:
        middle = (len(values_nd) - 1) // 2
        vector_d = np.partition(values_nd, middle, axis=0)[middle]
    return vector_d.astype(np.float32)


Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class GeneStates:
    """States of the genes of cells, kept in main memory: four bytes for each of ``T * D``."""

    values: NDArray[np.float32]
    tokens: Ints
    cells: Ints

    @property
    def by_token(self) -> Ints:
        """Places of the states ordered by token id; those of one id keep the order of the cells, ``(T,)``."""
        return np.argsort(self.tokens, kind="stable")

    @property
    def tokens_in_order(self) -> list[int]:
        """Token ids in the order of `by_token`."""
        ordered: list[int] = np.sort(self.tokens).tolist()
        return ordered

    @property
    def repeat(self) -> Ints:
        """How many states of the same token id there were before, in the order of `by_token`, ``(T,)``."""
        _, counts = np.unique(self.tokens, return_counts=True)
        return np.arange(len(self.tokens)) - np.repeat(np.cumsum(counts) - counts, counts)

    def summaries(self, statistic: Statistic) -> tuple[Ints, NDArray[np.float32]]:
        """Token ids that occur, ascending, and a statistic over the states of each, ``(g, D)``."""
        order = self.by_token
        ids, starts = np.unique(self.tokens[order], return_index=True)
        return ids, np.stack([summarize(self.values[group], statistic) for group in np.split(order, starts[1:])])

    def padded(self) -> NDArray[np.float32]:
        """States as one block; behind the end of a cell there are zeros, ``(N, L, D)``."""
        lengths = np.bincount(self.cells)
        block = np.zeros((len(lengths), int(lengths.max()), self.values.shape[1]), dtype=np.float32)
        place = np.arange(len(self.cells)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        block[self.cells, place] = self.values
        return block


def gene_states(
    tokens: TokenizedDataset,
    model: LoadedModel,
    layer: int,
    runtime: RuntimeOptions,
    *,
    progress: Progress | None = None,
) -> GeneStates:
    """States of every token of every cell after one layer."""
    check_pairing(tokens, model, truncate=False)
    check_layer(layer, model.name, model.n_layers)
    packed = tokens.gather(np.arange(len(tokens)))
    starts, lengths = packed.cu_seqlens[:-1], tokens.lengths
    values = np.empty((len(packed.input_ids), model.network.config.hidden_size), dtype=np.float32)

    def step(batch: Batch) -> None:
        hidden_TD = model.network.bert(batch.input_ids, batch.cu_seqlens, layer=layer, attention=batch.attention)
        values[_places(starts[batch.rows], lengths[batch.rows])] = hidden_TD.float().cpu().numpy()

    run_batches(tokens, model.network.bert, step, runtime, max_length=model.max_length, progress=progress)
    return GeneStates(values, packed.input_ids.astype(np.int64), np.repeat(np.arange(len(tokens)), lengths))


def _places(starts: Ints, lengths: Ints) -> Ints:
    """Places of the tokens of some cells in the order of the batch, ``(T,)``."""
    behind = np.cumsum(lengths) - lengths
    places: Ints = np.arange(int(lengths.sum())) + np.repeat(starts - behind, lengths)
    return places


_POOLINGS: dict[str, Literal["mean", "cls"]] = {"cell": "mean", "cls": "cls"}


@dataclass(frozen=True, slots=True)
class Extraction:
    """Embeddings of some cells, as they are asked for."""

    tokens: TokenizedDataset
    model: LoadedModel
    layer: int
    batch: int
    silent: bool = False

    @property
    def runtime(self) -> RuntimeOptions:
        """Where it runs: on whatever device there is, in the arithmetic of the published package."""
        return published_runtime(self.model.network.bert, self.batch)

    def cells(self, mode: str) -> CellEmbeddings:
        """One embedding per cell, for the modes "cell" and "cls"."""
        if mode == "cls" and self.model.vocabulary.cls_id is None:
            msg = (
                f'emb_mode="cls" needs <cls>, which {self.model.name} does not have: its vocabulary is '
                f'{self.model.vocabulary.name}. Pass model_version="V1", or emb_mode="cell".'
            )
            raise PairingError(msg)
        return cast(CellEmbeddings, self._embed(EmbedOptions(pooling=_POOLINGS[mode], layer=self.layer)))

    def genes(self) -> GeneEmbeddings:
        """Mean embedding of every gene; memory does not grow with the number of cells."""
        return cast(GeneEmbeddings, self._embed(EmbedOptions(pooling="gene", layer=self.layer)))

    def states(self) -> GeneStates:
        """Embeddings of every gene in every cell."""
        with progress_bar("Embedding", shown=not self.silent) as update:
            return gene_states(self.tokens, self.model, self.layer, self.runtime, progress=update)

    def _embed(self, options: EmbedOptions) -> CellEmbeddings | GeneEmbeddings:
        with progress_bar("Embedding", shown=not self.silent) as update:
            return embed(self.tokens, self.model, options, self.runtime, progress=update)


def vector(values_nd: Any, statistic: str) -> Tensor:
    """A statistic over cells as a tensor, ``(d,)``."""
    return torch.from_numpy(summarize(values_nd, cast(Statistic, statistic)))


def by_token(ids: Sequence[int], values_gd: Any) -> dict[int, list[float]]:
    """Embedding of every gene by its token id, as plain numbers."""
    return dict(zip(ids, values_gd.tolist(), strict=True))


IDENTIFIER = "Identifier"
"""Column that counts the states of one gene."""


def cell_frame(values_nd: Any, cells: "pa.Table", labels: Sequence[str]) -> "pd.DataFrame":
    """One row per cell: columns `0` to `d - 1`, the labels, and `cell_id` where it is known."""
    import pandas as pd

    frame = pd.DataFrame(values_nd)
    for name in _with_cell_id(labels, cells):
        frame[name] = cells.column(name).to_pandas()
    return frame


def vector_frame(vector_d: Any, name: str | int = 0) -> "pd.DataFrame":
    """One row that sums up all cells, under a name."""
    import pandas as pd

    return pd.DataFrame([vector_d], index=[name])


def gene_frame(values_gd: Any, genes: Sequence[str]) -> "pd.DataFrame":
    """One row per gene, named by it: columns `0` to `d - 1`."""
    import pandas as pd

    return pd.DataFrame(values_gd, index=list(genes))


def state_frame(states: GeneStates, genes: Sequence[str], cells: "pa.Table") -> "pd.DataFrame":
    """One row per gene and cell: `Identifier`, columns `0` to `d - 1`, and `cell_id` where it is known."""
    import pandas as pd

    order = states.by_token
    frame = pd.DataFrame(states.values[order], index=list(genes))
    frame.insert(0, IDENTIFIER, states.repeat)
    for name in _with_cell_id((), cells):
        frame[name] = cells.column(name).to_pandas().to_numpy()[states.cells[order]]
    return frame


def dimensions(frame: "pd.DataFrame") -> list[Any]:
    """Columns with the numbers of an embedding, also in a frame that was read from a file."""
    return [name for name in frame.columns if str(name).isdecimal()]


def write_frame(frame: "pd.DataFrame", path: Path) -> None:
    """Write a CSV with row names, replacing what is there."""
    with output_errors(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, overwrite=True) as temporary:
        frame.to_csv(temporary)


def _with_cell_id(labels: Sequence[str], cells: "pa.Table") -> list[str]:
    known = keys.CELL_ID in cells.column_names and keys.CELL_ID not in labels
    return [*labels, keys.CELL_ID] if known else list(labels)


_OURS = ("adata", "ax", "color", "data", "return_fig", "row_colors", "save", "show")
"""Settings that follow from what is drawn and where it goes."""

_DIMENSIONS = 50
"""More dimensions are first reduced to so many principal components."""


def label_layout(embedding: ArrayLike) -> NDArray[np.float32]:
    """UMAP of an embedding over its principal components, ``(n, 2)``; the same for the same input."""
    values_nd = np.asarray(embedding, dtype=np.float32)
    if values_nd.shape[1] > _DIMENSIONS and len(values_nd) > 2:
        values_nd = np.asarray(plotting_library("scanpy").pp.pca(values_nd, svd_solver="arpack"))
    return umap_layout(values_nd, metric="euclidean")


def label_umap(
    xy_n2: NDArray[np.float32], labels: "pd.Series[Any]", path: Path, settings: Mapping[str, Any] | None = None
) -> None:
    """Write a map of the cells colored by a label; whole numbers are names of groups, other numbers quantities."""
    settings = _checked(settings)
    sc, sns, pyplot = (plotting_library(name) for name in ("scanpy", "seaborn", "matplotlib.pyplot"))
    import anndata as ad
    import pandas as pd

    name = str(labels.name)
    column: Any = labels.to_numpy()
    if not pd.api.types.is_float_dtype(labels):
        groups = Categories(labels)
        column = pd.Categorical.from_codes(groups.codes, pd.Index(groups.names))
    rows = pd.Index([str(row) for row in range(len(labels))])
    cells = ad.AnnData(obs=pd.DataFrame({name: column}, index=rows), obsm={"X_umap": xy_n2})
    sizes = {**sns.plotting_context("notebook", font_scale=2.3), **sns.axes_style("white"), "figure.figsize": (10, 10)}
    with pyplot.rc_context(sizes):
        figure = sc.pl.umap(cells, color=name, **{"size": 200, **settings}, show=False, return_fig=True)
        save_figure(figure, path)


def label_heatmap(
    embedding: ArrayLike, labels: "pd.Series[Any]", path: Path, settings: Mapping[str, Any] | None = None
) -> None:
    """Write a heatmap with clustered cells and dimensions, each scaled to 0-1, and the label next to the cells."""
    settings = _checked(settings)
    sns, pyplot = plotting_library("seaborn"), plotting_library("matplotlib.pyplot")
    import pandas as pd

    values_nd = np.asarray(embedding, dtype=np.float32)
    if len(values_nd) < 2:
        msg = f"A heatmap needs at least two cells; there is {len(values_nd)}."
        raise NoCellsError(msg)
    name, groups = str(labels.name), _groups(labels)
    colors = sns.cubehelix_palette(len(groups.names), start=1, rot=-2, light=0.9, dark=0.1, reverse=True).as_hex()
    whole: dict[str, Any] = {
        "cmap": "magma", "standard_scale": 1, "figsize": (15, 15), "cbar_pos": (1.0, 0.4, 0.03, 0.2),
        "xticklabels": False, "yticklabels": False, "rasterized": True,
    }  # fmt: skip
    with pyplot.rc_context({**sns.plotting_context("notebook", font_scale=2), **sns.axes_style("white")}):
        grid = sns.clustermap(
            pd.DataFrame(values_nd),
            row_colors=pd.Series(np.array(colors)[groups.codes], name=name),
            **{**whole, **settings},
        )
        _legend(grid, groups.names, colors, name)
        save_figure(grid.figure, path)


def _groups(labels: "pd.Series[Any]") -> Categories:
    """Values as groups; quantities with many values in five of about equal size."""
    import pandas as pd

    if is_numeric(labels) and labels.nunique() > LEGEND_MOST:
        return Categories(pd.qcut(labels, 5, duplicates="drop"))
    return Categories(labels)


def _legend(grid: Any, names: list[str], colors: list[str], title: str) -> None:
    """Names of the groups over the dendrogram of the dimensions."""
    from matplotlib.patches import Patch

    if len(names) > LEGEND_MOST:
        grid.ax_col_dendrogram.set_title(f"{title}: {len(names)} groups")
        return
    grid.ax_col_dendrogram.legend(
        handles=[Patch(color=color, label=name) for name, color in zip(names, colors, strict=True)],
        title=title,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=min(len(names), 4),
        frameon=False,
    )


def _checked(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings of the caller, without those that are decided here."""
    settings = dict(settings or {})
    taken = [name for name in _OURS if name in settings]
    if taken:
        msg = f"{taken} cannot be set: they follow from the labels, and from the file that is written. Leave them out."
        raise UnsupportedArgumentError(msg)
    return settings


_logger = logging.getLogger(__name__)

SEED = 0
"""Which cells are drawn where there are too many."""


def plot_labels(
    embs: "pd.DataFrame",
    style: str,
    labels: Sequence[str],
    start: Path,
    most: int,
    settings: Mapping[str, Any] | None,
) -> None:
    """Write one figure for each label that the table has; others are named in a warning of the log."""
    numbers = dimensions(embs)
    if not numbers:
        msg = f"The table has no columns 0, 1, ... of an embedding; it has {list(embs.columns)[:8]}."
        raise UnknownColumnError(msg)
    shown = [label for label in labels if label in embs.columns]
    if len(shown) < len(labels):
        missing = [label for label in labels if label not in embs.columns]
        _logger.warning("Not plotted, because the table does not have them: %s", missing)
    if len(embs) > most:
        embs = embs.sample(most, random_state=SEED).sort_index()
    values = embs[numbers].to_numpy()
    with output_errors(start):
        start.absolute().parent.mkdir(parents=True, exist_ok=True)
    layout = label_layout(values) if style == "umap" and shown else None
    for label in shown:
        path = start.with_name(f"{start.name}_{label}.pdf")
        if layout is None:
            label_heatmap(values, embs[label], path, settings)
        else:
            label_umap(layout, embs[label], path, settings)


def read_state_embeddings(path: str | Path) -> dict[Any, Tensor]:
    """Embedding of every state, float32 ``(d,)`` in main memory, whatever device they were written from."""
    content = read_pickle(path)
    if not isinstance(content, dict) or not content:
        found = "an empty dictionary" if isinstance(content, dict) else f"a {type(content).__name__}"
        msg = f'"{path}" holds {found}, not embeddings by state. Give the .pkl that get_state_embs wrote.'
        raise UnreadableInputError(msg)
    return {state: _vector(value, f'"{path}", state {state!r}') for state, value in content.items()}


def write_state_embeddings(embeddings: dict[Any, Tensor], path: str | Path) -> Path:
    """Write embeddings of states where published scripts look for them; readable on every machine."""
    return write_pickle({state: value.detach().cpu().clone() for state, value in embeddings.items()}, path)


def _vector(value: Any, where: str) -> Tensor:
    """Numbers as a vector."""
    try:
        vector = torch.as_tensor(value).to(torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        msg = f"{where}: a {type(value).__name__} where an embedding should be ({error}). Compute the states again."
        raise UnreadableInputError(msg) from error
    if vector.ndim != 1 or not len(vector) or not bool(torch.isfinite(vector).all()):
        msg = (
            f"{where}: shape {tuple(vector.shape)}, or values that are not finite. An embedding is one row of numbers."
        )
        raise UnreadableInputError(msg)
    return vector


@dataclass(frozen=True, slots=True)
class Extracted:
    """What is made of some cells."""

    written: "pd.DataFrame"
    returned: "pd.DataFrame"
    tensor: Any = None


def extract_cells(cells: Extraction, mode: str, labels: Sequence[str], summary: str | None) -> Extracted:
    """Cells, or one row that sums them up."""
    found = cells.cells(mode)
    if summary in ("mean", "median"):
        whole = vector(found.values, summary)
        frame = vector_frame(whole.numpy())
        return Extracted(frame, frame, whole)
    written = cell_frame(found.values, found.cells, labels)
    if summary is None:
        return Extracted(written, written, torch.from_numpy(found.values))
    plain = summary.removeprefix("exact_")
    returned = vector_frame(vector(found.values, plain).numpy(), summary)
    return Extracted(written, returned, vector(found.values, "lower_median" if plain == "median" else plain))


def extract_genes(cells: Extraction, style: str, summary: str | None, *, with_tensor: bool) -> Extracted:
    """Genes, each as the mean or median over cells or in every cell."""
    vocabulary = cells.model.vocabulary
    of_each = style == "all" and summary is None
    if not of_each and summary != "median" and (summary or not with_tensor):
        found = cells.genes()
        tokens = {**vocabulary.special_tokens, **vocabulary.token_of}
        frame = gene_frame(found.values, found.genes.tolist())
        return Extracted(frame, frame, by_token([tokens[gene] for gene in found.genes], found.values))
    states = cells.states()
    if of_each:
        frame = state_frame(states, vocabulary.gene_of[states.tokens_in_order].tolist(), cells.tokens.table)
        return Extracted(frame, frame, torch.from_numpy(states.padded()) if with_tensor else None)
    ids, values = states.summaries(cast(Statistic, summary or "mean"))
    frame = gene_frame(values, vocabulary.gene_of[ids].tolist())
    return Extracted(frame, frame, by_token(ids.tolist(), values) if summary else torch.from_numpy(states.padded()))


_PLAIN = ("torch.", "transformers.", "geneformer.")
"""Where networks without adapters and weights of few bits have their parts from."""

NO_TDIGEST = (
    "save_tdigest=True cannot be honored: means and medians are exact here, so there is no digest to keep. Leave it "
    "out; for other quantiles extract the embeddings without summary_stat and take them from the table."
)


def get_embs(  # noqa: PLR0913, PLR0917  the published arguments
    model: nn.Module,
    filtered_input_data: Any,
    emb_mode: str,
    layer_to_quant: int,
    pad_token_id: int,
    forward_batch_size: int,
    token_gene_dict: Mapping[int, str],
    special_token: bool = False,
    summary_stat: Statistic | None = None,
    silent: bool = False,
    save_tdigest: bool = False,
    tdigest_path: str | Path | None = None,
) -> Tensor | dict[int, list[float]]:
    """Embeddings of cells, or of genes, from a network in memory.

    Parameters
    ----------
    model
        BERT of `transformers` with any head, or a network of this package. It is left as it is, where it is; the
        embeddings are computed on the device that is found ("auto").
    filtered_input_data
        `datasets.Dataset` with `input_ids`, or a `TokenizedDataset`. Rows are taken in its order; `<pad>` at their ends
        is no token, whatever their `length` says.
    emb_mode
        "cls": state of `<cls>`. "cell": mean over the genes of each cell; special tokens do not count, and whether
        there are any is seen from the cells. "gene": states of all tokens.
    layer_to_quant
        Index into the hidden states: 0 is before the first layer, the number of layers the last one.
    pad_token_id
        Id of `<pad>` in the dictionary.
    forward_batch_size
        At most so many cells of the greatest length are read together; changes the memory needed, not the values.
    token_gene_dict
        Gene or special token of each id.
    special_token
        Changes nothing: the dictionary and the cells tell.
    summary_stat
        "mean" or "median" over the cells, in every dimension; exact, where the published package approximates.
    silent
        Show no progress bar.
    save_tdigest, tdigest_path
        There are no digests to save; see Raises.

    Returns
    -------
    Tensor
        In main memory, float32: ``(n, d)``, or ``(d,)`` with `summary_stat`; for "gene" ``(n, longest, d)`` with zeros
        behind the end of shorter cells.
    dict
        For "gene" with `summary_stat`: token ids and their embeddings as lists.

    Raises
    ------
    UnsupportedArgumentError
        `save_tdigest`.
    OptionError
        Another mode, layer or statistic.
    CheckpointError
        The network is no BERT.
    PairingError
        Cells that the network cannot read, or "cls" and cells without `<cls>`.
    """
    if save_tdigest:
        raise UnsupportedArgumentError(NO_TDIGEST)
    check_choice("emb_mode", emb_mode, ("cls", "cell", "gene"))
    check_choice("summary_stat", summary_stat, (None, "mean", "median"))
    check_range("forward_batch_size", forward_batch_size, low=1)
    _check_dictionary(token_gene_dict, pad_token_id)
    loaded = _loaded(model, token_gene_dict)
    tokens = mark_tokens(dataset_tokens(filtered_input_data, pad_token_id), loaded.vocabulary)
    cells = Extraction(tokens, loaded, _layer(layer_to_quant, loaded.n_layers), forward_batch_size, silent)
    if emb_mode != "gene":
        values_nd = cells.cells(emb_mode).values
        return torch.from_numpy(values_nd) if summary_stat is None else vector(values_nd, summary_stat)
    states = cells.states()
    if summary_stat is None:
        return torch.from_numpy(states.padded())
    ids, values = states.summaries(summary_stat)
    return by_token(ids.tolist(), values)


def _loaded(model: nn.Module, token_gene_dict: Mapping[int, str]) -> LoadedModel:
    """The encoder of a network, with the vocabulary that fits it."""
    config = getattr(model, "config", None)
    if not isinstance(config, BertConfig):
        msg = f"The model is a {type(model).__name__}, not a BERT. Load a model folder first."
        raise CheckpointError(msg)
    where = Path(type(model).__name__)
    weights = {name: value.detach() for name, value in _plain(model).state_dict().items() if name not in TIED}
    network, has_head = build_model(copy(config), weights, where.name)
    return LoadedModel(where.name, where, network, _vocabulary(token_gene_dict, config, where), has_head)


def _plain(model: Any) -> nn.Module:
    """The network with BERT's own weights: a copy where there are adapters, or weights of few bits."""
    network: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    if all(type(module).__module__.startswith(_PLAIN) for module in network.modules()):
        return network
    network = deepcopy(network)
    merge_adapters(network)
    return network


def _vocabulary(token_gene_dict: Mapping[int, str], config: BertConfig, where: Path) -> Vocabulary:
    """The vocabulary of a dictionary, or that of the model where the dictionary is of another one."""
    if len(token_gene_dict) != config.vocab_size:
        return recognize_vocabulary(config, where, None)
    special = {name: int(token) for token, name in token_gene_dict.items() if name in SPECIAL}
    genes = {int(token): name for token, name in token_gene_dict.items() if name not in SPECIAL}
    for bundled in map(Vocabulary.load, ("V1", "V2")):
        if len(genes) == len(bundled.genes) and {name: token for token, name in genes.items()} == bundled.token_of:
            return bundled
    return Vocabulary(
        name="token_gene_dict",
        genes=list(genes.values()),  # type: ignore[arg-type]
        token_ids=list(genes),  # type: ignore[arg-type]
        medians=[1.0] * len(genes),  # type: ignore[arg-type]
        special_tokens=special,
        input_size=4096 if CLS in special else 2048,
    )


def dataset_tokens(data: Any, pad_id: int = 0) -> TokenizedDataset:
    """The cells of a `datasets.Dataset`, in its order, without padding."""
    if isinstance(data, TokenizedDataset):
        return data
    if not hasattr(data, "with_format"):
        msg = f"The data is a {type(data).__name__}. Give a datasets.Dataset, as `load_from_disk` returns it."
        raise DatasetError(msg)
    return unpadded(data.with_format("arrow")[:], pad_id)


def _layer(index: int, n_layers: int) -> int:
    """A layer counted back from the output, from its index into the hidden states."""
    if isinstance(index, bool) or not isinstance(index, int) or not -n_layers - 1 <= index <= n_layers:
        msg = f"layer_to_quant={index!r} is out of range. The model has {n_layers} layers: it takes 0 to {n_layers}."
        raise OutOfRangeError(msg)
    return index - n_layers if index >= 0 else index + 1


def _check_dictionary(token_gene_dict: Any, pad_token_id: int) -> None:
    if not isinstance(token_gene_dict, Mapping) or any(isinstance(token, str) for token in token_gene_dict):
        found = "gene to id" if isinstance(token_gene_dict, Mapping) else type(token_gene_dict).__name__
        msg = (
            f"token_gene_dict ({found}) takes the gene of each id. Turn the dictionary of TOKEN_DICTIONARY_FILE round: "
            "{token: gene for gene, token in dictionary.items()}."
        )
        raise OptionError(msg)
    if token_gene_dict.get(pad_token_id, "<pad>") != "<pad>":
        msg = f"pad_token_id={pad_token_id} is {token_gene_dict[pad_token_id]} in the dictionary. Give that of <pad>."
        raise OptionError(msg)


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


def label_cell_embs(embs: Tensor, downsampled_data: Any, emb_labels: Sequence[str] | None) -> "pd.DataFrame":
    """One row per cell: columns `0` to `d - 1`, the labels, and `cell_id` where the cells have one.

    Parameters
    ----------
    embs
        Embeddings, ``(n, d)``.
    downsampled_data
        The cells, in the same order.
    emb_labels
        Columns to add.

    Raises
    ------
    DatasetError
        A column that the cells do not have, or other cells than embeddings.
    """
    tokens = _same_cells(embs, downsampled_data)
    for name in emb_labels or ():
        tokens.column(name)
    return cell_frame(embs.detach().cpu().numpy(), tokens.table, emb_labels or ())


def label_gene_embs(
    embs: Tensor, downsampled_data: Any, token_gene_dict: Mapping[int, str], gene_emb_style: str = "mean_pool"
) -> "pd.DataFrame":
    """Embeddings of genes by their names: the mean over cells, or one row per gene and cell.

    Parameters
    ----------
    embs
        States of all tokens, ``(n, longest, d)``.
    downsampled_data
        The cells, in the same order.
    token_gene_dict
        Gene of each token id.
    gene_emb_style
        "mean_pool" or "all"; see `EmbExtractor`.

    Raises
    ------
    UnknownChoiceError
        Another style.
    DatasetError
        Other cells than embeddings.
    """
    check_choice("gene_emb_style", gene_emb_style, ("mean_pool", "all"))
    tokens = _same_cells(embs, downsampled_data)
    packed = tokens.gather(range(len(tokens)))
    lengths = torch.from_numpy(tokens.lengths)
    inside = torch.arange(embs.shape[1])[None, :] < lengths[:, None]
    cells = torch.repeat_interleave(torch.arange(len(tokens)), lengths)
    values = embs.detach().cpu()[inside].to(torch.float32)
    states = GeneStates(values.numpy(), torch.from_numpy(packed.input_ids).long().numpy(), cells.numpy())
    if gene_emb_style == "all":
        return state_frame(states, [token_gene_dict[token] for token in states.tokens_in_order], tokens.table)
    ids, means = states.summaries("mean")
    return gene_frame(means, [token_gene_dict[token] for token in ids.tolist()])


def _same_cells(embs: Tensor, data: Any) -> TokenizedDataset:
    """The cells, once there are as many as embeddings, and none is longer than them."""
    tokens = dataset_tokens(data)
    if len(tokens) != len(embs) or (embs.ndim == 3 and len(tokens) and int(tokens.lengths.max()) > embs.shape[1]):
        longest = int(tokens.lengths.max(initial=0))
        msg = (
            f"Embeddings of shape {tuple(embs.shape)} do not belong to {len(tokens):,} cells of up to {longest:,} "
            "tokens. Give the cells that went into get_embs, in the same order."
        )
        raise DatasetError(msg)
    return tokens
