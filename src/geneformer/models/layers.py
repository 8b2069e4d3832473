"""The parts of the encoder over packed tokens, under BERT's parameter names: embeddings and layers.

Cells lie end to end, so no operation ever touches padding. Relative positions, a window and adapters come on top where
the configuration asks for them.

Axes: ``T`` packed tokens, ``D`` hidden, ``H`` heads, ``K`` head size, ``F`` feed-forward.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig
from transformers.activations import ACT2FN

from geneformer.models.attention import Attention, relative, windowed
from geneformer.models.config import ADAPTER_SIZE, ATTENTION_WINDOW, RELATIVE_CLIP, extension


class ZeroLinear(nn.Linear):
    """A dense layer whose weights start as zero; the encoder's initialization knows it by its type."""

    def reset_parameters(self) -> None:
        """Weights and biases as before training."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Adapter(nn.Module):
    """Down, GELU, up, and the input added; the identity until something is learnt."""

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, size)
        self.up = ZeroLinear(size, hidden_size)

    def forward(self, update_TD: Tensor) -> Tensor:
        """Adapted update, ``(T, D)``."""
        return update_TD + self.up(functional.gelu(self.down(update_TD)))


class Embeddings(nn.Module):
    """Token, rank and type embeddings, summed and normalized; without ranks where positions are relative."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        absolute = not extension(config, RELATIVE_CLIP)
        self.position_embeddings = (
            nn.Embedding(config.max_position_embeddings, config.hidden_size) if absolute else None
        )
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids_T: Tensor, ranks_T: Tensor) -> Tensor:
        """Embedded tokens, ``(T, D)``."""
        hidden_TD = self.word_embeddings(input_ids_T)
        hidden_TD = hidden_TD + self.token_type_embeddings.weight[0]
        if self.position_embeddings is not None:
            hidden_TD = hidden_TD + self.position_embeddings(ranks_T)
        return self.dropout(self.LayerNorm(hidden_TD))


class SelfAttention(nn.Module):
    """Queries, keys and values of one layer."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.n_heads = config.num_attention_heads
        self.p_dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.window, clip = extension(config, ATTENTION_WINDOW), extension(config, RELATIVE_CLIP)
        head_size = config.hidden_size // config.num_attention_heads
        self.distance_embedding = nn.Embedding(2 * clip + 1, head_size) if clip else None

    def forward(self, hidden_TD: Tensor, lengths: Sequence[int], attend: Attention) -> Tensor:
        """What every token gathers from its cell, ``(T, D)``."""
        query, key, value = (
            project(hidden_TD).unflatten(-1, (self.n_heads, -1)) for project in (self.query, self.key, self.value)
        )
        attend = self.kernel(attend, lengths)
        context_THK = attend(query, key, value, lengths, self.p_dropout if self.training else 0.0)
        return context_THK.flatten(1)

    def kernel(self, attend: Attention, lengths: Sequence[int]) -> Attention:
        """The kernel chosen, unless this layer has attention of its own; a window wider than all cells is none."""
        table_PK = None if self.distance_embedding is None else self.distance_embedding.weight
        if self.window and max(lengths) > self.window + 1:
            return partial(windowed, window=self.window, table_PK=table_PK)
        return attend if table_PK is None else partial(relative, table_PK=table_PK)


class Residual(nn.Module):
    """Dense, dropout, an adapter where there is one, residual, layer norm: how both halves of a layer end."""

    def __init__(self, in_features: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        size = extension(config, ADAPTER_SIZE)
        self.adapter = Adapter(config.hidden_size, size) if size else None
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, update: Tensor, hidden_TD: Tensor) -> Tensor:
        """Updated states, ``(T, D)``."""
        update_TD = self.dropout(self.dense(update))
        if self.adapter is not None:
            update_TD = self.adapter(update_TD)
        return self.LayerNorm(update_TD + hidden_TD)


class AttentionBlock(nn.Module):
    """Self-attention and its residual."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Residual(config.hidden_size, config)

    def forward(self, hidden_TD: Tensor, lengths: Sequence[int], attend: Attention) -> Tensor:
        """Updated states, ``(T, D)``."""
        return self.output(self.self(hidden_TD, lengths, attend), hidden_TD)


class Intermediate(nn.Module):
    """First half of the feed-forward network."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        if isinstance(self.activation, nn.ReLU):
            self.activation.inplace = True

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """Activations, ``(T, F)``."""
        return self.activation(self.dense(hidden_TD))


class Layer(nn.Module):
    """One transformer layer, layer norm after each residual."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = AttentionBlock(config)
        self.intermediate = Intermediate(config)
        self.output = Residual(config.intermediate_size, config)

    def forward(self, hidden_TD: Tensor, lengths: Sequence[int], attend: Attention) -> Tensor:
        """Updated states, ``(T, D)``."""
        hidden_TD = self.attention(hidden_TD, lengths, attend)
        return self.output(self.intermediate(hidden_TD), hidden_TD)


class Stack(nn.Module):
    """The layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
