"""Hyperparameters of the multi-task classifier: published names and ranges, checked, and what they mean here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from geneformer.errors import OptionError, UnknownOptionError
from geneformer.options import FinetuneOptions
from geneformer.options._check import check_choice, check_range, nearest, whole_number

SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
    "warmup_ratio": {"type": "float", "low": 0.005, "high": 0.01},
    "weight_decay": {"type": "float", "low": 0.01, "high": 0.1},
    "dropout_rate": {"type": "float", "low": 0.0, "high": 0.7},
    "lr_scheduler_type": {"type": "categorical", "choices": ["cosine"]},
    "task_weights": {"type": "float", "low": 0.1, "high": 2.0},
}
"""What a study draws from by default."""

FREEZE, POOLING, WEIGHTS = "max_layers_to_freeze", "use_attention_pooling", "task_weights"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """How one network is trained; names and defaults of the published manual run.

    Attributes
    ----------
    learning_rate, warmup_ratio, weight_decay, lr_scheduler_type
        Of AdamW.
    dropout_rate
        Before the heads.
    use_attention_pooling
        A learnt weighting of the tokens of a cell, or its first token.
    task_weights
        Weight of each task's loss.
    max_layers_to_freeze
        Lowest encoder layers that stay as they are.
    """

    learning_rate: float = 0.001
    warmup_ratio: float = 0.01
    weight_decay: float = 0.1
    dropout_rate: float = 0.1
    lr_scheduler_type: str = "cosine"
    use_attention_pooling: bool = False
    task_weights: tuple[float, ...] = ()
    max_layers_to_freeze: int = 2

    def __post_init__(self) -> None:
        check_choice("lr_scheduler_type", self.lr_scheduler_type, ("cosine", "linear"))
        check_choice(POOLING, self.use_attention_pooling, (True, False))
        check_range("learning_rate", self.learning_rate, above=0.0)
        check_range("warmup_ratio", self.warmup_ratio, low=0.0, high=1.0)
        check_range("weight_decay", self.weight_decay, low=0.0)
        check_range("dropout_rate", self.dropout_rate, low=0.0, high=1.0)
        object.__setattr__(self, FREEZE, whole_number(FREEZE, self.max_layers_to_freeze, low=0))
        object.__setattr__(self, WEIGHTS, tuple(self.task_weights))
        for weight in self.task_weights:
            check_range(WEIGHTS, weight, low=0.0)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {WEIGHTS: list(self.task_weights)}

    def finetuning(self, **options: Any) -> FinetuneOptions:
        """The same as options of this package.

        Parameters
        ----------
        **options
            Everything that is not a hyperparameter: epochs, accumulation, seed.
        """
        return FinetuneOptions(
            learning_rate=self.learning_rate,
            warmup_ratio=self.warmup_ratio,
            weight_decay=self.weight_decay,
            schedule=self.lr_scheduler_type,  # type: ignore[arg-type]
            pooling="attention" if self.use_attention_pooling else "cls",
            freeze_layers=self.max_layers_to_freeze,
            **options,
        )


def manual_hyperparameters(given: Mapping[str, Any], **usual: Any) -> Hyperparameters:
    """Those of a manual run; what is not given is as usual, or as published.

    Parameters
    ----------
    given
        By name; None is not given.
    **usual
        What holds where it is not given.

    Raises
    ------
    UnknownOptionError
        A name that is no hyperparameter.
    OptionError
        A value that the hyperparameter does not take.
    """
    _check_names("manual_hyperparameters", given)
    return Hyperparameters(**{**usual, **{name: value for name, value in given.items() if value is not None}})


def check_space(space: Mapping[str, Any]) -> None:
    """Refuse what cannot be drawn, before the first trial.

    Raises
    ------
    UnknownOptionError
        A name that is no hyperparameter.
    OptionError
        Not `{"type": "float" or "int", "low": …, "high": …}` nor `{"type": "categorical", "choices": […]}`.
    """
    _check_names("hyperparameters", space)
    for name, entry in space.items():
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        wanted = {"float": ("low", "high"), "int": ("low", "high"), "categorical": ("choices",)}.get(str(kind), ())
        if not isinstance(entry, Mapping) or not wanted or not all(key in entry for key in wanted):
            msg = (
                f'hyperparameters[{name!r}]={entry!r} cannot be drawn from. Give {{"type": "float", "low": …, "high": '
                '…}, with "log": True if wanted, "int" likewise, or {"type": "categorical", "choices": […]}.'
            )
            raise OptionError(msg)


def check_freezing(span: Mapping[str, Any]) -> None:
    """Refuse a range of frozen layers that is none.

    Raises
    ------
    OptionError
        No `min` or no `max`, or the wrong way round.
    """
    if set(span) != {"min", "max"}:
        msg = f'max_layers_to_freeze={dict(span)} takes a number, or a table with both "min" and "max".'
        raise OptionError(msg)
    low = whole_number('max_layers_to_freeze["min"]', span["min"], low=0)
    whole_number('max_layers_to_freeze["max"]', span["max"], low=low)


def draw_hyperparameters(
    space: Mapping[str, Any], trial: Any, *, tasks: Sequence[str], weighted: bool, freeze: Any, pooling: bool
) -> dict[str, Any]:
    """Hyperparameters of a trial.

    Parameters
    ----------
    space
        What is drawn, by name.
    trial
        Trial of Optuna.
    tasks
        Names of the tasks.
    weighted
        Whether weights of the tasks are drawn; they are then scaled to add up to 1.
    freeze
        Number of frozen layers, or `{"min": …, "max": …}` to draw it from.
    pooling
        Pooling where it is not drawn.
    """
    drawn = {name: _draw(name, entry, trial) for name, entry in space.items() if name not in (WEIGHTS, FREEZE)}
    drawn = {POOLING: pooling} | drawn
    weights = [1.0] * len(tasks)
    if weighted and WEIGHTS in space:
        weights = [float(_draw(f"{task}_weight", space[WEIGHTS], trial)) for task in tasks]
        total = sum(weights)
        weights = [weight / total for weight in weights]
    if FREEZE in space:
        frozen = _draw(FREEZE, space[FREEZE], trial)
    elif isinstance(freeze, Mapping):
        frozen = trial.suggest_int(FREEZE, int(freeze["min"]), int(freeze["max"]))
    else:
        frozen = freeze
    return Hyperparameters(**drawn, task_weights=tuple(weights), max_layers_to_freeze=int(frozen)).to_dict()


def _draw(name: str, entry: Mapping[str, Any], trial: Any) -> Any:
    if entry["type"] == "categorical":
        return trial.suggest_categorical(name, list(entry["choices"]))
    suggest = trial.suggest_int if entry["type"] == "int" else trial.suggest_float
    return suggest(name, entry["low"], entry["high"], log=bool(entry.get("log", False)))


def _check_names(argument: str, given: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(Hyperparameters)]
    unknown = [name for name in given if name not in known]
    if unknown:
        msg = f"{argument} names {unknown[0]!r}. Hyperparameters are {', '.join(known)}.{nearest(unknown[0], known)}"
        raise UnknownOptionError(msg)
