"""The examples in the docstrings run and show what they promise; those that load `mini` are in `test_mini.py`."""

import ast
import doctest
import importlib
import warnings
from pathlib import Path

import pytest

import geneformer

SOURCE = Path(geneformer.__file__).parent
MINI = ('load_model("mini")', 'model="mini"')


def examples(path: Path) -> list[str]:
    """Source of the examples of a module, without importing it."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]
    return [example.source for doc in docs for example in doctest.DocTestParser().get_examples(doc)]


def modules() -> list[str]:
    """Modules with examples that need no checkpoint."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        sources = examples(path)
        if sources and not any(sign in source for sign in MINI for source in sources):
            found.append(".".join(["geneformer", *path.relative_to(SOURCE).with_suffix("").parts]))
    return found


@pytest.mark.parametrize("name", modules())
def test_examples_run(name):
    with warnings.catch_warnings():
        failed, run = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert failed == 0
    assert run > 0
