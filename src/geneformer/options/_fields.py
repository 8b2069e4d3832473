"""What the surfaces need to know about a field of an options class: its documentation and its section name."""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import json
import math
import os
import textwrap
import tomllib
import types
from collections.abc import Iterable, Mapping
from operator import index
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from geneformer.errors import OptionError, OutOfRangeError, UnknownChoiceError, UnknownOptionError, reason_of


@functools.cache
def field_docs(options: type) -> dict[str, str]:
    """The docstring under each field of an options class, on one line; empty where the source is not at hand."""
    docs = dict.fromkeys((field.name for field in dataclasses.fields(options)), "")
    for cls in filter(dataclasses.is_dataclass, options.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except OSError:
            return docs
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for field, following in itertools.pairwise(body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                docs[field.target.id] = " ".join(str(following.value.value).split())
    return docs


def section(options: type) -> str:
    """Name of an options class in files: `TokenizeOptions` is `tokenize`."""
    return options.__name__.removesuffix("Options").lower()


def nearest(value: object, choices: Iterable[str]) -> str:
    """`` Did you mean …?`` for a misspelt name, or nothing."""
    names = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(str(value).lower(), names, n=1, cutoff=0.6)
    return f' Did you mean "{names[found[0]]}"?' if found else ""


def some_of(names: Iterable[str], most: int = 10) -> str:
    """The first of some names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


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
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value != math.inf
    inside = is_number and not (
        (low is not None and not value >= low)  # NaN is not inside
        or (high is not None and not value <= high)
        or (above is not None and not value > above)
    )
    if not inside:
        limits = (("more than", above), ("at least", low), ("at most", high))
        bounds = " and ".join(f"{words} {limit}" for words, limit in limits if limit is not None)
        msg = f"{option}={value!r} is out of range. It takes a number, {bounds}."
        raise OutOfRangeError(msg)


def check_steps(steps: int) -> None:
    """Refuse to train for no step at all."""
    if steps == 0:
        msg = "max_steps=0 trains nothing. Pass a number from 1, or leave it at -1, so that epochs decide."
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


def came_as(option: str, value: object) -> str:
    """How a message about a value of the wrong kind begins: what it was, without its content."""
    kind = (
        "None" if value is None else f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    )
    if isinstance(value, list | tuple):
        kind = f"{kind} of {type(value[0]).__name__}" if value else f"{kind} without entries"
    return f"{option} came as {kind}"


def as_path(option: str, value: object, accepted: str) -> Path:
    """A path; what is none is refused, with what is accepted in its place."""
    if not isinstance(value, (str, os.PathLike)):
        msg = f"{came_as(option, value)}. Pass {accepted}."
        raise OptionError(msg)
    return Path(value)


def as_names(option: str, value: Any) -> tuple[Any, ...]:
    """Several names as a tuple; one name alone is a list of one, not of its letters."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        msg = f"{option}={value!r} is no name or list of names. Pass names such as {option}=[...], or leave it out."
        raise OptionError(msg)
    return tuple(value)


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers that a field takes, for `check_range`."""

    low: float | None = None
    high: float | None = None
    above: float | None = None


Names = tuple[str, ...]
Count = Annotated[int, Range(low=0)]
Positive = Annotated[int, Range(low=1)]
Seed = Annotated[int, Range(low=0, high=2**32 - 1)]
LearningRate = Annotated[float, Range(above=0.0, high=10.0)]
Epochs = Annotated[float, Range(above=0.0, high=1e6)]
Steps = Annotated[int, Range(low=-1, high=10**9)]
Longest = Annotated[int | None, Range(low=3, high=2**20)]
Layer = Annotated[int, Range(high=0)]
NonNegative = Annotated[float, Range(low=0.0)]
AboveZero = Annotated[float, Range(above=0.0)]
Share = Annotated[float, Range(low=0.0, high=1.0)]
PartialShare = Annotated[float, Range(low=0.0, high=0.9)]


def check_value(name: str, value: Any, hint: Any, default: Any = None) -> Any:
    """The value of a field, if it is one that its type takes; one name alone as a list of one."""
    if get_origin(hint) is Literal:
        check_choice(name, value, get_args(hint))
    elif get_origin(hint) is Annotated:
        for bounds in hint.__metadata__:
            check_range(name, value, low=bounds.low, high=bounds.high, above=bounds.above)
    elif hint in (str, str | None) and not isinstance(value, (str, os.PathLike, NoneType)):
        msg = f"{came_as(name, value)}. Pass a text."
        raise OptionError(msg)
    elif hint in (str, str | None) and not value and value != default:
        msg = f"{name} is empty. Give it a value, or leave it out."
        raise OptionError(msg)
    elif hint == Names or (hint == Names | None and value is not None):
        return as_names(name, value)
    return value


class Options:
    """Options that are checked when they are made: each field by its type, then the rules between fields."""

    __slots__ = ("_given",)
    _given: frozenset[str]

    def __new__(cls, *_: Any, **given: Any) -> Self:
        """As usual, and the names given are kept."""
        options = super().__new__(cls)
        object.__setattr__(options, "_given", frozenset(given))
        return options

    @property
    def asked(self) -> frozenset[str]:
        """Names of the options that were set: given by name, be it the default, or other than the default."""
        entries = dataclasses.fields(self)  # type: ignore[arg-type]
        changed = frozenset(entry.name for entry in entries if getattr(self, entry.name) != entry.default)
        return changed | (self._given if len(self._given) < len(entries) else frozenset())  # a copy is given all

    def __post_init__(self) -> None:
        default = {field.name: field.default for field in dataclasses.fields(type(self))}  # type: ignore[arg-type]
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            given = getattr(self, name)
            value = check_value(name, given, hint, default.get(name))
            if value is not given:
                object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        """Refuse values that do not go together."""


def spread_options(groups: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Options objects with single fields changed; one that several have, such as the seed, in all of them."""
    names = {name: {entry.name for entry in dataclasses.fields(options)} for name, options in groups.items()}
    valid = sorted(set().union(*names.values()))
    unknown = [name for name in changes if name not in valid]
    if unknown:
        msg = f"{unknown[0]!r} is not an option. Options are {', '.join(valid)}.{nearest(unknown[0], valid)}"
        raise UnknownOptionError(msg)
    spread = {}
    for name, options in groups.items():
        own = {key: value for key, value in changes.items() if key in names[name]}
        spread[name] = dataclasses.replace(options, **own)
        object.__setattr__(spread[name], "_given", options.asked | own.keys())
    return spread


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def read_options(
    path: str | Path, *classes: type, hidden: Mapping[type, tuple[str, ...]] | None = None
) -> Mapping[type, dict[str, Any]]:
    """What a configuration file sets for each options class."""
    path = Path(path)
    content = read_table(path)
    if not isinstance(content, dict):
        msg = f'The configuration "{path}" holds no options. It must be a TOML file, or a manifest.'
        raise OptionError(msg)
    table = content["options"] if isinstance(content.get("options"), dict) else content
    accepted = {
        cls: [f.name for f in dataclasses.fields(cls) if f.name not in (hidden or {}).get(cls, ())] for cls in classes
    }
    sections = {section(cls): cls for cls in classes}
    values: dict[type, dict[str, Any]] = {cls: {} for cls in classes}
    for key, value in table.items():
        if key in sections and isinstance(value, dict):
            for name, entry in value.items():
                values[sections[key]][name] = _field(sections[key], name, entry, accepted, path)
        elif not (isinstance(value, dict) and key in _all_sections()):
            owner = next((cls for cls, names in accepted.items() if key in names), None)
            if owner is None:
                _refuse(key, [*sections, *(name for names in accepted.values() for name in names)], path)
            else:
                values[owner][key] = _field(owner, key, value, accepted, path)
    return values


def to_table(*options: Any) -> dict[str, dict[str, Any]]:
    """Options objects as the tables of a manifest; `read_options` understands them."""
    return {section(type(entry)): dataclasses.asdict(entry) for entry in options}


def read_table(path: str | Path, what: str = "The configuration", kinds: str = "TOML file, or a manifest") -> Any:
    """What a TOML or JSON file holds."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        msg = f'{what} "{path}" cannot be read ({reason_of(error)}). It must be a {kinds}.'
        raise OptionError(msg) from error


def _all_sections() -> set[str]:
    from geneformer import options

    return {section(getattr(options, name)) for name in options.__all__}


def _field(cls: type, name: str, value: Any, accepted: Mapping[type, list[str]], path: Path) -> Any:
    if name not in accepted[cls]:
        _refuse(name, accepted[cls], path)
    return typed_value(name, value, get_type_hints(cls)[name], f'"{path}"')


def _refuse(name: str, accepted: list[str], path: Path) -> None:
    msg = f'"{path}" sets {name!r}, which is not an option. Options are {", ".join(accepted)}.{nearest(name, accepted)}'
    raise UnknownOptionError(msg)


def typed_value(name: str, value: Any, hint: Any, where: str) -> Any:
    """The value, if it is of the expected type; whole numbers pass for numbers, lists for tuples, nothing else."""
    expected = plain_type(hint)
    if (value is None and expected is not hint) or get_origin(expected) is Literal:
        return value
    if get_origin(expected) is tuple:
        inner = get_args(expected)
        kinds = [inner[0]] * len(value) if isinstance(value, list) and inner[-1] is ... else list(inner)
        if isinstance(value, list) and len(value) == len(kinds):
            return tuple(typed_value(f"{name}[{i}]", v, kinds[i], where) for i, v in enumerate(value))
        msg = f"{where} sets {name}={value!r}; it takes a list{'' if inner[-1] is ... else f' of {len(inner)}'}."
        raise OptionError(msg)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not expected:
        msg = f"{where} sets {name}={value!r}; it takes {_KINDS[expected]}."
        raise OptionError(msg)
    return value


def plain_type(hint: Any) -> Any:
    """The type of a field that may be None, without None; other types as they are."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint
