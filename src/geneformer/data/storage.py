"""Open tokenized datasets from disk, memory mapped, and write those that are in memory."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from geneformer import keys
from geneformer.data.dataset import TokenizedDataset
from geneformer.data.writing import STATE, DatasetWriter
from geneformer.errors import DatasetError, InputNotFoundError, OutputError, PlaceholderFileError
from geneformer.runs.manifest import Manifest

__all__ = ["DatasetWriter", "read_dataset", "write_dataset"]

_SPLITS = "dataset_dict.json"
_POINTER = b"version https://git-lfs"
_FILE_FORMAT = b"ARROW1"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def read_dataset(path: str | Path) -> TokenizedDataset:
    """The tokenized dataset in a folder that `datasets` or this package wrote, memory mapped.

    Token ids may be 16-, 32- or 64-bit integers. The folder may be of any `datasets` release, or a single
    `.arrow` file.

    Parameters
    ----------
    path
        Dataset folder, or Arrow file.

    Raises
    ------
    InputNotFoundError
        There is nothing at that path.
    DatasetError
        The folder holds several splits, is incomplete or damaged, or has no `input_ids`.
    PlaceholderFileError
        Files are git-lfs pointers.
    """
    path = Path(path)
    if not path.exists():
        msg = f'There is no dataset at "{path}". Give the folder that `geneformer tokenize` wrote.'
        raise InputNotFoundError(msg)
    files, state = _data_files(path)
    tables = [_read_table(file) for file in files]
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        msg = f'The files of "{path}" differ in their columns ({error}). Make the dataset again.'
        raise DatasetError(msg) from error
    for entry in state.get("_indices_data_files") or ():
        rows = _read_table(path / entry["filename"]).column(0)
        table = table.take(rows)
    return TokenizedDataset(_plain_rows(table, path), vocabulary=_fingerprint(path), path=path)


def write_dataset(
    dataset: TokenizedDataset, path: str | Path, *, overwrite: bool = False, manifest: Manifest | None = None
) -> Path:
    """Write a dataset as a folder that `datasets.load_from_disk` opens; returns where it is.

    Parameters
    ----------
    dataset
        The tokens.
    path
        Folder to make.
    overwrite
        Replace a dataset that is there.
    manifest
        What the dataset was made from. By default just the vocabulary.

    Raises
    ------
    OutputExistsError
        The folder exists and was not to be overwritten.
    OutputError
        The place cannot be written to, or the disk is full.
    """
    manifest = manifest or Manifest(task="tokenize", vocabulary=dataset.vocabulary)
    with DatasetWriter(path, counts=dataset.has_counts, overwrite=overwrite) as writer:
        for batch in dataset.table.to_batches(max_chunksize=10_000):
            writer.append_table(batch)
        return writer.finish(manifest)


def _data_files(path: Path) -> tuple[list[Path], dict[str, Any]]:
    """The Arrow files of a dataset in order, and its state."""
    if path.is_file():
        return [path], {}
    if (path / _SPLITS).is_file():
        splits = _read_json(path / _SPLITS).get("splits", [])
        example = path / (splits[0] if splits else "train")
        msg = f'"{path}" holds the splits {", ".join(splits)}. Choose one, for example "{example}".'
        raise DatasetError(msg)
    state: dict[str, Any] = {}
    if (path / STATE).is_file():
        state = _read_json(path / STATE)
        names = [entry["filename"] for entry in state.get("_data_files") or ()]
    else:
        names = ["dataset.arrow"] if (path / "dataset.arrow").is_file() else []
    if not names:
        found = sorted(entry.name for entry in path.iterdir())[:5]
        msg = (
            f'"{path}" is not a tokenized dataset: it has no {STATE} that names its data files (found {found}). '
            "Give the folder that `geneformer tokenize` wrote; if it was copied, copy it again."
        )
        raise DatasetError(msg)
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        msg = (
            f'The dataset "{path}" is incomplete: {missing} of its {len(names)} data files are missing. Copy it again.'
        )
        raise DatasetError(msg)
    return [path / name for name in names], state


def _read_table(path: Path) -> pa.Table:
    """One Arrow file, of the stream or the file format, without reading it into memory."""
    with _damage_named(path):
        _refuse_pointer(path)
        source = pa.memory_map(str(path))
        if source.read(len(_FILE_FORMAT)) == _FILE_FORMAT:
            return pa.ipc.open_file(source).read_all()
        # A stream cut off between two batches reads without complaint: only its end mark tells.
        source.seek(max(0, source.size() - len(_END_OF_STREAM)))
        if source.read() != _END_OF_STREAM:
            msg = f'"{path}" ends too early: an incomplete download or copy, or no Arrow file. Get it again.'
            raise DatasetError(msg)
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()


def _read_json(path: Path) -> dict[str, Any]:
    with _damage_named(path):
        _refuse_pointer(path)
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            msg = f'"{path}" should hold a JSON object. The dataset is damaged; make it again.'
            raise DatasetError(msg)
        return content


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what a damaged file causes into a `DatasetError` that names it."""
    try:
        yield
    except (DatasetError, PlaceholderFileError):
        raise
    except (pa.ArrowInvalid, ValueError, KeyError, OSError) as error:
        msg = f'"{path}" cannot be read ({error}). It is damaged, incomplete or not an Arrow file; get it again.'
        raise DatasetError(msg) from error


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            msg = f'"{path}" is a git-lfs pointer, not the file itself. Run `git lfs pull` where it came from.'
            raise PlaceholderFileError(msg)


def _plain_rows(table: pa.Table, path: Path) -> pa.Table:
    """The table with `input_ids` as lists of integers that vary in length."""
    if keys.INPUT_IDS not in table.column_names:
        return table
    kind = table.schema.field(keys.INPUT_IDS).type
    if pa.types.is_fixed_size_list(kind):
        index = table.column_names.index(keys.INPUT_IDS)
        kind = pa.list_(kind.value_type)
        table = table.set_column(index, keys.INPUT_IDS, table.column(keys.INPUT_IDS).cast(kind))
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or not pa.types.is_integer(kind.value_type):
        msg = f'`input_ids` in "{path}" holds {kind}, not lists of integers. Make tokens with `geneformer tokenize`.'
        raise DatasetError(msg)
    if any(chunk.values.null_count for chunk in table.column(keys.INPUT_IDS).chunks):
        msg = f'`input_ids` in "{path}" has missing tokens. The dataset is damaged; make it again.'
        raise DatasetError(msg)
    return table


def _fingerprint(path: Path) -> str | None:
    """Fingerprint of the vocabulary a dataset was made with, if it says so."""
    try:
        manifest = Manifest.read(path)
    except OutputError as error:
        raise DatasetError(re.sub(r"^\w+ \(GF\d+\): ", "", str(error))) from error
    return None if manifest is None else manifest.vocabulary
