"""The independent side of the comparisons: `transformers`' BERT on padded batches, with seeded random weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import architecture_config

SMALL = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "hidden_act": "relu",
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def small_config(**changes) -> BertConfig:
    """A network small enough for hundreds of passes."""
    return BertConfig(**(SMALL | changes))


def shape_config(architecture: str, layers: int, vocab_size: int) -> BertConfig:
    """A published shape, cut to fewer layers."""
    config = architecture_config(architecture, vocab_size=vocab_size)
    config.num_hidden_layers = layers
    return config


def random_bert(config: BertConfig, seed: int = 0, attention: str = "eager") -> BertForMaskedLM:
    """BERT with no weight left at zero or one, so that a bias or a norm that is mixed up shows."""
    config._attn_implementation = attention
    torch.manual_seed(seed)
    bert = BertForMaskedLM(config).eval()
    with torch.no_grad():
        for name, weight in bert.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    return bert


def ours(bert: BertForMaskedLM) -> GeneformerForMaskedLM:
    """Our network with the same weights."""
    weights = bert.state_dict()
    model = GeneformerForMaskedLM(bert.config)
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval()


@dataclass(frozen=True)
class Cells:
    """The same cells packed for us and padded for BERT."""

    lengths: Sequence[int]
    input_ids: Tensor
    cu_seqlens: Tensor
    padded: Tensor
    attention_mask: Tensor

    def pack(self, values_BLX: Tensor) -> Tensor:
        """Rows of a padded result, without the padding."""
        return values_BLX[self.attention_mask.bool()]


def random_cells(lengths: Sequence[int], vocab_size: int, seed: int = 0) -> Cells:
    """Cells of random genes."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(2, vocab_size, (length,), generator=generator) for length in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    return Cells(lengths, torch.cat(rows), cu_seqlens, padded, mask)
