"""Run a network over tokenized cells: packed batches, as large as memory allows, every cell accounted for."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geneformer.engine.device import (
    memory_errors,
    release_memory,
    resolve_attention,
    resolve_device,
    resolve_dtype,
    safe_memory,
    verify_placement,
)
from geneformer.errors import DeviceMemoryError
from geneformer.files.progress import Progress
from geneformer.options import RuntimeOptions
from geneformer.tokens.dataset import TokenizedDataset, plan_batches

Ints = NDArray[np.int64]

_TOKENS_PER_THREAD = 2048
"""On a CPU: few enough for a core's cache, many enough to hide the interpreter."""

_LEAST_TOKENS = 8192
_MOST_TOKENS = 262_144
_BYTES_PER_HIDDEN = 48


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed cells on the device."""

    rows: Ints
    input_ids: Tensor
    cu_seqlens: Tensor
    attention: str


Step = Callable[[Batch], None]
"""What is done with a batch; it keeps its own results and must not keep any from a batch that failed."""


def run_batches(
    tokens: TokenizedDataset,
    network: nn.Module,
    step: Step,
    runtime: RuntimeOptions,
    *,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Call `step` on every cell once, longest cells first, without gradients."""
    device = resolve_device(runtime.device)
    dtype = resolve_dtype(runtime.dtype, device)
    network.to(device)
    verify_placement(network, device)
    attention = resolve_attention(dtype, device)
    lengths = tokens.lengths if max_length is None else np.minimum(tokens.lengths, max_length)
    budget = runtime.tokens_per_batch or tokens_that_fit(network, device)
    waiting = plan_batches(lengths, budget)[::-1]
    done = 0
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        while waiting:
            rows = waiting.pop()
            try:
                with memory_errors():
                    step(_load(tokens, rows, device, attention, max_length))
            except MemoryError as error:
                release_memory(device)
                if len(rows) == 1:
                    msg = f"A cell of {lengths[rows[0]]:,} tokens does not fit into the memory of {device}: {error}"
                    raise DeviceMemoryError(msg) from error
                budget = max(int(lengths[rows].sum()) // 2, 1)
                left = np.concatenate([rows, *waiting[::-1]])
                waiting = [left[batch] for batch in plan_batches(lengths[left], budget)][::-1]
                continue
            done += len(rows)
            if progress is not None:
                progress(done, len(tokens))


def _load(tokens: TokenizedDataset, rows: Ints, device: torch.device, attention: str, max_length: int | None) -> Batch:
    packed = tokens.gather(rows, max_length=max_length)
    return Batch(
        rows,
        torch.from_numpy(packed.input_ids).long().to(device),
        torch.from_numpy(packed.cu_seqlens).to(device),
        attention,
    )


def tokens_that_fit(network: nn.Module, device: torch.device) -> int:
    """Tokens of one batch by the memory that is free; on a CPU, as many as its caches like."""
    if device.type == "cpu":
        return _TOKENS_PER_THREAD * torch.get_num_threads()
    memory = safe_memory(device)
    if memory is None:
        return _LEAST_TOKENS
    return int(np.clip(memory // bytes_per_token(network), _LEAST_TOKENS, _MOST_TOKENS))


def bytes_per_token(network: nn.Module) -> int:
    """Memory that a forward pass without gradients takes per token of a batch, about."""
    # Linear layers alone: embeddings do not widen the states.
    shapes = (module.weight.shape for module in network.modules() if isinstance(module, nn.Linear))
    return max(map(max, shapes), default=1) * _BYTES_PER_HIDDEN
