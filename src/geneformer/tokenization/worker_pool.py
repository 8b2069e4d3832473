"""Worker processes that rank cells of one file: plain subprocesses that speak JSON lines and arrays.

Subprocesses instead of `multiprocessing`, because scripts without a main guard, notebooks and Windows then need nothing
special, and nothing is pickled.
"""

import json
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer import errors
from geneformer.options import TokenizeOptions
from geneformer.tokenization.ranking import RankedCells
from geneformer.tokenization.units import PreparedSource, Tally, UnitResult
from geneformer.vocab.vocabulary import Vocabulary

_AHEAD = 2
"""Runs of cells a worker is given before its first result is taken."""


class WorkerPool:
    """Worker processes for one file.

    Parameters
    ----------
    prepared
        The file, checked already.
    vocabulary
        What the tokens belong to.
    options
        How to rank, and by how many.
    """

    def __init__(self, prepared: PreparedSource, vocabulary: Vocabulary, options: TokenizeOptions) -> None:
        self._prepared = prepared
        self._vocabulary = vocabulary
        self._options = options
        self._workers: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="geneformer-")))
            self._vocabulary.save(folder / "vocabulary")
            task = {
                "path": str(self._prepared.source.path),
                "vocabulary": str(folder / "vocabulary"),
                "options": asdict(self._options),
            }
            for _ in range(self._options.workers):
                worker = subprocess.Popen(
                    [sys.executable, "-m", "geneformer.tokenization.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
                self._stack.callback(_end, worker)
                self._workers.append(worker)
                _send(worker, task)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def results(self, spans: Iterable[tuple[int, int]]) -> Iterator[UnitResult]:
        """Results in the order of the spans.

        Raises
        ------
        GeneformerError
            What a worker met.
        RuntimeError
            A worker ended unexpectedly; its own message is on the standard error stream.
        """
        waiting: deque[int] = deque()
        for number, span in enumerate(spans):
            if len(waiting) == _AHEAD * len(self._workers):
                yield _received(self._workers[waiting.popleft()])
            worker = number % len(self._workers)
            _send(self._workers[worker], list(span))
            waiting.append(worker)
        while waiting:
            yield _received(self._workers[waiting.popleft()])


def _end(worker: "subprocess.Popen[bytes]") -> None:
    worker.kill()
    worker.communicate()


def _send(worker: "subprocess.Popen[bytes]", message: object) -> None:
    if worker.stdin is None:
        return
    try:
        worker.stdin.write(json.dumps(message).encode() + b"\n")
        worker.stdin.flush()
    except BrokenPipeError as error:
        raise _lost(worker) from error


def _received(worker: "subprocess.Popen[bytes]") -> UnitResult:
    stream = worker.stdout
    line = stream.readline() if stream is not None else b""
    if stream is None or not line:
        raise _lost(worker)
    head: dict[str, Any] = json.loads(line)
    if "error" in head:
        raise getattr(errors, head["error"])(head["message"])
    try:
        return read_result(stream, head)
    except (EOFError, ValueError) as error:
        raise _lost(worker) from error


def _lost(worker: "subprocess.Popen[bytes]") -> RuntimeError:
    msg = (
        f"A worker process ended unexpectedly (exit status {worker.wait()}; its message is above). If it was killed "
        "for memory, use fewer workers or a smaller chunk_size; the run can be resumed."
    )
    return RuntimeError(msg)


def write_result(stream: IO[bytes], result: UnitResult) -> None:
    """Send a result: a line with its sums, then its arrays."""
    ranked = result.ranked
    head = {"tally": asdict(result.tally), "counts": ranked.counts is not None}
    stream.write(json.dumps(head).encode() + b"\n")
    arrays: list[NDArray[Any]] = [
        ranked.offsets,
        ranked.input_ids,
        ranked.n_genes,
        result.cells,
        result.empty,
        result.gene_counts,
    ]
    arrays += [ranked.counts] if ranked.counts is not None else []
    for array in arrays:
        np.save(stream, array, allow_pickle=False)
    stream.flush()


def read_result(stream: IO[bytes], head: dict[str, Any]) -> UnitResult:
    """Receive what `write_result` sent, its first line being read already."""
    offsets, ids, n_genes, cells, empty, gene_counts = (_read_array(stream) for _ in range(6))
    counts = _read_array(stream) if head["counts"] else None
    ranked = RankedCells(offsets, ids, counts, n_genes)
    return UnitResult(ranked, cells, empty, gene_counts, Tally(**head["tally"]))


def _read_array(stream: IO[bytes]) -> Any:
    from numpy.lib import format as npy

    npy.read_magic(stream)
    shape, _, dtype = npy.read_array_header_1_0(stream)
    size = int(np.prod(shape)) * dtype.itemsize
    data = stream.read(size)
    if len(data) != size:
        msg = "The stream ended within an array."
        raise EOFError(msg)
    return np.frombuffer(data, dtype=dtype)
