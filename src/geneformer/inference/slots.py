"""Results by slot of AnnData: into an object in memory, or into an `.h5ad` that keeps everything its input holds."""

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import GeneformerWarning
from geneformer.inference.tables import cells_as_anndata
from geneformer.tokenization.checks import open_counts, resolve_inputs
from geneformer.tokenization.expression import expression_of
from geneformer.tokenization.readers.source import RAW, CountSource, RowMatrix, open_zarr

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from anndata import AnnData

CELLS_AT_ONCE = 4096
"""Cells whose counts are in memory while they are copied."""

SYMBOL = "gene_symbol"
"""Column of symbols in tables of genes of 10x."""

TABLE_VERSION = "0.2.0"
"""Form of tables in `.h5ad` files to which columns can be added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """What is added to cells: columns of `obs`, slots of `obsm`, and where they come from, by slot of ``uns``."""

    obs: Mapping[str, Any] = field(default_factory=dict)
    obsm: Mapping[str, Any] = field(default_factory=dict)
    uns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def with_obsm(self, name: str, values: Any, provenance: Mapping[str, Any]) -> "Slots":
        """The same with one more slot of `obsm`."""
        return replace(self, obsm={**self.obsm, name: values}, uns={**self.uns, name: provenance})

    def spread(self, rows: NDArray[np.int64], n_cells: int) -> "Slots":
        """The same for all cells of an input: those that are not in `rows` have NaN, or are called "unknown"."""
        if np.array_equal(rows, np.arange(n_cells)):
            return self
        tables: list[dict[str, Any]] = [
            {name: _spread(values, rows, n_cells) for name, values in table.items()} for table in (self.obs, self.obsm)
        ]
        return Slots(obs=tables[0], obsm=tables[1], uns=self.uns)

    def into(self, adata: "AnnData") -> None:
        """Write into AnnData with as many cells."""
        for name, values in self.obs.items():
            adata.obs[name] = values
        for name, values in self.obsm.items():
            adata.obsm[name] = _with_names(values, adata.obs_names)
        adata.uns[keys.UNS] = {**adata.uns.get(keys.UNS, {}), **{key: dict(noted) for key, noted in self.uns.items()}}

    def save(self, path: Path, cells: "pa.Table", origin: "Origin | None") -> None:
        """Write an `.h5ad` with all of the input, or with what is known about the cells where there are no counts."""
        if origin is not None:
            write_with_input(path, self, origin)
            return
        adata = cells_as_anndata(cells)
        self.into(adata)
        adata.write_h5ad(path)

    def rows(self, origin: "Origin | None") -> list[tuple[str, object]]:
        """Lines of a closing table: what an `.h5ad` holds, by slot."""
        slots = [*(f'obs["{name}"]' for name in self.obs), *(f'obsm["{name}"]' for name in self.obsm)]
        counts = "none: the input holds tokens" if origin is None else "as in the input, with all of obs, var and uns"
        return [("Slots", ", ".join(slots)), ("Counts", counts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The counts that cells come from, and the row of each cell among those of all inputs.

    `layer` is the one that was read, for several inputs that are put together.
    """

    inputs: Sequence[Path]
    rows: NDArray[np.int64]
    layer: str | None = None

    @classmethod
    def of(cls, inputs: Sequence[Path], rows: NDArray[np.int64] | None, layer: str | None = None) -> "Origin | None":
        """The origin of cells whose rows are known; None of tokens, which have no counts."""
        return None if rows is None else cls(inputs=inputs, rows=rows, layer=layer)

    def expression(self, gene: str) -> NDArray[np.float32]:
        """Log-normalized expression of a gene in the cells, ``(n,)``."""
        parts = [expression_of(Path(str(path)), gene, self.layer) for path in resolve_inputs(self.inputs)]
        return np.concatenate(parts)[self.rows]

    @property
    def map_slot(self) -> str:
        """Slot of `obsm` for the coordinates of a map; one that is there stays."""
        return keys.OWN_MAP if keys.MAP in _inside(self.inputs, "obsm", read=False) else keys.MAP

    @property
    def colors(self) -> dict[str, Any]:
        """Colors that the input keeps for categories, by their name in ``uns``."""
        return _inside(self.inputs, "uns", read=True)


def _with_names(values: Any, names: Any) -> Any:
    """A slot of `obsm`; of a table the rows are named, and a slash, a folder in files, is none in its columns."""
    if not hasattr(values, "columns"):
        return values
    return values.set_axis(names, axis=0).rename(columns=lambda name: str(name).replace("/", "|"))


def _spread(values: Any, rows: NDArray[np.int64], n_cells: int) -> Any:
    import pandas as pd

    if isinstance(values, pd.DataFrame):
        return pd.DataFrame(_spread(values.to_numpy(), rows, n_cells), columns=values.columns)
    if isinstance(values, pd.Categorical):
        named = _spread(np.asarray(values, dtype=object), rows, n_cells)
        return pd.Categorical(named, categories=[*values.categories, *({keys.UNKNOWN} - set(values.categories))])
    values = np.asarray(values)
    fill, kind = (keys.UNKNOWN, object) if values.dtype.kind in "OUS" else (np.nan, np.result_type(values, np.float32))
    over = np.full((n_cells, *values.shape[1:]), fill, dtype=kind)
    over[rows] = values
    return over


def write_with_input(target: Path, slots: Slots, origin: Origin) -> None:
    """Write an `.h5ad` with everything the inputs hold, and more slots; cells without a result have NaN there.

    Counts go from file to file: an `.h5ad` is copied as it is, others a few thousand cells at a time.
    """
    import h5py
    from anndata.io import read_elem, write_elem

    copy_input(target, origin.inputs, origin.layer)
    with h5py.File(target, "r+") as file:
        obs = file["obs"]
        names = np.asarray(read_elem(obs[obs.attrs["_index"]]))
        slots = slots.spread(origin.rows, len(names))
        for name, values in slots.obs.items():
            write_elem(obs, name, values)
        order = [str(name) for name in np.atleast_1d(obs.attrs["column-order"])]
        obs.attrs["column-order"] = [*order, *(name for name in slots.obs if name not in order)]
        for parent in ("obsm", "uns"):
            if parent not in file:
                write_elem(file, parent, {})
        for name, values in slots.obsm.items():
            write_elem(file["obsm"], name, _with_names(values, names))
        if keys.UNS not in file["uns"]:
            write_elem(file["uns"], keys.UNS, {})
        for name, noted in slots.uns.items():
            write_elem(file["uns"][keys.UNS], name, dict(noted))


def copy_input(target: Path, inputs: Sequence[Path], layer: str | None) -> None:
    """Write what the inputs hold as one `.h5ad`."""
    sources = [Path(str(path)) for path in resolve_inputs(inputs)]
    hold_anndata = [_is_anndata(path) for path in sources]
    if len(sources) > 1 or not hold_anndata[0]:
        if any(hold_anndata):
            msg = (
                f"{len(sources)} inputs are put together: their counts, obs and var. Other layers, raw, obsm and uns "
                "stay out; to keep them, give one .h5ad."
            )
            warnings.warn(msg, GeneformerWarning, stacklevel=2)
        with ExitStack() as stack:
            opened = []
            for path in sources:
                opened.append(open_counts(path, layer))
                stack.callback(opened[-1].close)
            _write_sources(target, opened)
    elif sources[0].is_dir():
        _copy_zarr(sources[0], target)
    elif _has_tables_of_today(sources[0]):
        shutil.copyfile(sources[0], target)
    else:
        import anndata as ad

        ad.read_h5ad(sources[0]).write_h5ad(target)


def _is_anndata(path: Path) -> bool:
    import h5py

    if not path.is_dir() and not h5py.is_hdf5(path):
        return False
    with _opened(path) as root:
        return {"obs", "var"} <= set(root)


def _has_tables_of_today(path: Path) -> bool:
    """Whether columns can be added to the table of cells; files of earlier versions of AnnData are written anew."""
    import h5py

    with h5py.File(path) as file:
        attributes = file["obs"].attrs
        return attributes.get("encoding-version") == TABLE_VERSION and {"_index", "column-order"} <= set(attributes)


def _copy_zarr(path: Path, target: Path) -> None:
    """Copy an AnnData from Zarr, one matrix in memory at a time."""
    import h5py
    from anndata.io import read_elem, write_elem

    root = open_zarr(path)
    with h5py.File(target, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name in root:
            if name not in ("layers", "raw"):
                write_elem(file, name, read_elem(root[name]))
                continue
            group = file.create_group(name)
            group.attrs.update(dict(root[name].attrs))
            for part in root[name]:
                write_elem(group, part, read_elem(root[name][part]))


def _write_sources(target: Path, sources: Sequence[CountSource]) -> None:
    """Write the counts of sources of any kind, one below the other, over all genes that any of them has."""
    import anndata as ad
    import h5py
    import pandas as pd
    from anndata.utils import make_index_unique

    tables = [_frame(source.obs, source.n_cells) for source in sources]
    obs = tables[0] if len(tables) == 1 else _joined(sources, tables)
    genes = [_frame(source.var, source.n_genes) for source in sources]
    genes = [table.set_axis(make_index_unique(table.index), axis=0) for table in genes]
    var = reduce(_with_more_genes, genes)
    places = [None if table.index.equals(var.index) else var.index.get_indexer(table.index) for table in genes]
    if {"gene_ids", SYMBOL} <= set(var):  # of 10x, named as scanpy names them
        var = var.set_axis(pd.Index(var[SYMBOL].astype(str)), axis=0).drop(columns=SYMBOL).rename_axis(None)
    for table in (obs, var):
        table.index = make_index_unique(table.index)
    ad.AnnData(obs=obs, var=var).write_h5ad(target)
    with h5py.File(target, "r+") as file:
        for source, columns in zip(sources, places, strict=True):
            _append(file, "X", source, source.n_cells, columns, len(var))
            if len(sources) == 1 and source.gene_columns is None:
                for name, make in source.others.items():
                    if name != RAW:
                        _append(file, f"layers/{name}", make(), source.n_cells, None, len(var))


def _with_more_genes(first: "pd.DataFrame", second: "pd.DataFrame") -> "pd.DataFrame":
    """Two tables of genes as one, the first one's genes first."""
    if first.index.equals(second.index):
        return first
    return first.combine_first(second).reindex(first.index.union(second.index, sort=False))


def _joined(sources: Sequence[CountSource], tables: "Sequence[pd.DataFrame]") -> "pd.DataFrame":
    """Tables of cells one below the other, with the name of their source."""
    import pandas as pd

    named = [
        table if keys.SOURCE in table else table.assign(**{keys.SOURCE: source.name})
        for source, table in zip(sources, tables, strict=True)
    ]
    return pd.concat(named)


def _append(
    file: Any,
    key: str,
    matrix: RowMatrix | CountSource,
    n_cells: int,
    columns: NDArray[np.intp] | None,
    n_genes: int,
) -> None:
    """Append counts of all cells of a source to a sparse matrix in an open `.h5ad`, some cells at a time."""
    from anndata.io import sparse_dataset, write_elem
    from scipy import sparse

    for rows in matrix.chunks(CELLS_AT_ONCE, 0, n_cells):
        indices = rows.indices if columns is None else columns[rows.indices]
        shape = (len(rows.indptr) - 1, n_genes)
        counts = sparse.csr_matrix((rows.data.astype(np.float32), indices, rows.indptr), shape=shape)
        counts.sum_duplicates()
        if key in file and "indptr" in file[key]:
            sparse_dataset(file[key]).append(counts)
        else:
            write_elem(file, key, counts)


def _frame(table: Any, n_rows: int) -> "pd.DataFrame":
    """`obs` or `var` of a source as pandas."""
    import pandas as pd

    columns = {name: table.column(name, 0, n_rows).to_pandas() for name in table.names}
    return pd.DataFrame(columns, index=range(n_rows)).set_axis(pd.Index(table.index(0, n_rows), dtype=str), axis=0)


def _inside(inputs: Sequence[Path], group: str, *, read: bool) -> dict[str, Any]:
    """Names in a group of the one AnnData that is the input; of those of colors, what is there as well."""
    from anndata.io import read_elem

    sources = [Path(str(path)) for path in resolve_inputs(inputs)]
    if len(sources) != 1 or not _is_anndata(sources[0]):
        return {}
    with _opened(sources[0]) as root:
        names = list(root[group]) if group in root and hasattr(root[group], "keys") else []
        return {
            name: read_elem(root[group][name]) if read else None
            for name in names
            if not read or name.endswith("_colors")
        }


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The root of a Zarr store or HDF5 file."""
    import h5py

    if path.is_dir():
        yield open_zarr(path)
        return
    with h5py.File(path) as file:
        yield file
