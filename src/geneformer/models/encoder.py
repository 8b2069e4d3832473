"""The encoder: BERT's parameters, written over packed tokens.

Parameter names are those of `transformers`' BERT, so that published checkpoints load as they are and saved ones open
there. `models.layers` has the parts, `models.lean` a faster way through them where no gradient is needed.

Axes: ``B`` cells, ``T`` packed tokens, ``D`` hidden.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import BertConfig, PreTrainedModel

from geneformer.errors import PairingError
from geneformer.models import lean
from geneformer.models.attention import KERNELS, Attention
from geneformer.models.config import describe_extensions, has_plain_attention
from geneformer.models.layers import Embeddings, Layer, Stack, ZeroLinear


class GeneformerModel(PreTrainedModel):
    """Base of everything that carries the encoder: configuration class, names and initial weights."""

    config: BertConfig
    config_class = BertConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = False
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        std = 0.0 if isinstance(module, ZeroLinear) else self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
            nn.init.zeros_(module.bias)


class GeneformerEncoder(GeneformerModel):
    """Contextual gene embeddings of packed cells.

    Parameters
    ----------
    config
        BERT configuration: sizes, dropout, activation.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Stack(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Token embeddings, as `transformers` and PEFT look them up."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]
        """Replace the token embeddings."""
        self.embeddings.word_embeddings = value

    def forward(
        self, input_ids_T: Tensor, cu_seqlens: Tensor, *, layer: int = 0, attention: str | Attention = "sdpa"
    ) -> Tensor:
        """States of all tokens after one layer.

        Parameters
        ----------
        input_ids_T
            Token ids of all cells, end to end, ``(T,)``.
        cu_seqlens
            Where each cell starts, and the total, ``(B + 1,)``.
        layer
            Layer to read, counted back from the output: 0 is the last, -1 the one before it. Layers above it are not
            computed.
        attention
            Name of a kernel, or a function of the same signature. Layers with relative positions or a window use their
            own kernels instead.

        Returns
        -------
        Tensor
            ``(T, D)``.

        Raises
        ------
        PairingError
            A function as kernel, for an encoder whose attention it would not be.
        """
        n_layers = self.layers_below(layer)
        lengths: list[int] = torch.diff(cu_seqlens).tolist()
        hidden_TD = self.embed_tokens(input_ids_T, cu_seqlens)
        return self.run_layers(hidden_TD, lengths, stop=n_layers, attention=attention)

    def embed_tokens(self, input_ids_T: Tensor, cu_seqlens: Tensor) -> Tensor:
        """States before the first layer, ``(T, D)``."""
        hidden_TD: Tensor = self.embeddings(input_ids_T, ranks(cu_seqlens, len(input_ids_T)))
        return hidden_TD

    def layers_below(self, layer: int) -> int:
        """How many layers run to read one, which is counted back from the output."""
        n_layers = len(self.encoder.layer) + layer
        if not 0 <= n_layers <= len(self.encoder.layer):
            msg = f"layer={layer} is outside the {len(self.encoder.layer)} layers of this encoder."
            raise ValueError(msg)
        return n_layers

    def run_layers(
        self,
        hidden_TD: Tensor,
        lengths: Sequence[int],
        *,
        start: int = 0,
        stop: int | None = None,
        attention: str | Attention = "sdpa",
    ) -> Tensor:
        """States after layers `start` to `stop`, ``(T, D)``.

        Parameters
        ----------
        hidden_TD
            States before them, ``(T, D)``; may be overwritten where nothing records gradients.
        lengths
            Tokens of every cell.
        start, stop
            First layer, and the one after the last; all by default.
        attention
            As for `forward`.
        """
        attend = KERNELS[attention] if isinstance(attention, str) else attention
        if not isinstance(attention, str):
            self._check_attention_is_plain(attend)
        if not len(hidden_TD):
            return hidden_TD
        blocks = cast("list[Layer]", list(self.encoder.layer[start:stop]))
        if lean.suits(blocks, hidden_TD):
            return lean.run_layers(blocks, hidden_TD, lengths, attend)
        for block in blocks:
            hidden_TD = block(hidden_TD, lengths, attend)
        return hidden_TD

    def _check_attention_is_plain(self, attend: Attention) -> None:
        """Refuse a function that would never be called, such as one that reads attention weights."""
        if not has_plain_attention(self.config) and attend not in KERNELS.values():
            msg = (
                f"This encoder has attention of its own ({describe_extensions(self.config)}), which no function from "
                "outside can stand in for. Attention weights can be read from encoders with absolute positions and no "
                "window."
            )
            raise PairingError(msg)


def cell_of(cu_seqlens: Tensor, n_tokens: int) -> Tensor:
    """Cell of every token, ``(T,)``."""
    lengths = torch.diff(cu_seqlens)
    return torch.repeat_interleave(torch.arange(len(lengths), device=cu_seqlens.device), lengths, output_size=n_tokens)


def ranks(cu_seqlens: Tensor, n_tokens: int) -> Tensor:
    """Position of every token within its cell, ``(T,)``."""
    starts_T = torch.repeat_interleave(cu_seqlens[:-1], torch.diff(cu_seqlens), output_size=n_tokens)
    return torch.arange(n_tokens, device=cu_seqlens.device) - starts_T


def mean_over_genes(hidden_TD: Tensor, input_ids_T: Tensor, cu_seqlens: Tensor, special: Tensor) -> Tensor:
    """Mean over the genes of each cell in float32, ``(B, D)``; special tokens do not count."""
    is_gene_T = ~torch.isin(input_ids_T, special)
    if bool(is_gene_T.all()):
        return mean_pool(hidden_TD, cu_seqlens)
    before = nn.functional.pad(is_gene_T.cumsum(0), (1, 0))
    return mean_pool(hidden_TD[is_gene_T], before[cu_seqlens])


def mean_pool(hidden_TD: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Mean over the tokens of each cell, in float32, ``(B, D)``; empty cells give zeros."""
    lengths, cells_T = torch.diff(cu_seqlens), cell_of(cu_seqlens, len(hidden_TD))
    sums_BD = hidden_TD.new_zeros((len(lengths), hidden_TD.shape[1]), dtype=torch.float32)
    sums_BD = sums_BD.index_add(0, cells_T, hidden_TD.float())
    return sums_BD / lengths.clamp(min=1).unsqueeze(1)
