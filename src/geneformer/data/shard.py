"""One Arrow stream file in the making, hashed while it is written."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pyarrow as pa

from geneformer.runs.files import sync


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
