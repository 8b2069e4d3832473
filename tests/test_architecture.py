"""House rules that no linter knows, checked over the source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import geneformer

SOURCE = Path(geneformer.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
NAMES = [module.relative_to(SOURCE).as_posix() for module in MODULES]
VAGUE = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "tools"}
HARDWARE = {"cuda", "npu", "mps", "xpu"}
HARDWARE_HOME = "engine/device.py"
PICKLE_HOME = "files/pickles.py"
CODE_RUNNERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}
Function = ast.FunctionDef | ast.AsyncFunctionDef

every_module = pytest.mark.parametrize("module", MODULES, ids=NAMES)


def parse(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def where(nodes: list[ast.AST]) -> list[int]:
    return [node.lineno for node in nodes]


def without_docstrings(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node except strings that stand alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        yield node
        yield from without_docstrings(node)


@every_module
def test_a_module_is_named_for_what_it_holds(module):
    assert not VAGUE & {part.strip("_") for part in module.relative_to(SOURCE).with_suffix("").parts}


@every_module
def test_hardware_is_named_in_one_file(module):
    if module.relative_to(SOURCE).as_posix() == HARDWARE_HOME:
        pytest.skip("the one file")
    named = [
        node
        for node in without_docstrings(parse(module))
        if (isinstance(node, ast.Constant) and isinstance(node.value, str) and HARDWARE & words(node.value))
        or (isinstance(node, ast.Attribute) and HARDWARE & words(node.attr))
        or (isinstance(node, ast.Name) and HARDWARE & words(node.id))
    ]
    assert where(named) == []


def words(text: str) -> set[str]:
    return set(re.split(r"[^a-z]+", text.lower()))


@every_module
def test_nothing_is_unpickled(module):
    imported = {
        name.split(".")[0]
        for node in ast.walk(parse(module))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    if module.relative_to(SOURCE).as_posix() == PICKLE_HOME:
        imported.remove("pickle")
        attributes = [node for node in ast.walk(parse(module)) if isinstance(node, ast.Attribute)]
        assert {node.attr for node in attributes if ast.unparse(node.value) == "pickle"} == {"dumps"}
    assert not imported & CODE_RUNNERS


@every_module
def test_weights_are_loaded_as_data_only(module):
    loads = [
        node
        for node in ast.walk(parse(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    careless = [
        call
        for call in loads
        if not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords)
    ]
    assert where(careless) == []


@every_module
def test_nothing_is_printed(module):
    calls = [
        node
        for node in ast.walk(parse(module))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"print", "breakpoint", "exec", "eval"}
    ]
    assert where(calls) == []


@every_module
def test_errors_are_named_when_raised_and_when_caught(module):
    tree = parse(module)
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    inside = {id(child) for handler in handlers for child in ast.walk(handler)}
    bare_raises = [n for n in ast.walk(tree) if isinstance(n, ast.Raise) and n.exc is None and id(n) not in inside]
    broad = [
        handler
        for handler in handlers
        if handler.type is None or {"Exception", "BaseException"} & set(re.findall(r"\w+", ast.unparse(handler.type)))
    ]
    assert where(bare_raises) == []
    assert where(broad) == []


@every_module
def test_a_module_says_what_it_holds(module):
    if module.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(parse(module))


def test_the_rules_find_violations():
    tree = ast.parse('x = "cuda:0"\n"""cuda"""\ntorch.cuda.empty_cache()\n')
    found = [node for node in without_docstrings(tree) if isinstance(node, (ast.Constant, ast.Attribute))]
    assert [words(n.value if isinstance(n, ast.Constant) else n.attr) & HARDWARE for n in found] == [
        {"cuda"},
        set(),
        {"cuda"},
    ]
