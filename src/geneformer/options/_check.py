"""Choice and range checks that name the value, the choices and the nearest one."""

import difflib
from collections.abc import Iterable
from operator import index
from typing import Any

from geneformer.errors import OutOfRangeError, UnknownChoiceError


def nearest(value: object, choices: Iterable[str]) -> str:
    """`` Did you mean …?`` for a misspelt name, or nothing.

    Parameters
    ----------
    value
        What was given.
    choices
        What would have been accepted.
    """
    names = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(str(value).lower(), names, n=1, cutoff=0.6)
    return f' Did you mean "{names[found[0]]}"?' if found else ""


def check_choice(option: str, value: object, choices: Iterable[Any]) -> None:
    """Refuse a value that is not among the choices."""
    accepted = list(choices)
    if value in accepted:
        return
    listed = ", ".join(f'"{c}"' if isinstance(c, str) else str(c) for c in accepted)
    msg = f"{option}={value!r} is not known. Choose {listed}."
    raise UnknownChoiceError(msg + nearest(value, (c for c in accepted if isinstance(c, str))))


def check_range(
    option: str, value: float | None, *, low: float | None = None, high: float | None = None, above: float | None = None
) -> None:
    """Refuse a number outside ``[low, high]``, or not above ``above``; ``None`` passes."""
    if value is None:
        return
    bounds = []
    if above is not None:
        bounds.append(f"more than {above}")
    if low is not None:
        bounds.append(f"at least {low}")
    if high is not None:
        bounds.append(f"at most {high}")
    wrong_kind = isinstance(value, bool) or not isinstance(value, (int, float))
    if (
        wrong_kind
        or value != value  # noqa: PLR0124  not a number
        or (low is not None and value < low)
        or (high is not None and value > high)
        or (above is not None and value <= above)
    ):
        msg = f"{option}={value!r} is out of range. It takes a number, {' and '.join(bounds)}."
        raise OutOfRangeError(msg)


def whole_number(option: str, value: Any, *, low: int, high: int | None = None) -> Any:
    """A whole number of ``[low, high]``, of NumPy too, as one of Python; ``None`` passes."""
    try:
        number = value if value is None or isinstance(value, bool) else index(value)
    except TypeError as error:
        msg = f"{option}={value!r} is no whole number. It takes one of at least {low}."
        raise OutOfRangeError(msg) from error
    check_range(option, number, low=low, high=high)
    return number
