"""Open counts wherever they are: AnnData objects, and files of every kind that is read."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.errors import InputNotFoundError, UnknownColumnError
from geneformer.tokenization.readers.anndata import open_anndata, open_anndata_zarr, open_stored
from geneformer.tokenization.readers.loom import open_loom
from geneformer.tokenization.readers.source import (
    ACCEPTED,
    CountSource,
    check_file,
    genes_only,
    open_hdf5,
    unknown_content,
)
from geneformer.tokenization.readers.tenx import MATRIX_NAMES, genomes_of, matrix_files, open_tenx_folder, open_tenx_h5
from geneformer.tokenization.readers.text import open_text

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["CountSource", "open_counts", "resolve_inputs", "source_names"]

_HDF5 = (".h5ad", ".h5", ".hdf5", ".loom")
_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_ZARR_MARKS = (".zgroup", "zarr.json", ".zmetadata")


def open_counts(source: "str | Path | AnnData", layer: str | None = None) -> CountSource:
    """Counts ready to be read a few cells at a time; nothing is ever written to them."""
    if not isinstance(source, (str, Path)):
        return genes_only(open_anndata(source, layer))
    path = Path(source)
    if path.is_dir():
        return genes_only(_open_folder(path, layer))
    check_file(path)
    name = path.name.lower()
    if name.endswith(_HDF5):
        return genes_only(_open_hdf5(path, layer))
    if not name.endswith((*MATRIX_NAMES, *_TEXT)):
        raise unknown_content(path, f'Its name ends in "{path.suffix}".')
    _refuse_layer(layer, path)
    return genes_only(open_tenx_folder(path) if name.endswith(MATRIX_NAMES) else open_text(path))


def resolve_inputs(inputs: "Iterable[str | Path | AnnData]") -> "list[Path | AnnData]":
    """Every single source among the inputs, folders of files opened up, in order of their names."""
    sources: list[Any] = []
    for item in inputs:
        if not isinstance(item, (str, Path)):
            sources.append(item)
            continue
        path = Path(item)
        if not path.is_dir() or _is_zarr(path):
            if not path.exists():
                check_file(path)
            sources.append(path)
            continue
        members = _members(path)
        if not members:
            there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
            msg = f'The folder "{path}" holds no counts (found: {there}). Accepted: {ACCEPTED}.'
            raise InputNotFoundError(msg)
        sources.extend(members)
    if not sources:
        msg = f"There is nothing to read. Accepted: {ACCEPTED}."
        raise InputNotFoundError(msg)
    return sources


def source_names(sources: Sequence[CountSource]) -> list[str]:
    """One name per source: the file name without suffix; where several have it, with folders before it or a number."""
    names = [source.name for source in sources]
    for name in {name for name in names if names.count(name) > 1}:
        group = [number for number, other in enumerate(names) if other == name]
        folders = [_parents(sources[number]) for number in group]
        for depth in range(1, max(map(len, folders)) + 1):
            longer = ["/".join([*parents[-depth:], name]) for parents in folders]
            if len(set(longer)) == len(group):
                break
        else:
            longer = [f"{name}-{place + 1}" for place in range(len(group))]
        for number, new in zip(group, longer, strict=True):
            names[number] = new
    return names


def _parents(source: CountSource) -> tuple[str, ...]:
    return () if source.path is None else source.path.absolute().parent.parts[1:]


def _members(folder: Path) -> list[Path]:
    """Sources directly inside a folder; a folder with one `matrix.mtx` is that one source."""
    matrices = matrix_files(folder)
    if matrices:
        return matrices
    members = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            members.extend([entry] if _is_zarr(entry) else matrix_files(entry))
        elif entry.name.lower().endswith((*_HDF5, *_TEXT)):
            members.append(entry)
    return members


def _is_zarr(path: Path) -> bool:
    return path.suffix == ".zarr" or any((path / mark).exists() for mark in _ZARR_MARKS)


def _open_folder(path: Path, layer: str | None) -> CountSource:
    if _is_zarr(path):
        return open_anndata_zarr(path, layer)
    members = resolve_inputs([path])
    if len(members) > 1:
        raise unknown_content(path, f"It is a folder of {len(members)} inputs; open them one by one.")
    return open_counts(members[0], layer)


def _open_hdf5(path: Path, layer: str | None) -> CountSource:
    root = open_hdf5(path)
    if {"obs", "var"} <= set(root):
        return open_stored(root, path, layer)
    if {"matrix", "row_attrs", "col_attrs"} <= set(root):
        return open_loom(root, path, layer)
    if genomes_of(root):
        _refuse_layer(layer, path)
        return open_tenx_h5(root, path)
    inside = ", ".join(f"{key} {tuple(getattr(root[key], 'shape', ()))}" for key in list(root)[:6]) or "nothing"
    root.close()
    raise unknown_content(path, f"It is HDF5, but neither AnnData, loom nor 10x: it holds {inside}.")


def _refuse_layer(layer: str | None, path: Path) -> None:
    if layer not in (None, "X"):
        msg = f'"{path}" is a single matrix without layers, but layer "{layer}" was asked for. Leave out --layer.'
        raise UnknownColumnError(msg)
