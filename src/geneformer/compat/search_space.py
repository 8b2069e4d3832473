"""Search spaces of published scripts, as distributions of Optuna."""

from collections.abc import Mapping, Sequence
from typing import Any

from geneformer.errors import OptionError, UnsupportedArgumentError
from geneformer.files import require

INTEGERS = (
    "warmup_steps", "seed", "data_seed", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
)  # fmt: skip
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
    space = DEFAULT if space is None else space
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
    integer, log, step = name in INTEGERS, name == "learning_rate", None
    if isinstance(entry, tuple) and len(entry) == 2:
        low, high = entry
    else:
        low, high, log, step = _tune_range(name, entry)
        integer = integer or _is_integer(entry)
    are_numbers = all(isinstance(end, int | float) and abs(end) != float("inf") for end in (low, high))
    if not are_numbers or low > high or (log and low <= 0):
        msg = f"ray_config sets {name} from {low!r} to {high!r}. It takes two finite numbers, the lower one first."
        raise OptionError(msg)
    return distribution("int" if integer else "float", low=low, high=high, log=log, step=None if log else step)


def _tune_range(name: str, domain: Any) -> tuple[Any, Any, bool, Any]:
    """Ends of a range of `ray.tune`, whether it is logarithmic, and its step."""
    if not (hasattr(domain, "lower") and hasattr(domain, "upper")):
        msg = (
            f"ray_config sets {name}={domain!r}, which is not supported. Give a list of choices, a pair (low, high), "
            "or tune.choice, tune.uniform, tune.loguniform, tune.randint or their quantized forms."
        )
        raise UnsupportedArgumentError(msg)
    sampler = getattr(domain, "sampler", None)
    step = getattr(sampler, "q", None)
    kind = type(sampler if step is None else getattr(sampler, "sampler", None)).__name__.lower()
    if "normal" in kind:
        msg = f"ray_config sets {name} to a normal distribution, which is not supported. Use tune.uniform."
        raise UnsupportedArgumentError(msg)
    # The upper end of whole numbers is not drawn, unless they are quantized.
    high = domain.upper - 1 if _is_integer(domain) and step is None else domain.upper
    return domain.lower, high, "log" in kind, step


def _is_integer(domain: Any) -> bool:
    return type(domain).__name__ == "Integer"


def distribution(
    kind: str, *, choices: Sequence[Any] = (), low: float = 0, high: float = 0, log: bool = False, step: Any = None
) -> Any:
    """One of Optuna's distributions: "categorical" with choices; "int" or "float" from low to high."""
    distributions = require("optuna", "A search", extra="train").distributions
    if kind == "categorical":
        return distributions.CategoricalDistribution(list(choices))
    if kind == "float":
        return distributions.FloatDistribution(low, high, log=bool(log), step=step)
    return distributions.IntDistribution(round(low), round(high), log=bool(log), step=max(round(step or 1), 1))
