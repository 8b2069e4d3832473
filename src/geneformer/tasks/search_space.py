"""Training options to search: ranges and choices, checked before the first trial."""

import dataclasses
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from geneformer.errors import OptionError, UnknownOptionError
from geneformer.options._check import nearest

BELONGS = {
    "freeze_layers": "full",
    "adapter_size": "adapters",
    "lora_rank": "lora",
    "lora_alpha": "lora",
    "lora_dropout": "lora",
    "bits": "lora",
}
"""Options that have a meaning with one strategy only."""

_RANGE = ("low", "high", "log", "step")


class Trial(Protocol):
    """Draws values; a trial of Optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number."""
        ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Choices:
    """One of several values.

    Attributes
    ----------
    values
        The values.
    """

    values: tuple[Any, ...]

    def draw(self, name: str, trial: Trial) -> Any:
        """One of them."""
        return trial.suggest_categorical(name, list(self.values))


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two.

    Attributes
    ----------
    low, high
        The least and the largest, both included.
    log
        Draw the logarithm evenly.
    step
        Distance of neighbors; None for any number, which for whole ones is 1.
    whole
        Whole numbers only.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def draw(self, name: str, trial: Trial) -> Any:
        """One of them."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


Space = dict[str, Choices | Range]
"""What is searched, by option."""


def default_space(n_layers: int) -> dict[str, Any]:
    """The published ranges of learning rate, decay, schedule, warm-up and seed, and up to half of the layers frozen.

    Parameters
    ----------
    n_layers
        Layers of the encoder.
    """
    return {
        "learning_rate": {"low": 1e-6, "high": 1e-3, "log": True},
        "weight_decay": {"low": 0.0, "high": 0.3},
        "schedule": ["linear", "cosine", "polynomial"],
        "warmup_ratio": {"low": 0.0, "high": 0.2},
        "freeze_layers": {"low": 0, "high": n_layers // 2},
        "seed": {"low": 0, "high": 100},
    }


def check_space(table: Mapping[str, Any], options: Sequence[Any], fixed: Collection[str] = ()) -> Space:
    """Ranges and choices that the options take, those of the strategy first.

    Parameters
    ----------
    table
        By option: a list of values to choose from, or a table with `low`, `high` and, if wanted, `log` and `step`.
    options
        Options objects whose fields can be searched.
    fixed
        Options that cannot: they decide which cells are measured, or where.

    Raises
    ------
    UnknownOptionError
        An option that does not exist.
    OptionError
        An empty range or choice, or values that the option does not take.

    Examples
    --------
    >>> from geneformer.options import FinetuneOptions
    >>> from geneformer.tasks.search_space import check_space
    >>> check_space({"freeze_layers": {"low": 0, "high": 3}}, [FinetuneOptions()])
    {'freeze_layers': Range(low=0, high=3, log=False, step=None, whole=True)}
    """
    fields = [(field.name, entry) for entry in options for field in dataclasses.fields(entry)]
    owners = {name: entry for name, entry in fields if name not in fixed}
    if not table:
        msg = f"The space names no option to search. Options are {', '.join(owners)}."
        raise OptionError(msg)
    space: Space = {}
    for name, entry in sorted(table.items(), key=lambda item: item[0] != "strategy"):
        if name not in owners:
            _refuse_name(name, list(owners), fixed)
        space[name] = _dimension(name, entry, owners[name])
    return space


def draw_options(space: Space, trial: Trial, options: Sequence[Any]) -> dict[str, Any]:
    """Options for a trial; those without a meaning under the strategy drawn are not drawn.

    Parameters
    ----------
    space
        What is searched.
    trial
        Draws the values.
    options
        Options objects that hold for everything else.
    """
    base = {field.name: getattr(entry, field.name) for entry in options for field in dataclasses.fields(entry)}
    usual = {field.name: field.default for entry in options for field in dataclasses.fields(entry)}
    chosen: dict[str, Any] = {}
    for name, dimension in space.items():
        strategy = chosen.get("strategy", base.get("strategy"))
        if BELONGS.get(name, strategy) == strategy:
            chosen[name] = dimension.draw(name, trial)
    if "strategy" in chosen:  # what was set for another strategy would be refused with this one
        for name, owner in BELONGS.items():
            if name in base and owner != chosen["strategy"] and base[name] != usual[name]:
                chosen[name] = usual[name]
    return chosen


def _refuse_name(name: str, known: list[str], fixed: Collection[str]) -> None:
    if name in fixed:
        msg = (
            f"{name!r} cannot be searched: it decides which cells are measured, or where. Trials are compared on the "
            f"same cells. Options to search are {', '.join(known)}."
        )
        raise OptionError(msg)
    msg = f"The space names {name!r}, which is not an option. Options are {', '.join(known)}.{nearest(name, known)}"
    raise UnknownOptionError(msg)


def _dimension(name: str, entry: Any, options: Any) -> Choices | Range:
    kinds, optional = _kinds(get_type_hints(type(options))[name])
    if isinstance(entry, (list, tuple)):
        if not entry:
            msg = f"The choices of {name} are empty. List at least one value."
            raise OptionError(msg)
        values = tuple(_value(name, value, kinds, optional, options) for value in entry)
        return Choices(values)
    if not isinstance(entry, Mapping):
        msg = (
            f"The space sets {name}={entry!r}. It takes a list of choices, or a table with low and high; an option "
            "that stays as it is belongs to the estimator."
        )
        raise OptionError(msg)
    return _range(name, entry, kinds, options)


def _range(name: str, entry: Mapping[Any, Any], kinds: tuple[type, ...], options: Any) -> Range:
    unknown = [key for key in entry if key not in _RANGE]
    if unknown:
        msg = f"The range of {name} sets {unknown[0]!r}. It takes {', '.join(_RANGE)}.{nearest(unknown[0], _RANGE)}"
        raise OptionError(msg)
    if kinds not in ((int,), (float,)):
        msg = f"{name} is no number, so it has no range. List its choices: {name}=[…]."
        raise OptionError(msg)
    if not {"low", "high"} <= set(entry):
        msg = f"The range of {name} is {dict(entry)}. It takes both low and high."
        raise OptionError(msg)
    low, high = (_value(name, entry[end], kinds, False, options) for end in ("low", "high"))
    log: Any = entry.get("log", False)
    step: Any = entry.get("step")
    if low > high:
        msg = f"The range of {name} is empty: low={low} is more than high={high}."
        raise OptionError(msg)
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        found = f"log={log!r}, low={low} and step={step}"
        msg = f"The range of {name} sets {found}. With log=true, low is above 0 and there is no step."
        raise OptionError(msg)
    whole = kinds == (int,)
    if step is not None and (type(step) not in (*kinds, int) or step <= 0):
        msg = f"The range of {name} sets step={step!r}. It takes a {'whole ' if whole else ''}number above 0."
        raise OptionError(msg)
    return Range(low, high, log, step, whole)


def _kinds(wanted: Any) -> tuple[tuple[type, ...], bool]:
    """Types of the values an option takes, and whether None is one."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        kinds = _kinds(next(kind for kind in inner if kind is not type(None)))[0]
        return kinds, type(None) in inner
    if origin is Literal:
        return tuple({type(choice) for choice in inner}), False
    return (wanted,) if isinstance(wanted, type) else (), False


def _value(name: str, value: Any, kinds: tuple[type, ...], optional: bool, options: Any) -> Any:
    """The value, if the option takes it."""
    if value is None and optional:
        return None
    if kinds == (float,) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) not in kinds:
        found = " or ".join(kind.__name__ for kind in kinds) or "values that cannot be searched"
        msg = f"The space sets {name}={value!r}, of type {type(value).__name__}. It takes {found}."
        raise OptionError(msg)
    dataclasses.replace(options, **{name: value})
    return value
