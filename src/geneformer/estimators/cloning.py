"""Unfitted copies of an estimator."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from geneformer.estimators.base import Estimator
from geneformer.options import ClassifyOptions, RuntimeOptions, SplitOptions

AnyEstimator = TypeVar("AnyEstimator", bound=Estimator)

NOT_TRAINED_WITH = (ClassifyOptions, SplitOptions, RuntimeOptions)
"""Options that decide which cells are measured, and on which machine, not how a network learns."""

MEASURED_BY = frozenset(field.name for field in dataclasses.fields(ClassifyOptions))
"""Fields of such options; those of other tasks have the same names."""


def clone(estimator: AnyEstimator, **changes: Any) -> AnyEstimator:
    """An estimator made with the same arguments that has learnt nothing; the pretrained model is shared.

    Parameters
    ----------
    estimator
        Left as it is.
    **changes
        Arguments of its class to change.
    """
    kind = type(estimator)
    taken = [
        parameter.name
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    arguments = {name: getattr(estimator, name) for name in taken} | changes
    copy = kind(arguments.pop("model"), **arguments)
    copy._base = estimator._base
    return copy


def option_groups(estimator: Estimator) -> dict[str, Any]:
    """Options objects of an estimator by the names it takes them by."""
    taken = inspect.signature(type(estimator)).parameters
    found = {name: getattr(estimator, name, None) for name in taken}
    return {name: value for name, value in found.items() if dataclasses.is_dataclass(value)}


def restore_options(
    estimator: Estimator, told: Mapping[str, Mapping[str, Any]], runtime: RuntimeOptions | None
) -> None:
    """Give an estimator the options it was fitted with, and the machine it is to run on.

    Parameters
    ----------
    estimator
        Changed in place.
    told
        Fields of each options object, as JSON gives them; those that are not told stay.
    runtime
        The machine; as it was by default.
    """
    for name, group in option_groups(estimator).items():
        fields = {field.name for field in dataclasses.fields(group)}
        values = {key: value for key, value in told.get(name, {}).items() if key in fields}
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        setattr(estimator, name, dataclasses.replace(group, **values))
    estimator.runtime = runtime or estimator.runtime


def training_groups(estimator: Estimator) -> dict[str, Any]:
    """Those with fields that decide how its network learns."""
    groups = option_groups(estimator)
    return {name: value for name, value in groups.items() if not isinstance(value, NOT_TRAINED_WITH)}


def with_training_options(estimator: AnyEstimator, options: dict[str, Any]) -> AnyEstimator:
    """A copy that learns with other options; its split and its cells stay those of the estimator.

    Parameters
    ----------
    estimator
        Left as it is.
    options
        Fields of its training options.
    """
    groups = {}
    for name, group in training_groups(estimator).items():
        fields = {field.name for field in dataclasses.fields(group)}
        groups[name] = dataclasses.replace(group, **{key: value for key, value in options.items() if key in fields})
    return clone(estimator, **groups)
