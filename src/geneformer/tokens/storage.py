"""Open tokenized datasets from disk, memory mapped, and write those that are in memory."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import (
    DatasetError,
    GeneformerError,
    InputNotFoundError,
    OutputError,
    OutputExistsError,
    PlaceholderFileError,
    RunMismatchError,
    reason_of,
)
from geneformer.files import read_json, refuse_foreign_link, refuse_lfs_pointer
from geneformer.files.atomic import (
    JOURNAL,
    LOCK,
    MANIFEST_NAME,
    Journal,
    check_output,
    lock,
    output_errors,
    partial_folder,
    publish_folder,
    sync,
)
from geneformer.files.manifest import Manifest
from geneformer.options._fields import as_path
from geneformer.tokens.dataset import TokenizedDataset, arrow_column, arrow_lists, arrow_numbers, arrow_type, feature


class Shard:
    """Record batches on their way into one file; nothing of it counts before `close` has returned."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.rows = 0
        self.file = _HashedFile(path)
        self._stream = pa.ipc.new_stream(pa.PythonFile(self.file, mode="w"), schema)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add a batch."""
        self._stream.write_batch(batch)
        self.rows += batch.num_rows

    def close(self) -> None:
        """End the stream; the file is on the disk when this returns."""
        self._stream.close()
        self.file.close()
        sync(self.path)

    def abandon(self) -> None:
        """Give up and delete the file."""
        self.file.close()
        self.path.unlink(missing_ok=True)


class _HashedFile(io.RawIOBase):
    """A file that knows the hash of what was written."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("wb")
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        written = self._file.write(data)
        self.size += written
        return written

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()
        super().close()


STATE = "state.json"
INFO = "dataset_info.json"
MARKERS = (MANIFEST_NAME, STATE)
SHARD_BYTES = 512 * 2**20


class DatasetWriter:
    """Streams cells into a dataset folder that appears whole, at the end."""

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Mapping[str, pa.DataType] | None = None,
        counts: bool = False,
        schema: pa.Schema | None = None,
        identity: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        resume: bool = False,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.path = Path(path)
        self.partial = partial_folder(self.path)
        self.progress: dict[str, Any] | None = None
        self.rows = 0
        self._counts = counts
        self._schema = schema if columns is None else _schema(columns, counts=counts)
        self._identity = dict(identity or {})
        self._overwrite, self._resume = overwrite, resume
        self._shard_bytes = shard_bytes
        self._folder = self.partial / "dataset"
        self._shard: Shard | None = None
        self._pending: dict[str, Any] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        check_output(self.path, overwrite=self._overwrite, markers=MARKERS)
        if not (self.partial / LOCK).exists():
            self._goes_on(self.partial / JOURNAL)  # refusals come before anything is written
        with self._stack, output_errors(self.path):
            self.partial.mkdir(exist_ok=True)
            self._stack.enter_context(lock(self.partial / LOCK))
            self._journal = self._open_journal(self.partial / JOURNAL)
            self._recover()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shard is not None:
            self._shard.abandon()
            self._shard = None
        refused = isinstance(error, GeneformerError) and not isinstance(error, OutputError)
        if refused or not self._folder.exists() or not self._journal.entries:
            shutil.rmtree(self.partial, ignore_errors=True)
        self._stack.close()

    def append(
        self,
        offsets: NDArray[np.integer[Any]],
        values: NDArray[np.integer[Any]],
        columns: Mapping[str, Any] | None = None,
        *,
        counts: NDArray[np.floating[Any]] | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a batch of cells."""
        self._pending = dict(progress) if progress is not None else self._pending
        cells = len(offsets) - 1
        if cells == 0:
            return
        offsets = np.asarray(offsets, dtype=np.int64)
        window = slice(int(offsets[0]), int(offsets[-1]))
        starts = offsets - offsets[0]
        arrays: dict[str, Any] = {keys.INPUT_IDS: arrow_lists(starts, np.asarray(values[window], dtype=np.int32))}
        if self._counts:
            if counts is None:
                msg = "The dataset was announced with counts, but a batch has none."
                raise DatasetError(msg)
            arrays[keys.COUNTS] = arrow_lists(starts, np.asarray(counts[window], dtype=np.float64))
        described = dict(columns or {})
        if self._schema is None:
            self._schema = _schema({name: arrow_type(c) for name, c in described.items()}, counts=self._counts)
        self._write(_batch(self._schema, {**described, **arrays, keys.LENGTH: arrow_numbers(np.diff(offsets))}, cells))

    def append_table(self, batch: pa.RecordBatch) -> None:
        """Write cells that are in Arrow already; all batches must have the columns of the first one."""
        if self._schema is None:
            types = zip(batch.schema.names, batch.schema.types, strict=True)
            described = {n: k.value_type if pa.types.is_dictionary(k) else k for n, k in types if n not in _OWN}
            self._schema = _schema(described, counts=self._counts)
        columns = {name: batch.column(name) for name in batch.schema.names}
        if keys.LENGTH not in columns:
            columns[keys.LENGTH] = columns[keys.INPUT_IDS].value_lengths()
        self._write(_batch(self._schema, columns, batch.num_rows))

    def finish(self, manifest: Manifest | None = None) -> Path:
        """Give the dataset its final name, with its description and manifest; returns where it is."""
        with output_errors(self.path):
            if self._shard is None and not self._journal.entries:
                self._shard = Shard(self._folder / _shard_name(0), self._schema or _schema({}, counts=self._counts))
            self._end_shard()
            entries = self._journal.entries
            names = [f"data-{i:05d}-of-{len(entries):05d}.arrow" for i in range(len(entries))]
            for entry, name in zip(entries, names, strict=True):
                (self._folder / entry["file"]).rename(self._folder / name)
            schema = _schema_of(self._folder / names[0])
            digest = hashlib.sha256("".join(entry["sha256"] for entry in entries).encode()).hexdigest()
            state: dict[str, Any] = {
                "_data_files": [{"filename": name} for name in names],
                "_fingerprint": digest[:16],
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": None,
            }
            features = {name: feature(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
            info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
            for file_name, content in ((STATE, state), (INFO, info)):
                (self._folder / file_name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            if manifest is not None:
                hashes = {name: entry["sha256"] for entry, name in zip(entries, names, strict=True)}
                replace(manifest, outputs=hashes).write(self._folder)
            publish_folder(self._folder, self.path)
        return self.path

    def _write(self, batch: pa.RecordBatch) -> None:
        with output_errors(self.path):
            if self._shard is None:
                self._shard = Shard(self._folder / _shard_name(len(self._journal.entries)), batch.schema)
            self._shard.write(batch)
            self.rows += batch.num_rows
            if self._shard.file.size >= self._shard_bytes:
                self._end_shard()

    def _end_shard(self) -> None:
        if self._shard is None:
            return
        shard, self._shard = self._shard, None
        shard.close()
        entry = {"file": shard.path.name, "rows": shard.rows, "bytes": shard.file.size}
        self._journal.append({**entry, "sha256": shard.file.digest.hexdigest(), "progress": self._pending})
        self.progress = self._pending

    def _goes_on(self, path: Path) -> bool:
        """Whether a run that was broken off is taken up again."""
        if not Journal.has_entries(path):
            return False
        if not self._resume and not self._overwrite:
            msg = (
                f'A half-finished run lies in "{self.partial}". Continue it with --resume (resume=True), or start over '
                "with --overwrite (overwrite=True)."
            )
            raise OutputExistsError(msg)
        if not self._resume:
            return False
        try:
            for number, entry in enumerate(Journal.read(path, self._identity)[1:]):
                self._check_entry(number, entry)
        except RunMismatchError:
            if not self._overwrite:
                raise
            return False
        return True

    def _check_entry(self, number: int, entry: Mapping[str, Any]) -> None:
        """Refuse an entry of a journal that is not such as `_end_shard` writes."""
        kinds: dict[str, Any] = {"rows": int, "bytes": int, "sha256": str, "progress": (dict, type(None))}
        if entry.get("file") != _shard_name(number) or not all(isinstance(entry.get(k), t) for k, t in kinds.items()):
            msg = (
                f'The journal in "{self.partial}" is damaged (entry {number + 1}). Start over with --overwrite '
                "(overwrite=True)."
            )
            raise RunMismatchError(msg)

    def _open_journal(self, path: Path) -> Journal:
        """The journal of the run to go on with, or of a new one in an empty folder."""
        if self._goes_on(path):
            return Journal(path, self._identity)
        shutil.rmtree(self._folder, ignore_errors=True)
        path.unlink(missing_ok=True)
        self._folder.mkdir()
        return Journal(path, self._identity)

    def _recover(self) -> None:
        """Take up the shards the journal knows, and drop whatever else a killed run left."""
        for number, entry in enumerate(self._journal.entries):
            for renamed in self._folder.glob(f"data-{number:05d}-of-*.arrow"):
                renamed.rename(self._folder / entry["file"])
            file = self._folder / entry["file"]
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                msg = (
                    f'"{file}" is missing or damaged, so the run cannot go on. Start over with --overwrite '
                    "(overwrite=True)."
                )
                raise DatasetError(msg)
            self.rows += entry["rows"]
            self.progress = self._pending = entry["progress"]
        known = {entry["file"] for entry in self._journal.entries}
        for file in self._folder.iterdir():
            if file.name not in known:
                file.unlink()
        if known and self._schema is None:
            self._schema = _schema_of(self._folder / _shard_name(0))


_OWN = (keys.INPUT_IDS, keys.COUNTS, keys.LENGTH)


def _schema(columns: Mapping[str, pa.DataType], *, counts: bool) -> pa.Schema:
    fields = [(keys.INPUT_IDS, pa.list_(pa.int32()))]
    if counts:
        fields.append((keys.COUNTS, pa.list_(pa.float64())))
    fields.extend((name, kind) for name, kind in columns.items() if name not in _OWN)
    fields.append((keys.LENGTH, pa.int64()))
    return pa.schema(fields)


def _schema_of(path: Path) -> pa.Schema:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_stream(file).schema


def _batch(schema: pa.Schema, columns: Mapping[str, Any], rows: int) -> pa.RecordBatch:
    unannounced = [name for name in columns if name not in schema.names]
    if unannounced:
        msg = f"Columns {unannounced} were not announced; the dataset has {schema.names}."
        raise DatasetError(msg)
    arrays = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        array = columns[name] if name in columns else pa.nulls(rows, kind)
        if not isinstance(array, pa.Array) or array.type != kind:
            array = arrow_column(name, array, kind)
        if len(array) != rows:
            msg = f"Column {name!r} has {len(array)} values for {rows} cells."
            raise DatasetError(msg)
        arrays.append(array)
    return pa.record_batch(arrays, schema=schema)


def _shard_name(number: int) -> str:
    return f"data-{number:05d}.arrow"


_SPLITS = "dataset_dict.json"
_FILE_FORMAT = b"ARROW1"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def is_dataset(path: Path) -> bool:
    """Whether a folder holds tokens rather than counts, in the layout of any `datasets` release."""
    return (path / "state.json").is_file() or (path / "dataset_info.json").is_file()


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
    path = as_path("path", path, "the folder of a dataset of tokens")
    if not path.exists():
        msg = f'There is no dataset at "{path}". Give the folder that `geneformer tokenize` wrote.'
        raise InputNotFoundError(msg)
    files, indices = _data_files(path)
    tables = [_read_table(file) for file in files]
    try:
        table = pa.concat_tables(tables)
        table.validate()
    except pa.ArrowInvalid as error:
        reason = reason_of(error)
        msg = f'The files of "{path}" differ in their columns, or are damaged ({reason}). Make the dataset again.'
        raise DatasetError(msg) from error
    for file in indices:
        table = table.take(_rows_in(file, table.num_rows))
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        msg = f'"{path}" has two columns called {twice[0]!r}. Name one of them otherwise, or make the dataset again.'
        raise DatasetError(msg)
    index = table.schema.get_field_index(keys.INPUT_IDS)
    kind = table.schema.field(index).type if index >= 0 else pa.null()
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if is_list and (pa.types.is_fixed_size_list(kind) or pa.types.is_dictionary(kind.value_type)):
        value = kind.value_type.value_type if pa.types.is_dictionary(kind.value_type) else kind.value_type
        table = table.set_column(index, keys.INPUT_IDS, table.column(index).cast(pa.list_(value)))
    table = _named_classes(table, path)
    try:
        made_from = Manifest.read(path)
    except OutputError as error:
        raise DatasetError(re.sub(r"^\w+ \(GF\d+\): ", "", str(error))) from error
    if made_from is None:
        return TokenizedDataset(table, path=path)
    return TokenizedDataset(table, vocabulary=made_from.vocabulary, path=path, report=made_from.results)


def write_dataset(
    dataset: TokenizedDataset, path: str | Path, *, overwrite: bool = False, manifest: Manifest | None = None
) -> Path:
    """Write a dataset as a folder that `datasets.load_from_disk` opens; returns where it is."""
    manifest = manifest or Manifest(task="tokenize", vocabulary=dataset.vocabulary)
    with DatasetWriter(path, counts=dataset.has_counts, overwrite=overwrite) as writer:
        for batch in dataset.table.to_batches(max_chunksize=10_000):
            writer.append_table(batch)
        return writer.finish(manifest)


def _named_classes(table: pa.Table, path: Path) -> pa.Table:
    """The table with the names of classes where `datasets` keeps their numbers (`ClassLabel`)."""
    features = read_json(path / INFO, DatasetError).get("features") if (path / INFO).is_file() else None
    for name, kind in features.items() if isinstance(features, dict) else ():
        names = kind.get("names") if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" else None
        if name not in table.column_names or not isinstance(names, list):
            continue
        from pyarrow import compute as pc  # takes long to load, and few datasets need it

        codes = table.column(name)
        if not pa.types.is_integer(codes.type) or (pc.max(codes).as_py() or 0) >= len(names):
            msg = f'Column "{name}" of "{path}" does not hold numbers of its {len(names):,} classes. Make it again.'
            raise DatasetError(msg)
        known = pc.if_else(pc.greater_equal(codes, 0), codes, None)
        labels = pc.take(pa.array(map(str, names), pa.string()), known)
        table = table.set_column(table.column_names.index(name), name, labels)
    return table


def _data_files(path: Path) -> tuple[list[Path], list[Path]]:
    """The Arrow files of a dataset in order, and those with the rows taken from them."""
    if path.is_file():
        return [path], []
    if not path.is_dir():
        msg = f'"{path}" is neither a folder nor a file. Give the folder that `geneformer tokenize` wrote.'
        raise DatasetError(msg)
    if (path / _SPLITS).is_file():
        splits = read_json(path / _SPLITS, DatasetError).get("splits")
        names = [str(name) for name in splits] if isinstance(splits, list) else []
        example = path / (names[0] if names else "train")
        msg = f'"{path}" holds the splits {", ".join(names)}. Choose one, for example "{example}".'
        raise DatasetError(msg)
    state = read_json(path / STATE, DatasetError, "Make the dataset again.") if (path / STATE).is_file() else {}
    named = {key: _names(state.get(key), path) for key in ("_data_files", "_indices_data_files")}
    data, indices = named.values()
    if not state and (path / "dataset.arrow").is_file():
        data = ["dataset.arrow"]
    if not data:
        found = sorted(entry.name for entry in path.iterdir())[:5]
        msg = (
            f'"{path}" is not a tokenized dataset: it has no {STATE} that names its data files (found {found}). '
            "Give the folder that `geneformer tokenize` wrote; if it was copied, copy it again."
        )
        raise DatasetError(msg)
    missing = [name for name in (*data, *indices) if not (path / name).is_file()]
    if missing:
        msg = f'The dataset "{path}" is incomplete: {missing} of its {len(data)} data files are missing. Copy it again.'
        raise DatasetError(msg)
    for name in (*data, *indices):
        refuse_foreign_link(path / name, DatasetError)
    return [path / name for name in data], [path / name for name in indices]


def _names(entries: Any, path: Path) -> list[str]:
    """Names of files in `state.json`: each once, and in the folder of the dataset."""
    try:
        names = [Path(entry["filename"]).name for entry in entries or ()]
        stray = [entry for entry, name in zip(entries or (), names, strict=True) if entry["filename"] != name]
    except (TypeError, KeyError, AttributeError) as error:
        msg = f'{STATE} of "{path}" does not name files as it should ({error!r}). Make the dataset again.'
        raise DatasetError(msg) from error
    if stray or len(set(names)) < len(names):
        what = f"files outside the folder ({stray[0]['filename']!r:.200})" if stray else "a file twice"
        msg = f'{STATE} of "{path}" names {what}. Make the dataset again, from data you trust.'
        raise DatasetError(msg)
    return names


def _rows_in(path: Path, n_rows: int) -> pa.ChunkedArray:
    """Rows that a file lists, all of which there are."""
    import pyarrow.compute as pc  # takes longer to import than tokenizing needs

    table = _read_table(path)
    rows = table.column(0) if table.num_columns else pa.chunked_array([], pa.null())
    known = pa.types.is_integer(rows.type) and not rows.null_count
    limits = pc.min_max(rows).as_py() if known and len(rows) else {"min": 0, "max": -1}
    if not known or limits["min"] < 0 or limits["max"] >= n_rows:
        msg = f'"{path}" lists rows that the dataset of {n_rows:,} cells does not have. Make the dataset again.'
        raise DatasetError(msg)
    return rows


def _read_table(path: Path) -> pa.Table:
    """One Arrow file, of the stream or the file format, without reading it into memory."""
    with _damage_named(path):
        refuse_lfs_pointer(path)
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


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what a damaged file causes into a `DatasetError` that names it."""
    try:
        yield
    except (DatasetError, PlaceholderFileError):
        raise
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        reason = reason_of(error)
        msg = f'"{path}" cannot be read ({reason}). It is damaged, incomplete or not an Arrow file; get it again.'
        raise DatasetError(msg) from error
