"""The encoder: BERT's parameters, written over packed tokens.

Parameter names are those of `transformers`' BERT, so that published checkpoints load as they are and saved ones open
there. Cells lie end to end, so no operation ever touches padding. Relative positions, a window and adapters come on
top where the configuration asks for them. On CPUs, where no gradient is needed, layers run a faster way
(`run_layers_fast`).

Axes: ``B`` cells, ``T`` packed tokens, ``D`` hidden, ``H`` heads, ``K`` head size, ``F`` feed-forward; of the
faster way ``R >= T`` rows, ``S`` rows of a stretch, ``E = 3 D``.
"""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, PreTrainedModel
from transformers.activations import ACT2FN

from geneformer.errors import PairingError
from geneformer.files.atomic import atomic_file
from geneformer.models.attention import KERNELS, Attention, equal_length_runs, relative, windowed

RELATIVE_CLIP = "geneformer_relative_clip"
"""Distance at which relative positions are clipped; above zero they take the place of absolute ones."""

ATTENTION_WINDOW = "geneformer_attention_window"
"""Genes on either side that a gene attends to."""

ADAPTER_SIZE = "geneformer_adapter_size"
"""Width of the bottleneck adapters in every layer."""

EXTENSIONS = (RELATIVE_CLIP, ATTENTION_WINDOW, ADAPTER_SIZE)

MODEL_TYPE = "geneformer"
"""Model type in the `config.json` of an extended encoder; `transformers` would take "bert" without a warning."""


def extension(config: BertConfig, name: str) -> int:
    """Size of an extension; zero where the encoder does without it."""
    return int(getattr(config, name, 0) or 0)


def has_plain_attention(config: BertConfig) -> bool:
    """Whether positions are absolute and every token attends to its whole cell."""
    return not any(extension(config, name) for name in (RELATIVE_CLIP, ATTENTION_WINDOW))


def is_plain_bert(config: BertConfig) -> bool:
    """Whether `transformers`' BERT computes the same from the same weights."""
    return not any(extension(config, name) for name in EXTENSIONS)


def describe_extensions(config: BertConfig) -> str:
    """The extensions an encoder has, as ``name=size`` for messages."""
    return ", ".join(f"{name}={extension(config, name)}" for name in EXTENSIONS if extension(config, name))


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
    """Contextual gene embeddings of packed cells."""

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
        self,
        input_ids_T: Tensor,
        cu_seqlens: Tensor,
        *,
        layer: int = 0,
        attention: str | Attention = "sdpa",
        states_TD: Tensor | None = None,
        start: int = 0,
    ) -> Tensor:
        """States of all tokens after one layer, ``(T, D)``; layers above it are not computed, nor those below `start`.

        `cu_seqlens` says where each cell starts, and the total, ``(B + 1,)``. `layer` counts back from the output: 0 is
        the last, -1 the one before it. `attention` is the name of a kernel or a function like one; layers with relative
        positions or a window use their own kernels instead of a named one, and refuse a function. `states_TD` are the
        states that the first `start` layers came to, which are not computed again then.
        """
        n_layers = self.layers_below(layer)
        lengths: list[int] = torch.diff(cu_seqlens).tolist()
        hidden_TD = self.embed_tokens(input_ids_T, cu_seqlens) if states_TD is None else states_TD
        return self.run_layers(hidden_TD, lengths, start=start, stop=n_layers, attention=attention)

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
        """States after layers `start` to `stop`, ``(T, D)``; those given may be overwritten where nothing records."""
        attend = KERNELS[attention] if isinstance(attention, str) else attention
        if not has_plain_attention(self.config) and attend not in KERNELS.values():
            msg = (
                f"This encoder has attention of its own ({describe_extensions(self.config)}), which no function from "
                "outside can stand in for. Attention weights can be read from encoders with absolute positions and no "
                "window."
            )
            raise PairingError(msg)
        if not len(hidden_TD):
            return hidden_TD
        blocks = cast("list[Layer]", list(self.encoder.layer[start:stop]))
        if runs_fast(blocks, hidden_TD):
            return run_layers_fast(blocks, hidden_TD, lengths, attend)
        for block in blocks:
            hidden_TD = block(hidden_TD, lengths, attend)
        return hidden_TD


def cell_of(cu_seqlens: Tensor, n_tokens: int) -> Tensor:
    """Cell of every token, ``(T,)``."""
    lengths = torch.diff(cu_seqlens)
    return torch.repeat_interleave(torch.arange(len(lengths), device=cu_seqlens.device), lengths, output_size=n_tokens)


def write_config(
    config: BertConfig, folder: Path, dtype: torch.dtype = torch.float32, *, architecture: str = "BertForMaskedLM"
) -> None:
    """Write `config.json`; plain BERT under the architecture name `transformers` knows."""
    plain = is_plain_bert(config)
    config.architectures = [architecture if plain else architecture.replace("Bert", "Geneformer", 1)]
    content = config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
    if not plain:
        content["model_type"] = MODEL_TYPE
    with atomic_file(folder / "config.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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


RANK_SCALE = 100
"""Rank at which a gene weighs half as much as the first one."""


def rank_weights(is_gene_T: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Weight of every token in its cell, ``(T,)``: 1 / (1 + rank / 100) for genes, 0 for special tokens."""
    before = nn.functional.pad(is_gene_T.cumsum(0), (1, 0))
    rank_T = before[:-1] - before[cu_seqlens[:-1]][cell_of(cu_seqlens, len(is_gene_T))]
    return is_gene_T / (1 + rank_T / RANK_SCALE)


def pool_cells(hidden_TD: Tensor, input_ids_T: Tensor, cu_seqlens: Tensor, special: Tensor, pooling: str) -> Tensor:
    """One vector per cell in float32, ``(B, D)``: "mean" over its genes, by "rank", or the state of "cls"."""
    if pooling == "cls":
        return hidden_TD[cu_seqlens[:-1]].float()
    if pooling == "mean":
        return mean_over_genes(hidden_TD, input_ids_T, cu_seqlens, special)
    weights_T = rank_weights(~torch.isin(input_ids_T, special), cu_seqlens)
    cells_T, n_cells = cell_of(cu_seqlens, len(hidden_TD)), len(cu_seqlens) - 1
    sums_BD = hidden_TD.new_zeros((n_cells, hidden_TD.shape[1]), dtype=torch.float32)
    sums_BD = sums_BD.index_add(0, cells_T, hidden_TD.float() * weights_T[:, None])
    totals_B = weights_T.new_zeros(n_cells).index_add(0, cells_T, weights_T)
    return sums_BD / totals_B.clamp(min=torch.finfo(totals_B.dtype).tiny)[:, None]


def mean_pool(hidden_TD: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Mean over the tokens of each cell, in float32, ``(B, D)``; empty cells give zeros."""
    lengths, cells_T = torch.diff(cu_seqlens), cell_of(cu_seqlens, len(hidden_TD))
    sums_BD = hidden_TD.new_zeros((len(lengths), hidden_TD.shape[1]), dtype=torch.float32)
    sums_BD = sums_BD.index_add(0, cells_T, hidden_TD.float())
    return sums_BD / lengths.clamp(min=1).unsqueeze(1)


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


_STRETCH = 1024
"""Rows of the faster way that stay in a CPU's cache."""

_STEP = 256
"""In half precision stretches have one of few sizes: every new size of a product takes time and memory to prepare."""


def runs_fast(layers: Iterable[Layer], hidden_TD: Tensor) -> bool:
    """Whether layers can run this way: nothing records, drops, was put into them or listens to them."""
    return (
        torch.is_inference_mode_enabled()
        and hidden_TD.device.type == "cpu"
        and hidden_TD.dtype == torch.float32
        and all(_is_plain(layer) for layer in layers)
    )


def _is_plain(layer: Layer) -> bool:
    block, projections = layer.attention, layer.attention.self
    dense = (
        *(projections.query, projections.key, projections.value),
        *(block.output.dense, layer.intermediate.dense, layer.output.dense),
    )
    return (
        not layer.training
        and all(type(module) is nn.Linear for module in dense)
        and block.output.adapter is None
        and layer.output.adapter is None
        and not any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())
    )


def run_layers_fast(layers: Iterable[Layer], hidden_TD: Tensor, lengths: Sequence[int], attend: Attention) -> Tensor:
    """States after some layers, ``(T, D)``: the same numbers as theirs with fewer passes over memory.

    Queries, keys and values come from one product, residuals are added in place, and what follows attention runs over
    stretches of rows.
    """
    dtype = products_dtype(hidden_TD)
    n_tokens = len(hidden_TD)
    hidden_RD = hidden_TD if dtype == hidden_TD.dtype else _with_rows(hidden_TD, -(-n_tokens // _STEP) * _STEP)
    with torch.autocast("cpu", enabled=False):
        for layer in layers:
            query_THK, key_THK, value_THK = _project_at_once(layer.attention.self, hidden_RD.to(dtype), n_tokens)
            kernel = layer.attention.self.kernel(attend, lengths)
            context_TD = kernel(query_THK, key_THK, value_THK, lengths, 0.0).flatten(1)
            _finish_in_place(layer, hidden_RD, _with_rows(context_TD, len(hidden_RD)))
    return hidden_RD[:n_tokens]


def finish_layer_fast(layer: Layer, hidden_TD: Tensor, context_TD: Tensor) -> Tensor:
    """States after one layer whose attention was computed already, ``(T, D)``; overwrites those that go in."""
    n_tokens = len(hidden_TD)
    half = context_TD.dtype != hidden_TD.dtype
    hidden_RD = _with_rows(hidden_TD, -(-n_tokens // _STEP) * _STEP) if half else hidden_TD
    with torch.autocast("cpu", enabled=False):
        _finish_in_place(layer, hidden_RD, _with_rows(context_TD, len(hidden_RD)))
    return hidden_RD[:n_tokens]


def products_dtype(hidden_TD: Tensor) -> torch.dtype:
    """Precision of matrix products where these states are computed with."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_TD.dtype


def _with_rows(x_TD: Tensor, n_rows: int) -> Tensor:
    """With rows of zeros below."""
    return functional.pad(x_TD, (0, 0, 0, n_rows - len(x_TD))) if n_rows > len(x_TD) else x_TD


def _project_at_once(projections: SelfAttention, states_RD: Tensor, n_tokens: int) -> Iterable[Tensor]:
    """Queries, keys and values of all tokens, ``(T, H, K)`` each."""
    dense = (projections.query, projections.key, projections.value)
    weight_ED = torch.cat([module.weight for module in dense]).to(states_RD.dtype)
    bias_E = torch.cat([module.bias for module in dense]).to(states_RD.dtype)
    all_RE = states_RD.new_empty((len(states_RD), len(weight_ED)))
    for states_SD, all_SE in zip(states_RD.split(_STRETCH), all_RE.split(_STRETCH), strict=True):
        torch.addmm(bias_E, states_SD, weight_ED.T, out=all_SE)
    return all_RE[:n_tokens].unflatten(1, (3, projections.n_heads, -1)).unbind(1)


def _finish_in_place(layer: Layer, hidden_RD: Tensor, context_RD: Tensor) -> None:
    """What follows attention, in place."""
    parts = layer.attention.output, layer.intermediate, layer.output
    first, wide, last = parts
    dtype = context_RD.dtype
    weights = [part.dense.weight.to(dtype).T for part in parts]
    biases = [part.dense.bias.to(dtype) for part in parts]
    for hidden_SD, context_SD in zip(hidden_RD.split(_STRETCH), context_RD.split(_STRETCH), strict=True):
        middle_SD = _residual(first, context_SD, weights[0], biases[0], hidden_SD)
        activations = wide.activation(torch.addmm(biases[1], middle_SD.to(dtype), weights[1]))
        hidden_SD.copy_(_residual(last, activations, weights[2], biases[2], middle_SD))


def _residual(residual: Residual, update: Tensor, weight: Tensor, bias: Tensor, hidden_SD: Tensor) -> Tensor:
    """Dense, residual, layer norm; overwrites the states it gets."""
    return residual.LayerNorm(hidden_SD.add_(torch.addmm(bias, update, weight)))


def first_token_states(layer: Layer, hidden_TD: Tensor, lengths: Sequence[int]) -> Tensor:
    """States of the first token of each cell after one more layer, ``(B, D)``."""
    projections = layer.attention.self
    starts = torch.tensor([0, *lengths[:-1]], device=hidden_TD.device).cumsum(0)
    first_BD = hidden_TD[starts]
    query_BHK, key_THK, value_THK = (
        project(x).unflatten(-1, (projections.n_heads, -1))
        for project, x in (
            (projections.query, first_BD),
            (projections.key, hidden_TD),
            (projections.value, hidden_TD),
        )
    )
    contexts, token, cell = [], 0, 0
    for cells, length in equal_length_runs(lengths):
        query = query_BHK[cell : cell + cells].unsqueeze(2)
        key, value = (
            x[token : token + cells * length].unflatten(0, (cells, length)).transpose(1, 2)
            for x in (key_THK, value_THK)
        )
        contexts.append(functional.scaled_dot_product_attention(query, key, value).squeeze(2))
        token, cell = token + cells * length, cell + cells
    middle_BD = layer.attention.output(torch.cat(contexts).flatten(1), first_BD)
    states_BD: Tensor = layer.output(layer.intermediate(middle_BD), middle_BD)
    return states_BD
