"""Arguments of published classes, checked once, as their annotations say.

A `Literal` lists what is accepted; `Count` and `Positive` are whole numbers from 0 and from 1, of NumPy too;
`Values` is a dictionary, and `Columns` a list. What rules there are between arguments is up to each class.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from geneformer.errors import OptionError
from geneformer.options._fields import Count, Positive, Range, check_choice, whole_number

__all__ = ["Columns", "Count", "Limit", "Positive", "Values", "Version", "check_arguments"]

Version = Literal["V1", "V2"]
Limit = Annotated[int | None, Range(low=1)]
"""At most so many; None for all."""

Values = Mapping[str, Any] | None
Columns = list[str] | tuple[str, ...] | None
_CONTAINERS: dict[Any, tuple[Any, str]] = {
    Values: (Mapping, "dictionary of accepted values by column"),
    Columns: (list | tuple, "list of columns"),
}


def given_filter(filter_data: Values, filter_data_dict: Values) -> Values:
    """Accepted values by column, by the name of the argument or by that some published notebooks have for it."""
    if filter_data_dict is not None and filter_data is not None:
        msg = "filter_data and filter_data_dict are two names of one argument. Give one of them."
        raise OptionError(msg)
    return filter_data_dict if filter_data is None else filter_data


def check_arguments(annotated: type | Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a class or function, refused unless each fits its annotation; whole numbers as those of Python."""
    checked = {}
    for name, hint in get_type_hints(annotated, include_extras=True).items():
        if name not in values:
            continue
        value = values[name]
        if get_origin(hint) is Literal:
            check_choice(name, value, get_args(hint))
        elif get_origin(hint) is Annotated:
            bounds = hint.__metadata__[0]
            value = whole_number(name, value, low=bounds.low)
        elif hint in _CONTAINERS and value is not None and not isinstance(value, _CONTAINERS[hint][0]):
            msg = f"{name}={value!r} is no {_CONTAINERS[hint][1]}. Give one, or None."
            raise OptionError(msg)
        checked[name] = value
    return checked
