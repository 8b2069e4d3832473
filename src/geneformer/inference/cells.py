"""Cells from AnnData, files or tokens, opened for a model: their tokens and their columns, and checks of both."""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Union

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer._version import __version__
from geneformer.display import Summarized, Summary, names_text
from geneformer.errors import (
    GeneformerError,
    GeneformerWarning,
    NoCellsError,
    OptionError,
    OutOfRangeError,
    PairingError,
    SequenceTooLongError,
    UnknownColumnError,
    UnknownVocabularyError,
    VocabularyMismatchError,
    options_taken,
    reason_of,
    tokenizing,
)
from geneformer.files.left_out import count_left_out
from geneformer.files.manifest import InputFile, describe_inputs
from geneformer.files.progress import Progress, inform, progress_bar
from geneformer.genes.lookup import INDEX, GenePanel, resolve_genes, resolve_panel
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.tables import cells_as_anndata
from geneformer.options import TokenizeOptions
from geneformer.options._fields import came_as, nearest
from geneformer.tokenization.tokenizer import RowForm, tokenize_counts
from geneformer.tokens.dataset import Packed, TokenizedDataset, describe_matched
from geneformer.tokens.storage import is_dataset, read_dataset

if TYPE_CHECKING:
    from anndata import AnnData, Raw
    from scipy import sparse

_CELLS_AT_ONCE = 2048


class PairedModel(Protocol):
    """What tokens depend on: the vocabulary of a model and its longest cell."""

    @property
    def name(self) -> str:
        """Named in errors."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Genes and ids."""
        ...

    @property
    def max_length(self) -> int:
        """Most tokens of a cell."""
        ...


_TAKEN: Final = {"layer": "counts_layer", "gene_ids": "gene_ids", "accept_normalized": "accept_normalized"}
"""Options of tokenizing that functions take which open cells for a model, with their names there."""

OF_REFERENCE: Final = {**dict(zip(_TAKEN.values(), _TAKEN.values(), strict=True)), "counts_layer": "reference_layer"}
"""What these are called for the cells of a reference."""


_LOOKED_AT = 256
"""Cells in which repeated tokens are looked for."""


def check_anndata(adata: object, why: str = "results are written into AnnData") -> None:
    """Refuse cells that came as something else than AnnData, which results can be written into."""
    if isinstance(adata, type) or not all(hasattr(adata, name) for name in ("obs_names", "obsm", "uns")):
        msg = f"{came_as('The cells', adata)}; {why}. Read files first, such as with anndata.read_h5ad."
        raise OptionError(msg)


def tokens_for(
    adata: "AnnData",
    model: PairedModel,
    *,
    counts_layer: str | None,
    gene_ids: str | None,
    accept_normalized: bool = False,
    keep: tuple[str, ...] = (),
    counts: bool = False,
) -> tuple[TokenizedDataset, NDArray[np.int64]]:
    """Tokens of the cells of `adata` for a model, and the row of `adata` each came from."""
    import pandas as pd

    check_anndata(adata)
    adata = adata if adata.obs_names.is_unique else _numbered(adata)
    chosen = {"layer": counts_layer, "gene_ids": gene_ids, "accept_normalized": accept_normalized}
    options = _options_for(model, **chosen, keep=keep, counts=counts)
    with options_taken(**_TAKEN), progress_bar("Tokenizing", unit="cells") as update:
        tokens, report = tokenize_counts(adata, options, vocabulary=model.vocabulary, progress=update)
    inform(describe_matched(tokens.matched))
    _count(report)
    names = pd.Index(np.asarray(adata.obs_names, dtype=str))
    return tokens, names.get_indexer(tokens.cell_ids.astype(str)).astype(np.int64)


def _options_for(model: PairedModel, **chosen: Any) -> TokenizeOptions:
    """Options with which counts become tokens that a model reads."""
    return TokenizeOptions(vocabulary=model.vocabulary.name, max_length=model.max_length, **chosen)


def _numbered(adata: "AnnData") -> "AnnData":
    """The same counts under names of cells that are unique."""
    import anndata as ad

    adata = adata.to_memory() if adata.isbacked else adata
    obs = adata.obs.set_axis(np.arange(adata.n_obs).astype(str), axis=0)
    raw = None if adata.raw is None else {"X": adata.raw.X, "var": adata.raw.var, "varm": {}}
    return ad.AnnData(adata.X, obs=obs, var=adata.var, layers=dict(adata.layers), raw=raw)


def gene_positions(adata: "AnnData | Raw", vocabulary: Vocabulary, gene_ids: str | None) -> NDArray[np.int32]:
    """Index into `vocabulary.genes` of each column of `adata`, -1 where it is none of them, ``(n_vars,)``."""
    columns = {name: adata.var[name] for name in adata.var.columns} | {INDEX: adata.var_names}
    return resolve_genes(columns, vocabulary, gene_ids).positions


def open_tokens(
    inputs: Sequence[Path],
    model: PairedModel,
    *,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
    counts: bool = False,
    progress: Progress | None = None,
) -> TokenizedDataset:
    """Tokens of a dataset folder as they are, or of counts, made to fit the model."""
    folders = [path for path in inputs if is_dataset(path)]
    if folders and len(inputs) > 1:
        msg = f"{folders[0]} is a dataset of tokens; pass it alone, or pass counts only. Got {len(inputs)} inputs."
        raise OptionError(msg)
    if folders:
        return read_dataset(folders[0])
    chosen = {"layer": counts_layer, "gene_ids": gene_ids, "accept_normalized": accept_normalized}
    options = _options_for(model, **chosen, counts=counts)
    with options_taken(**_TAKEN), tempfile.TemporaryDirectory(prefix="geneformer-") as folder:
        target = Path(folder) / "tokens.dataset"
        tokens, report = tokenize_counts(
            inputs, options, output=target, vocabulary=model.vocabulary, progress=progress, form=RowForm(rows=True)
        )
    _count(report)
    if left_out := report.n_cells - report.n_written:
        msg = (
            f"{left_out:,} of {report.n_cells:,} cells are left out: {report.n_empty:,} without a gene of the "
            f"vocabulary{report.empty_names()}, {report.n_filtered:,} by `filter_pass`. Tables have no row of them; in "
            'an .h5ad with the counts they are NaN or "unknown".'
        )
        warnings.warn(msg, GeneformerWarning, stacklevel=2)
    inform(describe_matched(tokens.matched))
    # The files stay readable through the memory map after their names are gone.
    return tokens


def _warn_of_odd_cells(tokens: TokenizedDataset, vocabulary: Vocabulary) -> None:
    """Tell of genes that a cell has twice and of masked ones, which no tokenizing makes; some cells are looked at."""
    rows = np.unique(np.linspace(0, max(len(tokens) - 1, 0), min(len(tokens), _LOOKED_AT)).astype(np.int64))
    packed = tokens.gather(rows)
    ids = packed.input_ids.astype(np.int64)
    entries = np.sort(np.repeat(np.arange(len(rows)), packed.lengths) * (int(ids.max(initial=0)) + 1) + ids)
    n_repeated, n_masked = int((np.diff(entries) == 0).sum()), int((ids == vocabulary.mask_id).sum())
    if n_repeated or n_masked:
        msg = (
            f"{tokens.path}: {n_repeated:,} tokens are repeated within a cell and {n_masked:,} are <mask>, of the "
            f"{len(ids):,} looked at in {len(rows):,} cells. Cells hold each gene once: tokenize the counts again."
        )
        warnings.warn(msg, GeneformerWarning, stacklevel=3)


def _count(report: Any) -> None:
    count_left_out("without a gene of the vocabulary", report.n_empty)
    count_left_out("by filter_pass", report.n_filtered)


def cells_per_token(tokens: TokenizedDataset, model: PairedModel) -> NDArray[np.int64]:
    """Cells that have each token, ``(V,)``; a cell has a token once."""
    counts = np.zeros(model.vocabulary.size, dtype=np.int64)
    for packed in token_blocks(tokens, np.arange(len(tokens)), model):
        counts += np.bincount(packed.input_ids, minlength=len(counts))
    return counts


def token_blocks(
    tokens: TokenizedDataset, rows: NDArray[np.int64], model: PairedModel, *, counts: bool = False
) -> Iterator[Packed]:
    """Cells as the model sees them, some at a time."""
    for start in range(0, len(rows), _CELLS_AT_ONCE):
        yield tokens.gather(rows[start : start + _CELLS_AT_ONCE], max_length=model.max_length, counts=counts)


_MARKED = 128
"""Highest ranked tokens that a cell is recognized by."""


def cell_fingerprints(tokens: TokenizedDataset, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number that a cell's highest ranked genes decide, whatever its name and source, ``(n,)``."""
    found = [np.empty(0, dtype=np.uint64)]
    for start in range(0, len(rows), _CELLS_AT_ONCE):
        packed = tokens.gather(rows[start : start + _CELLS_AT_ONCE], max_length=_MARKED)
        place = np.arange(len(packed.input_ids)) - np.repeat(packed.cu_seqlens[:-1], packed.lengths)
        # The mixer of SplitMix64, so that sums over a cell depend on the order of its genes.
        mixed = (packed.input_ids.astype(np.uint64) << np.uint64(7)) + place.astype(np.uint64) + np.uint64(1)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(mixed, dtype=np.uint64)])
        found.append(sums[packed.cu_seqlens[1:]] - sums[packed.cu_seqlens[:-1]])
    return np.concatenate(found)


def panel_in_cells(names: Sequence[str], tokens: TokenizedDataset, model: PairedModel, *, unknown: str) -> GenePanel:
    """The genes asked for that the cells have; none where none is named."""
    if not names:
        return GenePanel(model.vocabulary, {}, {})
    cells_with, n_cells = cells_per_token(tokens, model), len(tokens)
    return resolve_panel(names, model.vocabulary, unknown=unknown, cells_with=cells_with, n_cells=n_cells)


def check_pairing(tokens: TokenizedDataset, model: PairedModel, *, truncate: bool | None) -> None:
    """Refuse tokens the model cannot read, before any work; None where cells cannot be asked to be truncated."""
    if not len(tokens):
        msg = "There are no cells in the tokenized dataset."
        raise NoCellsError(msg)
    theirs, ours = tokens.vocabulary, model.vocabulary
    if theirs not in (None, ours.fingerprint):
        msg = (
            f"The tokens were made with vocabulary {theirs[:12] if theirs else theirs}, but {model.name} expects "
            f"{ours.name} ({ours.fingerprint[:12]}). Tokenize again with {tokenizing(vocabulary=ours.name)}."
        )
        raise VocabularyMismatchError(msg)
    if theirs is None:
        _check_ids(tokens, model)
    tokens.check_ids(ours.size)
    if tokens.path is not None:
        _warn_of_odd_cells(tokens, ours)
    n_empty = int((tokens.lengths == 0).sum())
    if n_empty == len(tokens):
        msg = f"None of the {n_empty:,} cells has a token. Tokenize the counts again, and look at its report."
        raise NoCellsError(msg)
    if n_empty:
        msg = f"{n_empty:,} of {len(tokens):,} cells have no token; what comes out for them says nothing."
        warnings.warn(msg, GeneformerWarning, stacklevel=2)
    longest = int(tokens.lengths.max())
    if longest > model.max_length and not truncate:
        n_long = int((tokens.lengths > model.max_length).sum())
        keep = ", or pass --truncate (truncate=True) to keep their highest ranked genes"
        shorter = "" if truncate is None else keep
        msg = (
            f"{n_long:,} of {len(tokens):,} cells have more than the {model.max_length:,} tokens {model.name} has "
            f"positions for (longest: {longest:,}). Tokenize with {tokenizing(max_length=model.max_length)} or "
            f"`TranscriptomeTokenizer(model_input_size={model.max_length})`{shorter}."
        )
        raise SequenceTooLongError(msg)


def _check_ids(tokens: TokenizedDataset, model: PairedModel) -> None:
    """For datasets without a fingerprint: every id must exist, and every cell must start as the vocabulary says."""
    size, cls_id = model.vocabulary.size, model.vocabulary.cls_id
    rows = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), 2000)).astype(np.int64))
    packed = tokens.gather(rows)
    largest = int(packed.input_ids.max(initial=0))
    starts = packed.input_ids[packed.cu_seqlens[:-1][packed.lengths > 0]]
    has_cls = cls_id is not None and bool((starts == cls_id).all())
    if largest >= size or (cls_id is not None and not has_cls):
        what = f"token id {largest}" if largest >= size else "cells that do not start with <cls>"
        msg = (
            f"The tokens carry no vocabulary fingerprint and do not look like {model.vocabulary.name} "
            f"({size:,} tokens): found {what}. Tokenize the counts with "
            f"{tokenizing(vocabulary=model.vocabulary.name)}."
        )
        raise UnknownVocabularyError(msg)


def check_layer(layer: int, name: str, n_layers: int, *, option: str = "layer") -> None:
    """Refuse a layer that the model does not have."""
    if -layer > n_layers:
        msg = f"{option}={layer}, but {name} has {n_layers} layers. Use 0 to -{n_layers}."
        raise OutOfRangeError(msg)


def check_cls(tokens: TokenizedDataset, model: PairedModel) -> None:
    """Refuse `pooling="cls"` for tokens without `<cls>`."""
    cls_id = model.vocabulary.cls_id
    if cls_id is None:
        msg = f'pooling="cls" needs <cls>, which vocabulary {model.vocabulary.name} does not have. Use pooling="mean".'
        raise PairingError(msg)
    first = tokens.gather(np.arange(len(tokens)), max_length=1)
    if len(first.input_ids) != len(tokens) or bool((first.input_ids != cls_id).any()):
        msg = 'pooling="cls", but some cells do not start with <cls>. Tokenize again, or use pooling="mean".'
        raise PairingError(msg)


def describe_run(model: PairedModel, tokens: TokenizedDataset | None = None, **options: Any) -> dict[str, Any]:
    """Where a result comes from: for `uns`, for files."""
    if tokens is not None and tokens.matched:
        options[keys.MATCHED] = tokens.matched
    return {
        "model": model.name,
        "vocabulary": model.vocabulary.name,
        "vocabulary_fingerprint": model.vocabulary.fingerprint,
        "geneformer_version": __version__,
        **options,
    }


CellInput = Union["AnnData", TokenizedDataset, "Cells", str, Path, Sequence[str | Path]]
"""AnnData with raw counts, tokens, or files and folders of either; or cells that were opened already."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Cells(Summarized):
    """Tokenized cells and where they come from."""

    tokens: TokenizedDataset
    rows: NDArray[np.int64]
    n_input: int
    adata: "AnnData | None" = None
    layer: str | None = None
    gene_ids: str | None = None
    inputs: tuple[InputFile, ...] = ()
    """Files the cells came from, as they were when they were opened; none for cells that were in memory."""

    vectors: dict[Any, NDArray[np.float32]] = field(default_factory=dict)
    """What pretrained encoders made of the cells, by encoder, so that several fits to them make it once."""

    @property
    def columns(self) -> list[str]:
        """Columns that describe the cells."""
        return self.tokens.columns if self.adata is None else list(self.adata.obs.columns)

    def described(self) -> "AnnData":
        """All cells that `spread` puts values over, with their columns as `obs`."""
        import anndata as ad

        if self.adata is None:
            return cells_as_anndata(self.tokens.table.select(self.tokens.columns))
        return ad.AnnData(obs=self.adata.obs.copy())

    def summary_of(self) -> Summary:
        """How many of the cells have tokens, and what is known about them."""
        return Summary(
            title=f"Cells: {len(self.tokens):,} of {self.n_input:,} with tokens",
            facts=[("from", "tokens" if self.adata is None else "AnnData"), ("columns", names_text(self.columns))],
        )

    def column(self, name: Any) -> Any:
        """A column of the tokenized cells, ``(n,)``."""
        if not isinstance(name, str):
            msg = f"{came_as('A column of the cells', name)}. Pass its name; there are {self.columns}."
            raise OptionError(msg)
        if name not in self.columns:
            where = "the tokenized dataset" if self.adata is None else "obs"
            msg = f"No column {name!r} in {where}; it has {self.columns}.{nearest(name, self.columns)}"
            raise UnknownColumnError(msg)
        return self.tokens.column(name) if self.adata is None else self.adata.obs[name].iloc[self.rows]

    @classmethod
    def of(cls, tokens: TokenizedDataset) -> "Cells":
        """Cells of which there are tokens alone."""
        return cls(tokens, np.arange(len(tokens)), len(tokens))

    @property
    def input_rows(self) -> NDArray[np.int64] | None:
        """Row among the cells of the input of each cell that `spread` puts values over; None of tokens."""
        return self.tokens.input_rows if self.adata is None else np.arange(self.n_input)

    def spread(self, values: NDArray[Any], fill: Any) -> NDArray[Any]:
        """Values of the tokenized cells over all cells of the input, `fill` elsewhere, ``(n_input, …)``."""
        over = np.full((self.n_input, *values.shape[1:]), fill, dtype=values.dtype)
        over[self.rows] = values
        return over

    def counts(self, model: PairedModel) -> "sparse.csr_matrix | None":
        """Raw counts of the tokenized cells by vocabulary genes, ``(n, g)``; None where there are only tokens."""
        from scipy import sparse

        vocabulary = model.vocabulary
        if self.adata is not None:
            # The genes of `raw` are its own, usually more than those of `X`.
            where = self.adata.raw if self.layer == "raw" else self.adata
            positions = gene_positions(where, vocabulary, self.gene_ids)
            columns = np.flatnonzero(positions >= 0)
            into = (np.ones(len(columns), dtype=np.float32), (columns, positions[columns]))
            merge = sparse.csr_matrix(into, shape=(len(positions), len(vocabulary.genes)))
            matrix = where.X if self.layer in (None, "raw") else self.adata.layers[self.layer]
            return sparse.csr_matrix(sparse.csr_matrix(matrix[self.rows]).astype(np.float32) @ merge)
        if not self.tokens.has_counts:
            return None
        packed = self.tokens.gather(np.arange(len(self.tokens)), counts=True)
        column_of = np.full(vocabulary.size, -1, dtype=np.int64)
        column_of[vocabulary.token_ids] = np.arange(len(vocabulary.genes))
        columns = column_of[packed.input_ids]
        values = np.asarray(packed.counts, dtype=np.float32)
        is_gene = columns >= 0
        shape = (len(self.tokens), len(vocabulary.genes))
        return sparse.csr_matrix((values[is_gene], (packed.cells[is_gene], columns[is_gene])), shape=shape)


def open_cells(
    cells: CellInput,
    model: PairedModel,
    *,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
    counts: bool = False,
) -> Cells:
    """Tokens for a model, with the columns of the cells."""
    if isinstance(cells, Cells):
        return cells
    chosen: dict[str, Any] = {
        "counts_layer": counts_layer,
        "gene_ids": gene_ids,
        "accept_normalized": accept_normalized,
    }
    paths: list[Path] = []
    if isinstance(cells, (str, Path)) or (
        isinstance(cells, Sequence) and cells and all(isinstance(path, (str, Path)) for path in cells)
    ):
        paths = [Path(path) for path in ([cells] if isinstance(cells, (str, Path)) else cells)]
        if len(paths) == 1 and paths[0].suffix == ".h5ad":
            cells = _read(paths[0])
        else:
            are_counts = not any(is_dataset(path) for path in paths)
            with progress_bar("Tokenizing", unit="cells") as update:
                cells = open_tokens(paths, model, counts=are_counts, progress=update, **chosen)
    if isinstance(cells, TokenizedDataset):
        check_pairing(cells, model, truncate=True)
        inputs = describe_inputs(paths or filter(None, [cells.path]), hash_limit=0)
        return replace(Cells.of(cells), inputs=inputs)
    if isinstance(cells, Sequence) or not hasattr(cells, "obs_names"):
        msg = f"{came_as('Cells', cells)}. Pass AnnData, a TokenizedDataset, or paths of either."
        raise OptionError(msg)
    try:
        tokens, rows = tokens_for(cells, model, counts=counts, **chosen)
    except GeneformerError as error:
        message = str(error.args[0])
        if paths and message.startswith("adata"):  # was read from there
            error.args = (f'"{paths[0]}"{message.removeprefix("adata")}',)
        raise
    check_pairing(tokens, model, truncate=True)
    inputs = describe_inputs(paths or ([cells.filename] if cells.isbacked else []), hash_limit=0)
    return Cells(tokens, rows, cells.n_obs, cells, counts_layer, gene_ids, inputs)


def _read(path: Path) -> "AnnData":
    """A file in memory; the tokenizer, which reads it with care, says what is wrong with its content."""
    from geneformer.errors import InputNotFoundError, UnreadableInputError

    if not path.exists():
        msg = f'There is no file "{path}".'
        raise InputNotFoundError(msg)
    import anndata as ad

    try:
        return ad.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError) as error:
        reason = reason_of(error)
        msg = f'"{path}" cannot be read as .h5ad: {reason}. The file may be truncated; copy or download it again.'
        raise UnreadableInputError(msg) from error
