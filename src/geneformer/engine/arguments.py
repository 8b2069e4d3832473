"""Training arguments every task shares: device, arithmetic, trackers, silence."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from geneformer.engine.device import can_pin_memory, resolve_device
from geneformer.engine.placement import PlacedArguments
from geneformer.engine.precision import resolve_dtype
from geneformer.options import RuntimeOptions


def training_arguments(folder: Path, runtime: RuntimeOptions, **chosen: Any) -> PlacedArguments:
    """`TrainingArguments` for packed cells on the chosen device.

    Parameters
    ----------
    folder
        Training checkpoints and logs go here.
    runtime
        Device and arithmetic.
    **chosen
        Everything a task decides itself, in the words of `transformers.TrainingArguments`.
    """
    device = resolve_device(runtime.device)
    dtype = resolve_dtype(runtime.dtype, device, training=True)
    shared: dict[str, Any] = {
        "use_cpu": device.type == "cpu",
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "accelerator_config": {"even_batches": False},
        "report_to": ["tensorboard"] if find_spec("tensorboard") is not None else [],
        "dataloader_pin_memory": can_pin_memory(device),
    }
    return PlacedArguments(placed_on=str(device), output_dir=str(folder), **(shared | chosen))
