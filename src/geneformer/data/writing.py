"""Write tokenized datasets cell by cell into the folder layout of Hugging Face `datasets`, resumable and atomic."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer import keys
from geneformer.data.columns import arrow_column, arrow_type, feature
from geneformer.data.shard import Shard
from geneformer.errors import DatasetError, GeneformerError, OutputError, OutputExistsError, RunMismatchError
from geneformer.runs.files import MANIFEST_NAME, check_output, lock, output_errors, publish_folder
from geneformer.runs.journal import Journal
from geneformer.runs.manifest import Manifest
from geneformer.vocab.arrow_arrays import lists, numbers

STATE = "state.json"
INFO = "dataset_info.json"
MARKERS = (MANIFEST_NAME, STATE)
SHARD_BYTES = 512 * 2**20


class DatasetWriter:
    """Streams cells into a dataset folder that appears whole, at the end.

    Until then everything lies in `<path>.partial`: finished shards, and a journal of them. A killed or interrupted
    run leaves that folder behind for `resume`; a `GeneformerError` inside the block removes it, so that a refusal
    leaves nothing. Memory holds one batch. ::

        with DatasetWriter(path, columns=types, identity=identity, resume=True) as writer:
            start = (writer.progress or {"cell": 0})["cell"]
            for chunk in chunks_from(start):
                writer.append(chunk.offsets, chunk.values, chunk.columns, progress={"cell": chunk.stop})
            writer.finish(manifest)

    Parameters
    ----------
    path
        Folder to make.
    columns
        Arrow type of each column that describes cells, in order (`arrow_type` finds it from a whole column). From the
        first batch by default. `length` is added last.
    counts
        Whether each token's scaled count is stored.
    schema
        All columns in the order and of the types wanted, those of the tokens included; in the place of `columns`.
    identity
        What the run is made from, as JSON can hold it; a run is resumed only under the same identity.
    overwrite
        Replace the dataset at `path`, and a half-finished run that cannot be continued.
    resume
        Continue a half-finished run if there is one.
    shard_bytes
        Size at which a shard file is finished and the next one begun.

    Attributes
    ----------
    progress
        The `progress` of the last batch that is safely on the disk, None at the start of a run.
    rows
        Cells written so far.

    Raises
    ------
    OutputExistsError
        A dataset, or a half-finished run, is there and neither `overwrite` nor `resume` was given.
    RunMismatchError
        The half-finished run was made from something else.
    RunLockedError
        Another process is writing the same dataset.
    OutputError
        The place cannot be written to, or the disk is full.
    """

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
        self.partial = self.path.with_name(self.path.name + ".partial")
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
        with self._stack, output_errors(self.path):
            self.partial.mkdir(exist_ok=True)
            self._stack.enter_context(lock(self.partial / "lock"))
            journal = self.partial / "journal.jsonl"
            if Journal.has_entries(journal) and not self._resume:
                self._drop_leftover()
            elif not Journal.has_entries(journal):
                journal.unlink(missing_ok=True)
            self._folder.mkdir(exist_ok=True)
            self._journal = self._open_journal(journal)
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
        """Write a batch of cells.

        Parameters
        ----------
        offsets
            Where each cell starts in `values`, and where the last one ends, ``(n + 1,)``.
        values
            Token ids of the cells, end to end.
        columns
            What is known about the cells: arrays or pandas columns, each ``(n,)``. Columns that were announced but
            are absent here become nulls.
        counts
            Scaled count of each token, as long as `values`.
        progress
            Where the run stands after this batch, as JSON can hold it; comes back as `progress` on resume.

        Raises
        ------
        DatasetError
            Columns of different lengths, not announced, or of another type than announced.
        OutputError
            The disk is full.
        """
        self._pending = dict(progress) if progress is not None else self._pending
        cells = len(offsets) - 1
        if cells == 0:
            return
        offsets = np.asarray(offsets, dtype=np.int64)
        window = slice(int(offsets[0]), int(offsets[-1]))
        starts = offsets - offsets[0]
        arrays: dict[str, Any] = {keys.INPUT_IDS: lists(starts, np.asarray(values[window], dtype=np.int32))}
        if self._counts:
            if counts is None:
                msg = "The dataset was announced with counts, but a batch has none."
                raise DatasetError(msg)
            arrays[keys.COUNTS] = lists(starts, np.asarray(counts[window], dtype=np.float64))
        described = dict(columns or {})
        if self._schema is None:
            self._schema = _schema({name: arrow_type(c) for name, c in described.items()}, counts=self._counts)
        self._write(_batch(self._schema, {**described, **arrays, keys.LENGTH: numbers(np.diff(offsets))}, cells))

    def append_table(self, batch: pa.RecordBatch) -> None:
        """Write cells that are in Arrow already; all batches must have the columns of the first one.

        `length` is counted where a batch has none.
        """
        if self._schema is None:
            types = zip(batch.schema.names, batch.schema.types, strict=True)
            described = {n: k.value_type if pa.types.is_dictionary(k) else k for n, k in types if n not in _OWN}
            self._schema = _schema(described, counts=self._counts)
        columns = {name: batch.column(name) for name in batch.schema.names}
        if keys.LENGTH not in columns:
            columns[keys.LENGTH] = columns[keys.INPUT_IDS].value_lengths()
        self._write(_batch(self._schema, columns, batch.num_rows))

    def finish(self, manifest: Manifest | None = None) -> Path:
        """Give the dataset its final name, with its description and manifest; returns where it is.

        Raises
        ------
        OutputError
            The disk is full.
        """
        with output_errors(self.path):
            if self._shard is None and not self._journal.entries:
                self._shard = Shard(self._folder / _shard_name(0), self._schema or _schema({}, counts=self._counts))
            self._end_shard()
            entries = self._journal.entries
            names = [f"data-{i:05d}-of-{len(entries):05d}.arrow" for i in range(len(entries))]
            for entry, name in zip(entries, names, strict=True):
                (self._folder / entry["file"]).rename(self._folder / name)
            with pa.memory_map(str(self._folder / names[0])) as file:
                schema = pa.ipc.open_stream(file).schema
            digest = hashlib.sha256("".join(entry["sha256"] for entry in entries).encode()).hexdigest()
            _write_json(self._folder / STATE, _state(names, digest[:16]))
            _write_json(self._folder / INFO, _info(schema))
            if manifest is not None:
                manifest.write(self._folder)
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
        self._journal.append(
            {
                "file": shard.path.name,
                "rows": shard.rows,
                "bytes": shard.file.size,
                "sha256": shard.file.digest.hexdigest(),
                "progress": self._pending,
            }
        )
        self.progress = self._pending

    def _open_journal(self, path: Path) -> Journal:
        try:
            return Journal(path, self._identity)
        except RunMismatchError:
            if not self._overwrite:
                raise
            self._drop_leftover()
            self._folder.mkdir()
            return Journal(path, self._identity)

    def _drop_leftover(self) -> None:
        if not self._overwrite:
            msg = (
                f'A half-finished run lies in "{self.partial}". Continue it with --resume, or start over with '
                "--overwrite."
            )
            raise OutputExistsError(msg)
        shutil.rmtree(self._folder, ignore_errors=True)
        (self.partial / "journal.jsonl").unlink(missing_ok=True)

    def _recover(self) -> None:
        """Take up the shards the journal knows, and drop whatever else a killed run left."""
        for number, entry in enumerate(self._journal.entries):
            for renamed in self._folder.glob(f"data-{number:05d}-of-*.arrow"):
                renamed.rename(self._folder / entry["file"])
            file = self._folder / entry["file"]
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                msg = f'"{file}" is missing or damaged, so the run cannot go on. Start over with --overwrite.'
                raise DatasetError(msg)
            self.rows += entry["rows"]
            self.progress = self._pending = entry["progress"]
        known = {entry["file"] for entry in self._journal.entries}
        for file in self._folder.iterdir():
            if file.name not in known:
                file.unlink()
        if known and self._schema is None:
            with pa.memory_map(str(self._folder / _shard_name(0))) as source:
                self._schema = pa.ipc.open_stream(source).schema


_OWN = (keys.INPUT_IDS, keys.COUNTS, keys.LENGTH)


def _schema(columns: Mapping[str, pa.DataType], *, counts: bool) -> pa.Schema:
    fields = [(keys.INPUT_IDS, pa.list_(pa.int32()))]
    if counts:
        fields.append((keys.COUNTS, pa.list_(pa.float64())))
    fields.extend((name, kind) for name, kind in columns.items() if name not in _OWN)
    fields.append((keys.LENGTH, pa.int64()))
    return pa.schema(fields)


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


def _state(names: list[str], fingerprint: str) -> dict[str, Any]:
    return {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }


def _info(schema: pa.Schema) -> dict[str, Any]:
    features = {name: feature(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
    return {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
