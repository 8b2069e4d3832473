"""The published `training_args`: words of `transformers.TrainingArguments`, of old releases as well as of new ones."""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from geneformer.errors import GeneformerWarning, UnknownOptionError, UnsupportedArgumentError
from geneformer.options import RuntimeOptions
from geneformer.options._check import nearest
from geneformer.tasks.argument_training import logging_interval

BATCH_SIZE = 12
"""Cells in a batch of the published package."""

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}
"""Words of old releases, and what they are called since."""

UNNEEDED = (
    "do_train", "do_eval", "do_predict", "length_column_name", "label_names", "log_on_each_node",
    "overwrite_output_dir", "remove_unused_columns", "save_safetensors", "use_legacy_prediction_loop",
)  # fmt: skip
"""Words about things that are always so here; they are accepted and have nothing to do."""

REFUSED = {
    "activation_checkpointing": "Lower per_device_train_batch_size and raise gradient_accumulation_steps",
    "gradient_checkpointing": "Lower per_device_train_batch_size and raise gradient_accumulation_steps",
    "batch_eval_metrics": "Leave it out: metrics are summed up batch by batch",
    "deepspeed": "Leave it out",
    "fsdp": "Leave it out",
    "parallelism_config": "Leave it out",
    "neftune_noise_alpha": "Leave it out",
    "prediction_loss_only": "Leave it out: the metrics cost nothing",
    "torch_compile": "Leave it out",
    "use_liger_kernel": "Leave it out",
    "push_to_hub": "Upload the finished folder",
}
"""Words that cannot be honored, and what to do instead; their empty values are accepted."""


def published_arguments(
    given: Mapping[str, Any] | None, *, kind: str, n_layers: int, n_train: int, evaluate: bool
) -> dict[str, Any]:
    """The published defaults under what the user gave, in the words of the installed `transformers`.

    Parameters
    ----------
    given
        `training_args`.
    kind
        "cell" or "gene".
    n_layers
        Layers of the encoder; published defaults go by them.
    n_train
        Cells to learn from, for the interval of log lines.
    evaluate
        Whether there are cells to evaluate on.

    Warns
    -----
    GeneformerWarning
        `output_dir`, which the arguments of the method decide.

    Raises
    ------
    UnsupportedArgumentError
        A word that cannot be honored.
    UnknownOptionError
        A word that `transformers` does not have.
    """
    wanted = _renamed(given or {})
    arguments: dict[str, Any] = {
        "learning_rate": 5e-5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 500 if n_layers == 6 else 0,
        "weight_decay": 0.001,
        "num_train_epochs": 10 if kind == "cell" else 1,
        "per_device_train_batch_size": BATCH_SIZE,
        "per_device_eval_batch_size": BATCH_SIZE,
        "eval_strategy": "epoch" if kind == "cell" else "no",
        "save_strategy": "epoch",
        "load_best_model_at_end": kind == "cell",
    }
    if "eval_strategy" in wanted and "save_strategy" not in wanted and arguments["load_best_model_at_end"]:
        arguments["save_strategy"] = wanted["eval_strategy"]
        if "eval_steps" in wanted:
            arguments["save_steps"] = wanted["eval_steps"]
    if "warmup_ratio" in wanted:
        del arguments["warmup_steps"]
    arguments |= wanted
    if not evaluate or arguments["eval_strategy"] == "no":
        arguments |= {"eval_strategy": "no", "load_best_model_at_end": False}
    arguments.setdefault("logging_steps", logging_interval(n_train, arguments))
    return _installed(arguments)


def runtime_of(given: Mapping[str, Any] | None) -> RuntimeOptions:
    """Where training runs: on the accelerator if there is one, unless the arguments ask for the CPU."""
    on_cpu = bool(_renamed(given or {}).get("use_cpu", False))
    return RuntimeOptions(device="cpu" if on_cpu else "auto", dtype="float32", progress=False)


def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given under the names of today, without what has nothing to do."""
    wanted: dict[str, Any] = {}
    for name, value in given.items():
        if name == "output_dir":
            msg = f"training_args sets output_dir={value!r}; files go to the output_directory of the method instead."
            warnings.warn(msg, GeneformerWarning, stacklevel=4)
        elif name in REFUSED and value not in (None, False, "", [], {}):
            msg = f"training_args sets {name}={value!r}, which is not supported here. {REFUSED[name]}."
            raise UnsupportedArgumentError(msg)
        elif name not in UNNEEDED and name not in REFUSED:
            # The one old word that begins with "no_" asks for the CPU.
            wanted["use_cpu" if name.startswith("no_") else RENAMED.get(name, name)] = value
    return wanted


def _installed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments as the installed release calls them."""
    from transformers import TrainingArguments

    known = {field.name for field in fields(TrainingArguments)}
    if "group_by_length" in arguments and "group_by_length" not in known:
        by_length = arguments.pop("group_by_length")
        arguments.setdefault("train_sampling_strategy", "group_by_length" if by_length else "random")
    if arguments.get("train_sampling_strategy") == "batch_rebalance":
        msg = 'training_args sets train_sampling_strategy="batch_rebalance". Choose "random" or "group_by_length".'
        raise UnsupportedArgumentError(msg)
    if "warmup_ratio" in arguments and "warmup_ratio" not in known:
        arguments.setdefault("warmup_steps", arguments.pop("warmup_ratio"))
        arguments.pop("warmup_ratio", None)
    unknown = [name for name in arguments if name not in known]
    if unknown:
        msg = (
            f"training_args sets {unknown[0]!r}, which the installed transformers does not have."
            f"{nearest(unknown[0], known)}"
        )
        raise UnknownOptionError(msg)
    return arguments
