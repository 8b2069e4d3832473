"""The first layer for all single deletions of one cell, at the cost of a few passes over that cell.

Before the first attention a gene knows nothing of the others. After a deletion it is where it was, if the deleted gene
was behind it, or one position further up. So two sets of queries, keys and values (at old and at new positions) serve
all deletions, and what a gene gathers from a cell without gene ``i`` is a sum over the keys before ``i`` at their old
positions, and over those behind it at their new ones: sums that change by one key from one deletion to the next.

Axes: ``L`` tokens of the cell, ``D`` hidden, ``H`` heads, ``K`` head size, ``N`` deletions, ``W`` keys of a stretch,
``Q = 2 L`` queries, at old positions first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from geneformer.models import lean
from geneformer.models.extensions import has_plain_attention

if TYPE_CHECKING:
    from geneformer.models.encoder import GeneformerEncoder, Layer

_STRETCH = 256
"""Keys whose weights exist at the same time."""


def can_share_first_layer(encoder: GeneformerEncoder) -> bool:
    """Whether the first layer is plain attention over absolute positions, and drops nothing."""
    return has_plain_attention(encoder.config) and not encoder.training and len(encoder.encoder.layer) > 0


class Deletions:
    """A cell of which any one token can be deleted.

    Parameters
    ----------
    encoder
        An encoder that `can_share_first_layer`.
    input_ids_L
        Token ids of the cell, at least two.
    sums
        Precision of sums over keys; float64 where the device has it.
    """

    def __init__(self, encoder: GeneformerEncoder, input_ids_L: Tensor, *, sums: torch.dtype = torch.float64) -> None:
        self.encoder, self.length = encoder, len(input_ids_L)
        self.layer = cast("Layer", encoder.encoder.layer[0])
        position_L = torch.arange(self.length, device=input_ids_L.device)
        moved_L = (position_L - 1).clamp(min=0)
        with torch.autocast(input_ids_L.device.type, enabled=False):
            self.embedded_QD = encoder.embeddings(input_ids_L.repeat(2), torch.cat([position_L, moved_L]))
            projections = self.layer.attention.self
            query, key, value = (
                project(self.embedded_QD).unflatten(1, (projections.n_heads, -1)).transpose(0, 1)
                for project in (projections.query, projections.key, projections.value)
            )
            self._query_HQK = query * query.shape[-1] ** -0.5
            self._key_HQK, self._value_HQK = key, value.to(sums)
            self._largest_HQ = self._largest_scores()
            self._whole = self._gathered(self.length, self.length * 2)
        self._restart()

    def states(self, deleted: Sequence[int]) -> Tensor:
        """States after the first layer of the cell without one token at a time, packed, ``(N (L - 1), D)``.

        Parameters
        ----------
        deleted
            Places of the deleted tokens, in increasing order. Fastest where calls go on from one another.
        """
        device = self.embedded_QD.device
        places_N = torch.as_tensor(list(deleted), device=device)
        token_M = torch.arange(self.length - 1, device=device)
        behind_NM = token_M >= places_N[:, None]
        # Behind the deleted token: the next one of the cell, at its new position.
        taken_NM = token_M + behind_NM * (1 + self.length)
        hidden_TD = self.embedded_QD[taken_NM.flatten()]
        dtype = lean.products_dtype(hidden_TD) if lean.suits([self.layer], hidden_TD) else hidden_TD.dtype
        context_NMD = hidden_TD.new_empty((len(deleted), self.length - 1, hidden_TD.shape[1]), dtype=dtype)
        with torch.autocast(device.type, enabled=False):
            for number, place in enumerate(deleted):
                context_HQK = self._context_without(place)
                context_NMD[number] = context_HQK[:, taken_NM[number]].transpose(0, 1).flatten(1)
        return self._finish(hidden_TD, context_NMD.flatten(0, 1))

    def _finish(self, hidden_TD: Tensor, context_TD: Tensor) -> Tensor:
        if lean.suits([self.layer], hidden_TD):
            return lean.finish_layer(self.layer, hidden_TD, context_TD)
        middle_TD = self.layer.attention.output(context_TD, hidden_TD)
        states_TD: Tensor = self.layer.output(self.layer.intermediate(middle_TD), middle_TD)
        return states_TD

    def _largest_scores(self) -> Tensor:
        """Largest score of every query, ``(H, Q, 1)``."""
        parts = [
            torch.matmul(self._query_HQK, key_HWK.mT).amax(-1, keepdim=True)
            for key_HWK in self._key_HQK.split(_STRETCH, dim=1)
        ]
        return torch.stack(parts).amax(0)

    def _weights(self, start: int, stop: int) -> Tensor:
        """Weights of some keys before they are divided by their sum, ``(H, Q, W)``."""
        scores_HQW = torch.matmul(self._query_HQK, self._key_HQK[:, start:stop].mT)
        return scores_HQW.sub_(self._largest_HQ).exp_().to(self._value_HQK.dtype)

    def _gathered(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Sums of weighted values ``(H, Q, K)`` and of weights ``(H, Q, 1)`` over some keys."""
        values, weights = torch.zeros_like(self._value_HQK), torch.zeros_like(self._value_HQK[:, :, :1])
        for first in range(start, stop, _STRETCH):
            last = min(first + _STRETCH, stop)
            weights_HQW = self._weights(first, last)
            values.baddbmm_(weights_HQW, self._value_HQK[:, first:last])
            weights += weights_HQW.sum(-1, keepdim=True)
        return values, weights

    def _restart(self) -> None:
        """Before the first token: all keys are at their new positions."""
        self._at = 0
        self._values_HQK, self._sums_HQ = (x.clone() for x in self._whole)

    def _context_without(self, place: int) -> Tensor:
        """What every query gathers from the cell without one token, ``(H, Q, K)``."""
        if place < self._at:
            self._restart()
        if place > self._at:
            for sign, shift in ((1, 0), (-1, self.length)):
                values, sums = self._gathered(self._at + shift, place + shift)
                self._values_HQK.add_(values, alpha=sign)
                self._sums_HQ.add_(sums, alpha=sign)
            self._at = place
        own = self.length + place
        weights_HQ1 = self._weights(own, own + 1)
        values = torch.addcmul(self._values_HQK, weights_HQ1, self._value_HQK[:, own : own + 1], value=-1)
        return values.div_(self._sums_HQ - weights_HQ1).to(self.embedded_QD.dtype)
