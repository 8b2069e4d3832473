"""Golden values of the published package, and the tiny checkpoints they were made with.

No weight file is stored: every weight follows from its own name.
"""

from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from transformers import BertConfig

from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import save_checkpoint
from geneformer.tokens.dataset import TokenizedDataset

GOLDEN = Path(__file__).parent / "data" / "golden"
SIZES = {"V1": (25_426, 2_048), "V2": (20_275, 4_096)}
SPECIALS = {"V1": (0, 1), "V2": (0, 1, 2, 3)}


def tiny_config(version: str) -> BertConfig:
    """BERT of three narrow layers over a published vocabulary."""
    vocabulary, positions = SIZES[version]
    return BertConfig(
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_act="relu",
        layer_norm_eps=1e-12,
        type_vocab_size=2,
        pad_token_id=0,
    )


def weight(name: str, shape: torch.Size) -> torch.Tensor:
    """The weight of that name."""
    scale = np.float32(0.3 if "embeddings" in name else 0.15)
    values = np.random.default_rng(crc32(name.encode())).standard_normal(tuple(shape), dtype=np.float32) * scale
    return torch.from_numpy(1 + values if name.endswith("LayerNorm.weight") else values)


def tiny_model(version: str) -> GeneformerForMaskedLM:
    """The network whose every weight follows from its name, in evaluation mode."""
    with torch.device("meta"):
        model = GeneformerForMaskedLM(tiny_config(version))
    weights = {name: weight(name, entry.shape) for name, entry in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def save_tiny_checkpoint(version: str, folder: Path) -> Path:
    """A checkpoint folder of the tiny network."""
    save_checkpoint(tiny_model(version), folder)
    return folder


def golden_table(name: str) -> pd.DataFrame:
    """One table of golden values."""
    return pd.read_parquet(GOLDEN / f"{name}.parquet")


def golden_tokens(version: str) -> TokenizedDataset:
    """The cells of the golden embeddings, in the order of the tables."""
    return TokenizedDataset(pq.read_table(GOLDEN / f"embedded_tokens_{version}.parquet"))
