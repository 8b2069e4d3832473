"""The examples in the docstrings run and show what they promise."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import geneformer

SOURCE = Path(geneformer.__file__).parent

pytestmark = pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")


def has_examples(path: Path) -> bool:
    """Whether a module has examples, without importing it."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return any(">>> " in (ast.get_docstring(node) or "") for node in nodes if isinstance(node, documented))


NAMES = [
    ".".join(["geneformer", *path.relative_to(SOURCE).with_suffix("").parts])
    for path in sorted(SOURCE.rglob("*.py"))
    if has_examples(path)
]


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name):
    failed, run = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert failed == 0
    assert run > 0
