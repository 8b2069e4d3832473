"""Published search spaces: lists, pairs and domains of Ray Tune, told by their attributes and drawn by Optuna."""

from collections.abc import Mapping
from typing import Any

from geneformer.compat.classification.training_arguments import BATCH_SIZE
from geneformer.errors import OptionError, UnsupportedArgumentError

LOGARITHMIC = ("learning_rate",)
"""Words whose pairs are drawn by their logarithm."""

WHOLE = ("warmup_steps", "seed", "data_seed", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps")
"""Words that take whole numbers."""

DEFAULT: dict[str, Any] = {
    "num_train_epochs": [1],
    "learning_rate": (1e-6, 1e-3),
    "weight_decay": (0.0, 0.3),
    "lr_scheduler_type": ["linear", "cosine", "polynomial"],
    "warmup_steps": (100, 2000),
    "seed": (0, 100),
    "per_device_train_batch_size": [BATCH_SIZE],
}
"""The published space."""


def checked_space(space: Any) -> dict[str, Any]:
    """The space as given, or the published one for None.

    Raises
    ------
    OptionError
        No dictionary, or an empty one.
    UnsupportedArgumentError
        An entry that is none of the forms known.
    """
    if space is None:
        return dict(DEFAULT)
    if not isinstance(space, Mapping) or not space:
        msg = f"ray_config={space!r} takes a dictionary: a list of choices, a pair (low, high), or a domain by name."
        raise OptionError(msg)
    for name, entry in space.items():
        _described(name, entry)
    return dict(space)


def draw(trial: Any, space: Mapping[str, Any]) -> dict[str, Any]:
    """One value of every entry, asked from a trial of Optuna.

    Parameters
    ----------
    trial
        Trial of Optuna.
    space
        As `checked_space` gave it.
    """
    return {name: _drawn(trial, name, *_described(name, entry)) for name, entry in space.items()}


def _described(name: str, entry: Any) -> tuple[list[Any] | None, dict[str, Any]]:
    """Choices, or a range."""
    if isinstance(entry, list):
        return _choices(name, entry), {}
    if isinstance(entry, Mapping) and set(entry) == {"grid_search"}:
        return _choices(name, list(entry["grid_search"])), {}
    if hasattr(entry, "categories"):
        return _choices(name, list(entry.categories)), {}
    if isinstance(entry, tuple) and len(entry) == 2:
        return None, _range(name, *entry, log=name in LOGARITHMIC)
    if hasattr(entry, "lower") and hasattr(entry, "upper"):
        return None, _domain(name, entry)
    if isinstance(entry, str | int | float | bool):
        return [entry], {}
    msg = (
        f"ray_config sets {name}={entry!r}, which is not supported. Give a list of choices, a pair (low, high), or "
        "tune.choice, tune.uniform, tune.loguniform, tune.randint or their quantized forms."
    )
    raise UnsupportedArgumentError(msg)


def _choices(name: str, choices: list[Any]) -> list[Any]:
    if not choices:
        msg = f"ray_config lists no choice for {name}."
        raise OptionError(msg)
    return choices


def _domain(name: str, entry: Any) -> dict[str, Any]:
    """Range of a numeric domain of Ray Tune."""
    sampler: Any = getattr(entry, "sampler", None)
    step = None
    if hasattr(sampler, "q"):
        sampler, step = getattr(sampler, "sampler", None), sampler.q
    kind = type(sampler).__name__.lower()
    if "normal" in kind:
        msg = f"ray_config sets {name} to a normal distribution, which is not supported. Use tune.uniform."
        raise UnsupportedArgumentError(msg)
    whole = type(entry).__name__ == "Integer"
    high = entry.upper - 1 if whole and step is None else entry.upper
    return _range(name, entry.lower, high, log="log" in kind, step=step, whole=whole)


def _range(name: str, low: Any, high: Any, *, log: bool, step: Any = None, whole: bool = False) -> dict[str, Any]:
    numbers = all(isinstance(end, int | float) and abs(end) != float("inf") for end in (low, high))
    if not numbers or low > high or (log and low <= 0):
        msg = f"ray_config sets {name} from {low!r} to {high!r}. It takes two finite numbers, the lower one first."
        raise OptionError(msg)
    return {"low": low, "high": high, "log": log, "step": step, "whole": whole or name in WHOLE}


def _drawn(trial: Any, name: str, choices: list[Any] | None, span: dict[str, Any]) -> Any:
    if choices is not None:
        return trial.suggest_categorical(name, choices)
    step = None if span["log"] else span["step"]  # Optuna takes one or the other
    if span["whole"]:
        by = 1 if step is None else max(round(step), 1)
        return trial.suggest_int(name, round(span["low"]), round(span["high"]), log=span["log"], step=by)
    return trial.suggest_float(name, span["low"], span["high"], log=span["log"], step=step)
