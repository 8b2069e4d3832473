"""The baseline of masked gene prediction: the genes that are commonest at that rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geneformer.tokens.dataset import Masked, TokenizedDataset

_RANKS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class RankBaseline:
    """Commonest genes at every rank of the training cells."""

    guesses: NDArray[np.int64]

    @classmethod
    def fit(
        cls,
        dataset: TokenizedDataset,
        rows: NDArray[np.int64],
        max_length: int,
        *,
        special_ids: Sequence[int] | NDArray[np.int64] = (),
        n_guesses: int = 10,
        max_cells: int = 50_000,
        seed: int = 0,
    ) -> "RankBaseline":
        """Count the genes at each rank."""
        if len(rows) > max_cells:
            rows = np.sort(np.random.default_rng(seed).choice(rows, max_cells, replace=False))
        packed = dataset.gather(rows, max_length=max_length)
        rank = _ranks(packed.cu_seqlens)
        order = np.argsort(rank, kind="stable")
        ids, rank = packed.input_ids[order].astype(np.int64), rank[order]
        n_tokens = max(int(ids.max(initial=0)) + 1, n_guesses, *(token + 1 for token in special_ids))
        guesses = np.zeros((max_length, n_guesses), dtype=np.int64)
        for start in range(0, max_length, _RANKS_AT_ONCE):
            stop = min(start + _RANKS_AT_ONCE, max_length)
            first, last = np.searchsorted(rank, [start, stop])
            key = (rank[first:last] - start) * n_tokens + ids[first:last]
            counts = np.bincount(key, minlength=(stop - start) * n_tokens).reshape(stop - start, n_tokens)
            counts[:, list(special_ids)] = -1
            guesses[start:stop] = np.argsort(-counts, axis=1, kind="stable")[:, :n_guesses]
        return cls(guesses)

    def hits(self, batch: Masked) -> tuple[int, int, int]:
        """Masked genes of a batch, and how many were the first, or among the first ten, guesses."""
        guesses = self.guesses[_ranks(batch.cu_seqlens)[batch.masked]]
        is_hit = guesses == batch.labels[:, None]
        return len(batch.labels), int(is_hit[:, 0].sum()), int(is_hit[:, :10].any(axis=1).sum())


def _ranks(cu_seqlens: NDArray[np.int64]) -> NDArray[np.int64]:
    lengths = np.diff(cu_seqlens)
    return np.arange(int(cu_seqlens[-1])) - np.repeat(cu_seqlens[:-1], lengths)
