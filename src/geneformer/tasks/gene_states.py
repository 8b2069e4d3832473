"""States of all genes in all cells, and what is made of them: statistics by gene, and a block of cells of equal length.

Axes: ``T`` tokens of all cells, ``N`` cells, ``L`` longest cell, ``D`` hidden.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.models.loading import LoadedModel
from geneformer.options import RuntimeOptions
from geneformer.tasks.embedding_summaries import Statistic, summarize
from geneformer.tasks.inputs import check_layer, check_pairing

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class GeneStates:
    """States of the genes of cells, kept in main memory: four bytes for each of ``T * D``.

    Attributes
    ----------
    values
        States, cell after cell, float32 ``(T, D)``.
    tokens
        Token id of each, ``(T,)``.
    cells
        Row of the cell each is from, ascending, ``(T,)``.
    """

    values: NDArray[np.float32]
    tokens: Ints
    cells: Ints

    @property
    def by_token(self) -> Ints:
        """Places of the states ordered by token id; those of one id keep the order of the cells, ``(T,)``."""
        return np.argsort(self.tokens, kind="stable")

    @property
    def tokens_in_order(self) -> list[int]:
        """Token ids in the order of `by_token`."""
        ordered: list[int] = np.sort(self.tokens).tolist()
        return ordered

    @property
    def repeat(self) -> Ints:
        """How many states of the same token id there were before, in the order of `by_token`, ``(T,)``."""
        _, counts = np.unique(self.tokens, return_counts=True)
        return np.arange(len(self.tokens)) - np.repeat(np.cumsum(counts) - counts, counts)

    def summaries(self, statistic: Statistic) -> tuple[Ints, NDArray[np.float32]]:
        """Token ids that occur, ascending, and a statistic over the states of each, ``(g, D)``."""
        order = self.by_token
        ids, starts = np.unique(self.tokens[order], return_index=True)
        return ids, np.stack([summarize(self.values[group], statistic) for group in np.split(order, starts[1:])])

    def padded(self) -> NDArray[np.float32]:
        """States as one block; behind the end of a cell there are zeros, ``(N, L, D)``."""
        lengths = np.bincount(self.cells)
        block = np.zeros((len(lengths), int(lengths.max()), self.values.shape[1]), dtype=np.float32)
        place = np.arange(len(self.cells)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        block[self.cells, place] = self.values
        return block


def gene_states(
    tokens: TokenizedDataset,
    model: LoadedModel,
    layer: int,
    runtime: RuntimeOptions,
    *,
    progress: Progress | None = None,
) -> GeneStates:
    """States of every token of every cell after one layer.

    Parameters
    ----------
    tokens
        Tokenized cells.
    model
        Pretrained model of the same vocabulary.
    layer
        Counted back from the output: 0 is the last.
    runtime
        Where it runs.
    progress
        Called with the cells done and the cells in all.

    Raises
    ------
    PairingError
        Tokens that the model cannot read.
    OutOfRangeError
        A layer the model does not have.
    """
    check_pairing(tokens, model, truncate=False)
    check_layer(layer, model.name, model.n_layers)
    packed = tokens.gather(np.arange(len(tokens)))
    starts, lengths = packed.cu_seqlens[:-1], tokens.lengths
    values = np.empty((len(packed.input_ids), model.network.config.hidden_size), dtype=np.float32)

    def step(batch: Batch) -> None:
        hidden_TD = model.network.bert(batch.input_ids, batch.cu_seqlens, layer=layer, attention=batch.attention)
        values[_places(starts[batch.rows], lengths[batch.rows])] = hidden_TD.float().cpu().numpy()

    run_batches(tokens, model.network.bert, step, runtime, max_length=model.max_length, progress=progress)
    return GeneStates(values, packed.input_ids.astype(np.int64), np.repeat(np.arange(len(tokens)), lengths))


def _places(starts: Ints, lengths: Ints) -> Ints:
    """Places of the tokens of some cells in the order of the batch, ``(T,)``."""
    behind = np.cumsum(lengths) - lengths
    places: Ints = np.arange(int(lengths.sum())) + np.repeat(starts - behind, lengths)
    return places
