"""What the surfaces need to know about a field of an options class: its documentation and its section name."""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap


@functools.cache
def field_docs(options: type) -> dict[str, str]:
    """The docstring under each field of an options class, on one line; empty where the source is not at hand."""
    docs = dict.fromkeys((field.name for field in dataclasses.fields(options)), "")
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(options)))
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
