"""Cells to learn from or to tell about, wherever they come from: tokens, and what is known about each cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray

from geneformer.data.dataset import TokenizedDataset
from geneformer.errors import OptionError, UnknownColumnError
from geneformer.options._check import nearest
from geneformer.tasks.adata_inputs import PairedModel, gene_positions, tokens_for
from geneformer.tasks.inputs import check_pairing, is_dataset, open_tokens

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

CellInput = Union["AnnData", TokenizedDataset, "Cells", str, Path, Sequence[str | Path]]
"""AnnData with raw counts, tokens, or files and folders of either; or cells that were opened already."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Tokenized cells and where they come from.

    Attributes
    ----------
    tokens
        Tokens of the cells that have any known gene.
    rows
        Row of the input each of them is, ``(n,)``.
    n_input
        Cells of the input.
    adata
        Their counts, where they came as AnnData or as an `.h5ad` file.
    layer, gene_ids
        Where counts and gene identifiers are in `adata`.
    """

    tokens: TokenizedDataset
    rows: NDArray[np.int64]
    n_input: int
    adata: "AnnData | None" = None
    layer: str | None = None
    gene_ids: str | None = None

    def column(self, name: str) -> Any:
        """What a column says about the tokenized cells, ``(n,)``.

        Raises
        ------
        UnknownColumnError
            No such column.
        """
        columns = self.tokens.columns if self.adata is None else list(self.adata.obs.columns)
        if name not in columns:
            where = "the tokenized dataset" if self.adata is None else "obs"
            msg = f"No column {name!r} in {where}; it has {columns}.{nearest(name, columns)}"
            raise UnknownColumnError(msg)
        return self.tokens.column(name) if self.adata is None else self.adata.obs[name].iloc[self.rows]

    def spread(self, values: NDArray[Any], fill: Any) -> NDArray[Any]:
        """Values of the tokenized cells over all cells of the input, `fill` elsewhere, ``(n_input, …)``."""
        over = np.full((self.n_input, *values.shape[1:]), fill, dtype=values.dtype)
        over[self.rows] = values
        return over

    def counts(self, model: PairedModel) -> "sparse.csr_matrix | None":
        """Raw counts of the tokenized cells by genes of the vocabulary, ``(n, g)``; None where there are only tokens.

        Tokens with stored counts give those, scaled to 10,000 per cell.
        """
        from scipy import sparse

        vocabulary = model.vocabulary
        if self.adata is not None:
            # The genes of `raw` are its own, usually more than those of `X`.
            positions = gene_positions(self.adata.raw if self.layer == "raw" else self.adata, vocabulary, self.gene_ids)
            known = np.flatnonzero(positions >= 0)
            into = (np.ones(len(known), dtype=np.float32), (known, positions[known]))
            merge = sparse.csr_matrix(into, shape=(len(positions), len(vocabulary.genes)))
            matrix = _matrix(self.adata, self.layer)[self.rows]
            return sparse.csr_matrix(sparse.csr_matrix(matrix).astype(np.float32) @ merge)
        if not self.tokens.has_counts:
            return None
        packed = self.tokens.gather(np.arange(len(self.tokens)), counts=True)
        column_of = np.full(vocabulary.size, -1, dtype=np.int64)
        column_of[vocabulary.token_ids] = np.arange(len(vocabulary.genes))
        columns = column_of[packed.input_ids]
        cells = np.repeat(np.arange(len(self.tokens)), np.diff(packed.cu_seqlens))
        values = np.asarray(packed.counts, dtype=np.float32)
        kept = columns >= 0
        shape = (len(self.tokens), len(vocabulary.genes))
        return sparse.csr_matrix((values[kept], (cells[kept], columns[kept])), shape=shape)


def open_cells(
    cells: CellInput,
    model: PairedModel,
    *,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    counts: bool = False,
) -> Cells:
    """Tokens for a model, with everything that is known about the cells.

    Parameters
    ----------
    cells
        AnnData with raw counts, tokens, or files and folders of either.
    model
        Decides vocabulary and length.
    counts_layer, gene_ids
        Where counts and gene identifiers are; for counts.
    counts
        Also keep each token's scaled count, where tokens are made from AnnData; from files they always are.

    Raises
    ------
    CountsError
        The counts or gene identifiers cannot be used.
    PairingError
        Tokens that do not belong to the model.
    """
    if isinstance(cells, Cells):
        return cells
    if isinstance(cells, TokenizedDataset):
        return _of_tokens(cells, model)
    if isinstance(cells, (str, Path)) or (isinstance(cells, Sequence) and cells):
        paths = [Path(path) for path in ([cells] if isinstance(cells, (str, Path)) else cells)]
        if len(paths) != 1 or paths[0].suffix != ".h5ad":
            return _of_files(paths, model, counts_layer, gene_ids)
        cells = _read(paths[0])
    if not hasattr(cells, "obs_names"):
        msg = f"Cells came as {type(cells).__name__}. Pass AnnData, a TokenizedDataset, or paths of either."
        raise OptionError(msg)
    tokens, rows = tokens_for(cells, model, counts_layer=counts_layer, gene_ids=gene_ids, counts=counts)
    check_pairing(tokens, model, truncate=True)
    return Cells(tokens, rows, cells.n_obs, cells, counts_layer, gene_ids)


def _of_tokens(tokens: TokenizedDataset, model: PairedModel) -> Cells:
    check_pairing(tokens, model, truncate=True)
    return Cells(tokens, np.arange(len(tokens)), len(tokens))


def _of_files(paths: list[Path], model: PairedModel, counts_layer: str | None, gene_ids: str | None) -> Cells:
    counts = not any(is_dataset(path) for path in paths)
    return _of_tokens(open_tokens(paths, model, layer=counts_layer, gene_ids=gene_ids, counts=counts), model)


def _read(path: Path) -> "AnnData":
    """A file in memory; what is wrong with it is told by the tokenizer, which reads it with care."""
    from geneformer.errors import InputNotFoundError, UnreadableInputError

    if not path.exists():
        msg = f'There is no file "{path}".'
        raise InputNotFoundError(msg)
    import anndata as ad

    try:
        return ad.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError) as error:
        msg = f'"{path}" cannot be read as .h5ad: {error}. The file may be truncated; copy or download it again.'
        raise UnreadableInputError(msg) from error


def _matrix(adata: "AnnData", layer: str | None) -> Any:
    if layer == "raw":
        return adata.raw.X
    return adata.X if layer is None else adata.layers[layer]
