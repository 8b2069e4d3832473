"""What `EmbExtractor` and `get_embs` have in common: one call of the lower layers, and a bar while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from geneformer.compat.loaded_models import published_runtime
from geneformer.data.dataset import TokenizedDataset
from geneformer.errors import PairingError
from geneformer.models.loading import LoadedModel
from geneformer.options import EmbedOptions, RuntimeOptions
from geneformer.results.embeddings import CellEmbeddings, GeneEmbeddings
from geneformer.runs.progress import progress_bar
from geneformer.tasks.embedding import embed
from geneformer.tasks.embedding_summaries import Statistic, summarize
from geneformer.tasks.gene_states import GeneStates, gene_states

_POOLINGS: dict[str, Literal["mean", "cls"]] = {"cell": "mean", "cls": "cls"}


@dataclass(frozen=True, slots=True)
class Extraction:
    """Embeddings of some cells, as they are asked for.

    Attributes
    ----------
    tokens, model
        Cells in the published order, and what reads them.
    layer
        Counted back from the output: 0 is the last.
    batch
        Cells of the greatest length that are read together.
    silent
        Whether no bar is shown.
    """

    tokens: TokenizedDataset
    model: LoadedModel
    layer: int
    batch: int
    silent: bool = False

    @property
    def runtime(self) -> RuntimeOptions:
        """Where it runs: on whatever device there is, in the arithmetic of the published package."""
        return published_runtime(self.model.network.bert, self.batch)

    def cells(self, mode: str) -> CellEmbeddings:
        """One embedding per cell, for the modes "cell" and "cls".

        Raises
        ------
        PairingError
            "cls" without `<cls>`, or tokens that the model cannot read.
        """
        if mode == "cls" and self.model.vocabulary.cls_id is None:
            msg = (
                f'emb_mode="cls" needs <cls>, which {self.model.name} does not have: its vocabulary is '
                f'{self.model.vocabulary.name}. Pass model_version="V1", or emb_mode="cell".'
            )
            raise PairingError(msg)
        return cast(CellEmbeddings, self._embed(EmbedOptions(pooling=_POOLINGS[mode], layer=self.layer)))

    def genes(self) -> GeneEmbeddings:
        """Mean embedding of every gene; memory does not grow with the number of cells."""
        return cast(GeneEmbeddings, self._embed(EmbedOptions(pooling="gene", layer=self.layer)))

    def states(self) -> GeneStates:
        """Embeddings of every gene in every cell."""
        with progress_bar("Embedding", shown=not self.silent) as update:
            return gene_states(self.tokens, self.model, self.layer, self.runtime, progress=update)

    def _embed(self, options: EmbedOptions) -> CellEmbeddings | GeneEmbeddings:
        with progress_bar("Embedding", shown=not self.silent) as update:
            return embed(self.tokens, self.model, options, self.runtime, progress=update)


def vector(values_nd: Any, statistic: str) -> Tensor:
    """A statistic over cells as a tensor, ``(d,)``."""
    return torch.from_numpy(summarize(values_nd, cast(Statistic, statistic)))


def by_token(ids: Sequence[int], values_gd: Any) -> dict[int, list[float]]:
    """Embedding of every gene by its token id, as plain numbers."""
    return dict(zip(ids, values_gd.tolist(), strict=True))
