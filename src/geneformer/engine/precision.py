"""Arithmetic and attention kernel for a device."""

import torch

from geneformer.engine.device import has_fast_bfloat16, has_varlen_kernel


def resolve_dtype(requested: str, device: torch.device, *, training: bool = False) -> torch.dtype:
    """Data type of the matrix products.

    Parameters
    ----------
    requested
        "auto", "float32", "bfloat16" or "float16".
    device
        Where they run.
    training
        Training on a CPU stays in float32 unless told otherwise.
    """
    if requested != "auto":
        dtype: torch.dtype = getattr(torch, requested)
        return dtype
    if training and device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def resolve_attention(dtype: torch.dtype, device: torch.device) -> str:
    """Name of the attention kernel for arithmetic and device, outside training."""
    if dtype == torch.float32:
        return "sdpa"
    if device.type == "cpu":
        return "rounded"
    return "varlen" if has_varlen_kernel(device) else "sdpa"


def resolve_training_attention(dropout: float, device: torch.device) -> str:
    """Name of the attention kernel for training with some dropout on the attention weights."""
    return "blocked" if dropout and device.type == "cpu" else "sdpa"
