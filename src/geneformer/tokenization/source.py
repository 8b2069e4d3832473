"""A source of counts: one matrix of cells by genes with its two tables, whatever it was opened from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import UnknownColumnError
from geneformer.options._check import nearest
from geneformer.tokenization.files import reading
from geneformer.tokenization.frames import Frame, MemoryFrame, texts, to_pandas
from geneformer.tokenization.matrices import RowMatrix, Sample, select_columns
from geneformer.tokenization.ranking import CellRows

RAW = "raw"
"""Name under which `adata.raw` is asked for."""

_FEATURE_TYPES = ("feature_types", "feature_type")
_GENES = "Gene Expression"


@dataclass(frozen=True, slots=True)
class CountSource:
    """Counts of cells over genes; opened for reading only and read a few cells at a time.

    Attributes
    ----------
    name
        What the cells' `source` says: the file name without suffix.
    path
        Where it is, None in memory.
    place
        Which matrix of the input this is: `X`, `layers["counts"]`, `raw.X`.
    matrix
        The counts, cells by genes.
    obs, var
        Tables of cells and genes.
    others
        Other matrices of the same cells, by the value of `layer` that selects them.
    n_other_features
        Columns left out because they are no genes (antibodies, peaks).
    companions
        Other files that belong to it.
    closers
        What to call at the end.
    """

    name: str
    path: Path | None
    place: str
    matrix: RowMatrix
    obs: Frame
    var: Frame
    others: Mapping[str, Callable[[], RowMatrix]] = field(default_factory=dict)
    n_other_features: int = 0
    companions: tuple[Path, ...] = ()
    closers: tuple[Callable[[], object], ...] = ()

    @property
    def n_cells(self) -> int:
        """Cells."""
        return self.matrix.shape[0]

    @property
    def n_genes(self) -> int:
        """Genes, known to a vocabulary or not."""
        return self.matrix.shape[1]

    @property
    def label(self) -> str:
        """The input in messages."""
        return f'"{self.path}"' if self.path is not None else "adata"

    def chunks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time.

        Raises
        ------
        UnreadableInputError
            The file is damaged further in.
        """
        with reading(self.path):
            yield from self.matrix.chunks(size, start, self.n_cells if stop is None else stop)

    def sample(self, entries: int = 60_000) -> Sample:
        """A few entries from different places of the matrix."""
        with reading(self.path):
            return self.matrix.sample(entries)

    def cell_names(self, start: int, stop: int) -> NDArray[np.object_]:
        """Names of some cells."""
        with reading(self.path):
            return self.obs.index(start, stop)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files it is read from; none in memory."""
        return () if self.path is None else (self.path, *self.companions)

    def close(self) -> None:
        """Close files and delete temporary ones."""
        for close in self.closers:
            close()


class SelectedColumns:
    """A matrix without some of its columns.

    Parameters
    ----------
    matrix
        The whole matrix.
    keep
        Columns that stay, ``(columns,)``.
    """

    def __init__(self, matrix: RowMatrix, keep: NDArray[np.bool_]) -> None:
        self.matrix = matrix
        self.seekable = matrix.seekable
        self.shape = (matrix.shape[0], int(keep.sum()))
        self._renumbered = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        for rows in self.matrix.chunks(size, start, stop):
            yield select_columns(rows, self._renumbered)

    def sample(self, entries: int) -> Sample:
        """About `entries` entries."""
        cells, genes, values = self.matrix.sample(entries)
        renumbered = self._renumbered[genes].astype(np.int64)
        kept = renumbered >= 0
        return Sample(cells[kept], renumbered[kept], values[kept])


def genes_only(source: CountSource) -> CountSource:
    """The source without columns that its gene table marks as something else than gene expression."""
    for name in _FEATURE_TYPES:
        if name not in source.var.names:
            continue
        kinds = texts(source.var, name)
        keep = np.array([kind == _GENES for kind in kinds], dtype=bool)
        if keep.all() or not keep.any():
            return source
        others = {flag: _selected(make, keep) for flag, make in source.others.items() if flag != RAW}
        return replace(
            source,
            matrix=SelectedColumns(source.matrix, keep),
            var=MemoryFrame(to_pandas(source.var)[keep]),
            others=others,
            n_other_features=int((~keep).sum()),
        )
    return source


def _selected(make: Callable[[], RowMatrix], keep: NDArray[np.bool_]) -> Callable[[], RowMatrix]:
    return lambda: SelectedColumns(make(), keep)


def place_of(layer: str | None) -> str:
    """How a matrix is called in messages."""
    if layer in (None, "X"):
        return "X"
    return "raw.X" if layer == RAW else f'layers["{layer}"]'


def check_layer(layer: str | None, available: list[str], where: str) -> None:
    """Refuse a layer that is not there.

    Parameters
    ----------
    layer
        What was asked for, None for the main matrix.
    available
        Layers, `raw` and `X` where present.
    where
        The input in messages.

    Raises
    ------
    UnknownColumnError
        No such layer.
    """
    if (layer or "X") in available:
        return
    listed = ", ".join(f'"{name}"' for name in available) or "no matrix at all"
    if layer is None:
        msg = f"{where} has no X. It has {listed}: choose one with --layer (layer= in Python)."
    else:
        msg = f'{where} has no layer "{layer}". It has {listed}.{nearest(layer, available)}'
    raise UnknownColumnError(msg)
