"""Results in the order of the cells, ranked one run after the other or by threads."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from geneformer.options import TokenizeOptions
from geneformer.tokenization.preparation import Preparation
from geneformer.tokenization.ranking import RankedGenes, Ranker
from geneformer.tokenization.units import PreparedSource, UnitResult, rank_source, rank_unit


def results(
    preparation: Preparation,
    genes: RankedGenes,
    options: TokenizeOptions,
    max_length: int,
    *,
    source: int = 0,
    cell: int = 0,
) -> Iterator[UnitResult]:
    """Results of all cells from `cell` of `source` on, `options.chunk_size` cells each.

    Matrices that can be read at any place are shared out among threads, because unpacking and sorting leave the
    interpreter free. Text has to be read from the start.

    Parameters
    ----------
    preparation
        The inputs.
    genes, options, max_length
        How to rank.
    source, cell
        Where to begin.
    """
    for number in range(source, len(preparation.sources)):
        ready = preparation.sources[number]
        first = cell if number == source else 0
        ranker = Ranker(ready.positions, genes, max_length=max_length)
        if options.workers == 1 or not ready.source.matrix.seekable:
            yield from rank_source(ready, ranker, options, first)
        else:
            yield from _by_threads(ready, ranker, options, first)
        # Frees what sorting by cells may have put into memory or onto the disk; nothing asks this source again.
        ready.source.close()


def _spans(ready: PreparedSource, size: int, first: int) -> Iterator[tuple[int, int]]:
    """The cells of each result; the first may begin within one after a resume."""
    n = ready.source.n_cells
    while first < n:
        stop = min(first - first % size + size, n)
        yield first, stop
        first = stop


def _by_threads(ready: PreparedSource, ranker: Ranker, options: TokenizeOptions, first: int) -> Iterator[UnitResult]:
    waiting: deque[Future[UnitResult]] = deque()
    with ThreadPoolExecutor(options.workers) as threads:
        for span in _spans(ready, options.chunk_size, first):
            if len(waiting) > options.workers:
                yield waiting.popleft().result()
            waiting.append(threads.submit(rank_unit, ready, ranker, options, span))
        while waiting:
            yield waiting.popleft().result()
