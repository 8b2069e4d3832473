"""Arguments of `transformers.TrainingArguments` by the names that scripts of any year call them.

Names come and go between releases of `transformers`: `evaluation_strategy` is `eval_strategy` since 4.46,
`group_by_length` is a choice of `train_sampling_strategy` since 5. Here they become those of the installed release.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any

from transformers import TrainingArguments

from geneformer.engine.device import KINDS
from geneformer.errors import GeneformerWarning

NAMES = frozenset(field.name for field in fields(TrainingArguments))
"""Arguments of the installed release."""

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}
"""Arguments of other releases that are only called otherwise."""

_TRANSLATED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "adafactor": lambda value: {"optim": "adafactor"} if value else {},
    "dispatch_batches": lambda value: {"accelerator_config": {"dispatch_batches": value}},
    "group_by_length": lambda value: {"train_sampling_strategy": "group_by_length" if value else "random"},
    "include_inputs_for_metrics": lambda value: {"include_for_metrics": ["inputs"]} if value else {},
    "split_batches": lambda value: {"accelerator_config": {"split_batches": bool(value)}},
    "train_sampling_strategy": lambda value: {"group_by_length": value == "group_by_length"},
    "warmup_ratio": lambda value: {"warmup_steps": value},  # below one it is a share of the steps
}
"""Arguments of other releases by what says the same."""

_GONE = frozenset(
    (
        "fp16_backend", "fp16_opt_level", "half_precision_backend", "jit_mode_eval", "mp_parameters",
        "overwrite_output_dir", "past_index", "ray_scope", "save_safetensors", "tpu_metrics_debug", "tpu_num_cores",
        "use_ipex", "use_legacy_prediction_loop",
    )
)  # fmt: skip
"""Arguments of other releases that have nothing to do in the installed one, unless it has them."""


# Two arguments named kinds of hardware: no_… asked for the CPU, use_…_device has nothing to do.
_NO_ACCELERATOR = frozenset(f"no_{kind}" for kind in KINDS)
_ACCELERATOR = frozenset(f"use_{kind}_device" for kind in KINDS)


def installed_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the installed release calls them; those that no release has are left as they are."""
    called = {name: "use_cpu" if name in _NO_ACCELERATOR else RENAMED.get(name, name) for name in given}
    chosen = {name: value for name, value in given.items() if name in NAMES and called[name] == name}
    for name, value in given.items():
        if called[name] != name:
            chosen.setdefault(called[name], value)
        elif name in NAMES or name in _GONE | _ACCELERATOR:
            continue
        elif name == "logging_dir":
            if value is not None:
                msg = (
                    f"logging_dir={value!r} is not an argument of the installed transformers. Set the environment "
                    "variable TENSORBOARD_LOGGING_DIR; logs are in the folder of the run otherwise."
                )
                warnings.warn(msg, GeneformerWarning, stacklevel=3)
        else:
            same = _TRANSLATED[name](value) if name in _TRANSLATED else {name: value}
            chosen = {**same, **chosen}
    return chosen


def accept_other_names() -> None:
    """Let `TrainingArguments` itself take the names of other releases, which published notebooks pass to it.

    Calls without such a name, which would be a `TypeError`, are as they were.
    """
    construct: Any = TrainingArguments.__init__
    if hasattr(construct, "__wrapped__"):
        return

    @wraps(construct)
    def take(self: TrainingArguments, *args: Any, **given: Any) -> None:
        construct(self, *args, **(given if given.keys() <= NAMES else installed_arguments(given)))

    TrainingArguments.__init__ = take  # type: ignore[method-assign]
