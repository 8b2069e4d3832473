"""House rules that no linter knows, checked over the source."""

import ast
import importlib.util
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import geneformer

ROOT = Path(__file__).parents[1]
SOURCE = Path(geneformer.__file__).parent
PATHS = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in PATHS.items()}
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))

VAGUE = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "tools"}
HARDWARE = {"cuda", "npu", "mps", "xpu"}
HARDWARE_HOME = "engine/device.py"
PICKLE_HOME = "files/pickles.py"
CODE_RUNNERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}
SURFACES = ("cli/", "pl/", "pp/", "tl/")
"""Rooms whose functions are named after what they call."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_of(name: str) -> str:
    dotted = "geneformer." + name.removesuffix(".py").replace("/", ".")
    return dotted.removesuffix(".__init__")


MODULES = {module_of(name): name for name in TREES}


def without_docstrings(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node except strings that stand alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        yield node
        yield from without_docstrings(node)


def everywhere(rule, *, but: str = "") -> dict[str, list[int]]:
    """Lines of the nodes that break a rule, by file."""
    broken = {
        name: [node.lineno for node in ast.walk(tree) if rule(node)] for name, tree in TREES.items() if name != but
    }
    return {name: lines for name, lines in broken.items() if lines}


def imports(tree: ast.AST, *, lazy: bool = True) -> Iterator[str]:
    """Modules a file imports, those for type checkers included; `lazy` those inside functions as well."""
    nodes = list(ast.walk(tree))
    if not lazy:
        inside = {id(child) for node in nodes if isinstance(node, Function) for child in ast.walk(node)}
        nodes = [node for node in nodes if id(node) not in inside]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module or ""


def layer_of(module: str) -> int | None:
    """Floor of a module, from the top; None for the package itself, which loads names on demand."""
    room = module.split(".")[1] if "." in module else ""
    layers = [layer.split(" | ") for layer in LAYERS]
    return next((i for i, rooms in enumerate(layers) if room in rooms), None)


LAYERS = next(c["layers"] for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers")


def test_imports_go_down_the_line():
    rising = [
        (module, target)
        for module, name in MODULES.items()
        for target in imports(TREES[name])
        if target.startswith("geneformer.")
        and layer_of(module) is not None
        and layer_of(target) is not None
        and layer_of(target) < layer_of(module)
    ]
    assert rising == []


def test_every_room_has_a_floor():
    rooms = {module.split(".")[1] for module in MODULES if module.count(".") >= 1}
    assert {room for room in rooms if layer_of(f"geneformer.{room}") is None} == {"__main__", "_version"}


def test_the_core_never_imports_the_published_package_s_names():
    assert [
        (name, target)
        for name, tree in TREES.items()
        if not name.startswith(("compat/", "__init__"))
        for target in imports(tree)
        if target.startswith("geneformer.compat")
    ] == []


def test_no_imports_run_in_a_circle():
    graph = {
        module: {target for target in imports(TREES[name], lazy=False) if target in MODULES and target != module}
        for module, name in MODULES.items()
        if name != "__init__.py"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(error.args[1]) from None


def test_a_name_is_defined_once():
    homes = defaultdict(list)
    for name, tree in TREES.items():
        if not name.startswith(SURFACES):
            for node in tree.body:
                if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                    homes[node.name].append(name)
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_modules_are_named_for_what_they_hold():
    assert {name for name in PATHS if VAGUE & set(re.split(r"[^a-z]+", name.removesuffix(".py")))} == set()


def test_hardware_is_named_in_one_file():
    def names_hardware(node: ast.AST) -> bool:
        return (
            (isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(HARDWARE & words(node.value)))
            or (isinstance(node, ast.Attribute) and bool(HARDWARE & words(node.attr)))
            or (isinstance(node, ast.Name) and bool(HARDWARE & words(node.id)))
        )

    named = {
        name: [node.lineno for node in without_docstrings(tree) if names_hardware(node)]
        for name, tree in TREES.items()
        if name != HARDWARE_HOME
    }
    assert {name: lines for name, lines in named.items() if lines} == {}
    tree = ast.parse('x = "cuda:0"\n"""cuda"""\ntorch.cuda.empty_cache()\n')
    assert [node.lineno for node in without_docstrings(tree) if names_hardware(node)] == [1, 3]


def words(text: str) -> set[str]:
    return set(re.split(r"[^a-z]+", text.lower()))


def test_pickles_are_read_in_one_file():
    importers = {
        name for name, tree in TREES.items() if CODE_RUNNERS & {target.split(".")[0] for target in imports(tree)}
    }
    assert importers == {PICKLE_HOME}


def test_weights_are_loaded_as_data_only():
    def careless(node: ast.AST) -> bool:
        return (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "torch.load"
            and not any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
        )

    assert everywhere(careless) == {}


def test_nothing_is_printed_or_evaluated():
    forbidden = {"print", "breakpoint", "exec", "eval"}
    assert (
        everywhere(lambda n: isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in forbidden) == {}
    )


def test_errors_are_named_when_raised_and_when_caught():
    def broad(node: ast.AST) -> bool:
        return isinstance(node, ast.ExceptHandler) and (
            node.type is None or bool({"Exception", "BaseException"} & set(re.findall(r"\w+", ast.unparse(node.type))))
        )

    assert everywhere(broad) == {}
    for name, tree in TREES.items():
        handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
        inside = {id(child) for handler in handlers for child in ast.walk(handler)}
        bare = [n for n in ast.walk(tree) if isinstance(n, ast.Raise) and n.exc is None and id(n) not in inside]
        assert bare == [], name


def test_modules_say_what_they_hold():
    assert [name for name, tree in TREES.items() if PATHS[name].stat().st_size and not ast.get_docstring(tree)] == []


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "recipes", "tools"])
def test_scripts_import_what_there_is(folder):
    """They are run by hand, some of them for hours, so that a name that moved would be seen late."""
    absent = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "geneformer":
                home = importlib.import_module(node.module)
                names = [name.name for name in node.names if not _has(home, name.name)]
                absent += [f"{path.name}: {node.module}.{name}" for name in names]
    assert not absent


def _has(home, name):
    return hasattr(home, name) or (
        hasattr(home, "__path__") and importlib.util.find_spec(f"{home.__name__}.{name}") is not None
    )
