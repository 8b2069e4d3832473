"""Search spaces of published scripts, as distributions of Optuna."""

from collections.abc import Mapping
from typing import Any

from geneformer.errors import OptionError, UnsupportedArgumentError
from geneformer.files import require

INTEGERS = (
    "warmup_steps",
    "seed",
    "data_seed",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)
"""Training arguments that take integers."""

DEFAULT: dict[str, Any] = {
    "num_train_epochs": [1],
    "learning_rate": (1e-6, 1e-3),
    "weight_decay": (0.0, 0.3),
    "lr_scheduler_type": ["linear", "cosine", "polynomial"],
    "warmup_steps": (100, 2000),
    "seed": (0, 100),
    "per_device_train_batch_size": [12],
}
"""The published space of `Classifier`."""


def read_ray_space(space: Any) -> dict[str, Any]:
    """Distributions for `ray_config`, or those of the published space for None."""
    if space is None:
        space = DEFAULT
    if not isinstance(space, Mapping) or not space:
        msg = f"ray_config={space!r} takes a dictionary: a list of choices, a pair (low, high), or a domain by name."
        raise OptionError(msg)
    return {name: _ray_distribution(name, entry) for name, entry in space.items()}


def _ray_distribution(name: str, entry: Any) -> Any:
    """Lists are choices, pairs are ranges; domains of `ray.tune` are recognized by their attributes."""
    if isinstance(entry, Mapping) and set(entry) == {"grid_search"}:
        entry = list(entry["grid_search"])
    elif hasattr(entry, "categories"):
        entry = list(entry.categories)
    elif isinstance(entry, str | int | float | bool):
        entry = [entry]
    if isinstance(entry, list):
        if not entry:
            msg = f"ray_config lists no choice for {name}."
            raise OptionError(msg)
        return distribution("categorical", choices=entry)
    if isinstance(entry, tuple) and len(entry) == 2:
        return _ray_range(name, *entry, log=name == "learning_rate", integer=name in INTEGERS)
    if not (hasattr(entry, "lower") and hasattr(entry, "upper")):
        msg = (
            f"ray_config sets {name}={entry!r}, which is not supported. Give a list of choices, a pair (low, high), or "
            "tune.choice, tune.uniform, tune.loguniform, tune.randint or their quantized forms."
        )
        raise UnsupportedArgumentError(msg)
    sampler: Any = getattr(entry, "sampler", None)
    step = getattr(sampler, "q", None)
    if step is not None:
        sampler = getattr(sampler, "sampler", None)
    kind = type(sampler).__name__.lower()
    if "normal" in kind:
        msg = f"ray_config sets {name} to a normal distribution, which is not supported. Use tune.uniform."
        raise UnsupportedArgumentError(msg)
    is_integer = type(entry).__name__ == "Integer"  # whose upper end is not drawn, unless it is quantized
    high = entry.upper - 1 if is_integer and step is None else entry.upper
    return _ray_range(name, entry.lower, high, log="log" in kind, step=step, integer=is_integer or name in INTEGERS)


def _ray_range(name: str, low: Any, high: Any, *, log: bool, integer: bool, step: Any = None) -> Any:
    are_numbers = all(isinstance(end, int | float) and abs(end) != float("inf") for end in (low, high))
    if not are_numbers or low > high or (log and low <= 0):
        msg = f"ray_config sets {name} from {low!r} to {high!r}. It takes two finite numbers, the lower one first."
        raise OptionError(msg)
    return distribution("int" if integer else "float", low=low, high=high, log=log, step=None if log else step)


def distribution(kind: str, **settings: Any) -> Any:
    """A distribution: "categorical" with `choices`; "int" or "float" with `low`, `high`, and `log` or `step`."""
    distributions = require("optuna", "A search", extra="train").distributions
    if kind == "categorical":
        return distributions.CategoricalDistribution(list(settings["choices"]))
    low, high, log, step = settings["low"], settings["high"], bool(settings.get("log")), settings.get("step")
    if kind == "float":
        return distributions.FloatDistribution(low, high, log=log, step=step)
    return distributions.IntDistribution(round(low), round(high), log=log, step=max(round(step or 1), 1))
