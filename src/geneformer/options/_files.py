"""Options from TOML and JSON files, and as plain tables for manifests."""

import dataclasses
import json
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from geneformer.errors import OptionError, UnknownOptionError
from geneformer.options._check import nearest
from geneformer.options._fields import section

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def read_options(
    path: str | Path, *classes: type, hidden: Mapping[type, tuple[str, ...]] | None = None
) -> Mapping[type, dict[str, Any]]:
    """What a configuration file sets for each options class.

    A file has one table per class, named for it (`[tokenize]`, `[embed]`, `[runtime]`), or sets fields at its top.
    Tables of other tasks are passed over, so that one file can serve a whole study. A manifest is understood too:
    its `options` are read.

    Parameters
    ----------
    path
        A `.toml` or `.json` file.
    classes
        Options classes that are wanted.
    hidden
        Fields that cannot be set here, by class.

    Raises
    ------
    UnknownOptionError
        A table or field that does not exist.
    OptionError
        The file cannot be read, or a value is of the wrong kind.
    """
    path = Path(path)
    table = _read(path)
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


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        msg = f'The configuration "{path}" cannot be read ({error}). It must be a TOML file, or a manifest.'
        raise OptionError(msg) from error
    if not isinstance(content, dict):
        msg = f'The configuration "{path}" holds no options. It must be a TOML file, or a manifest.'
        raise OptionError(msg)
    table = content.get("options", content)
    return table if isinstance(table, dict) else content


def _all_sections() -> set[str]:
    from geneformer import options

    return {section(getattr(options, name)) for name in options.__all__}


def _field(cls: type, name: str, value: Any, accepted: Mapping[type, list[str]], path: Path) -> Any:
    if name not in accepted[cls]:
        _refuse(name, accepted[cls], path)
    return _strictly(name, value, get_type_hints(cls)[name], path)


def _refuse(name: str, accepted: list[str], path: Path) -> None:
    msg = f'"{path}" sets {name!r}, which is not an option. Options are {", ".join(accepted)}.{nearest(name, accepted)}'
    raise UnknownOptionError(msg)


def _strictly(name: str, value: Any, wanted: Any, path: Path) -> Any:
    """The value, if it is of the wanted kind; whole numbers pass for numbers, lists for tuples, nothing else."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _strictly(name, value, next(kind for kind in inner if kind is not type(None)), path)
    if origin is Literal:
        return value
    if origin is tuple:
        kinds = [inner[0]] * len(value) if isinstance(value, list) and inner[-1] is ... else list(inner)
        if isinstance(value, list) and len(value) == len(kinds):
            return tuple(_strictly(f"{name}[{i}]", v, kinds[i], path) for i, v in enumerate(value))
        msg = f'"{path}" sets {name}={value!r}; it takes a list{"" if inner[-1] is ... else f" of {len(inner)}"}.'
        raise OptionError(msg)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:
        msg = f'"{path}" sets {name}={value!r}; it takes {_KINDS[wanted]}.'
        raise OptionError(msg)
    return value
