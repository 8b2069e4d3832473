"""Options as keyword parameters: signatures and documentation made from the fields of options classes."""

import inspect
import re
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields
from inspect import Parameter
from textwrap import fill
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from geneformer.options._fields import field_docs

Documented = TypeVar("Documented", bound=Callable[..., Any])


def takes_options(*kinds: type) -> Callable[[Documented], Documented]:
    """Decorator of a function or class that takes fields of options classes as keywords: `help` lists each of them.

    What stands for them in its signature (``**changes``) and docstring is replaced by one parameter per field, with its
    type, default and documentation. What is called stays as it is, and refuses unknown names itself.
    """

    def decorate(documented: Documented) -> Documented:
        signature = inspect.signature(documented)
        *named, rest = signature.parameters.values()
        taken = {parameter.name for parameter in named}
        added = [parameter for parameter in _parameters(kinds) if parameter.name not in taken]
        vars_of: Any = documented
        vars_of.__signature__ = signature.replace(parameters=[*named, *added])
        vars_of.__doc__ = _documented(documented.__doc__, rest.name, [one.name for one in added], kinds)
        return documented

    return decorate


def _parameters(kinds: Iterable[type]) -> list[Parameter]:
    """A keyword for every field; one that several classes have, such as the seed, once."""
    found: dict[str, Parameter] = {}
    for kind in kinds:
        hints = get_type_hints(kind)
        for field in fields(kind):
            default = Parameter.empty if field.default is MISSING else field.default
            found.setdefault(
                field.name, Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name])
            )
    return list(found.values())


def _documented(doc: str | None, rest: str, names: list[str], kinds: Sequence[type]) -> str | None:
    """The docstring with an entry for each field in the place of that of ``**rest``."""
    if not doc:
        return doc
    doc = inspect.cleandoc(doc)
    entries = []
    of_kinds = [(field_docs(kind), {one.name: one for one in _parameters([kind])}) for kind in kinds]
    for name in names:
        own = [(docs[name], parameters[name]) for docs, parameters in of_kinds if name in parameters]
        heads = dict.fromkeys(f"{type_name(one.annotation)}, default {one.default!r}" for _, one in own)
        texts = dict.fromkeys(text for text, _ in own)
        text = fill(" ".join(texts), 108, initial_indent="    ", subsequent_indent="    ")
        entries.append(f"{name} : {'; '.join(heads)}\n{text}")
    listed = "\n".join(entries)
    return re.sub(rf"^\*\*{rest}\n(?:    .*\n?)+", lambda _: f"{listed}\n", doc, flags=re.MULTILINE)


def type_name(hint: Any) -> str:
    """A type as documentation of the field writes it: choices in braces, other types by their names."""
    if get_origin(hint) is Literal:
        return "{" + ", ".join(map(repr, get_args(hint))) + "}"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(type_name(kind) for kind in get_args(hint))
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        return f"tuple of {type_name(inner[0])}" if inner[-1] is ... else f"{len(inner)} {type_name(inner[0])}"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))
