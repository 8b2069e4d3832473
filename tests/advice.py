"""Names of options in messages: which functions and commands a message can come from, and what these take.

What is reached is found over the source, as rapid type analysis does it: a function reaches what it names, and methods
of classes that were named on the way; too much rather than too little. Within backticks are whole commands
and calls, `geneformer tokenize --counts` or `gf.pp.tokenize(counts=True)`, which are right wherever they are read.
"""

import ast
import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import geneformer as gf
from geneformer import cli

SOURCE = Path(gf.__file__).parent
PAIR = re.compile(r"(?<![\w.-])--([a-z][a-z0-9-]+)(?: [\w./{}-]+)? \(([a-z_]+)=[^)]*\)")
"""An option that commands and functions spell each in their own way."""

NAMED = re.compile(r"(?<![\w.-])--([a-z][a-z0-9-]+)|(?<![\w.<>'\"/-])([a-z][a-z0-9_]+)=(?![=>])")
QUOTED = re.compile(r"`[^`]+`")

Key = str
"""``module:function``, ``module:Class``, ``module:Class.method`` or ``module:CONSTANT``."""


def plain(name: str) -> str:
    return name.replace("-", "_")


def options_in(text: str, *, of_command: bool) -> set[str]:
    """Options that a message names outside backticks to who called a command or a function, flags as parameters."""
    text = PAIR.sub(r"--\1" if of_command else r"\2=", QUOTED.sub("``", text))
    return {plain(flag or keyword) for flag, keyword in NAMED.findall(text)}


def spelled_out(text: str) -> Iterator[tuple[str, set[str]]]:
    """Commands and calls of this package within backticks, each with the options it is given."""
    for quoted in QUOTED.findall(text):
        if call := re.match(r"`([\w.]+)\((.*)\)", quoted):
            yield call[1], {keyword for _, keyword in NAMED.findall(call[2]) if keyword}
        elif quoted.startswith("`geneformer "):
            words = quoted.strip("`").split()
            members = cli.GROUPS.get(words[1], ())
            name = f"{words[1]}-{words[2]}" if len(words) > 2 and words[2] in members else words[1]
            yield f"geneformer {name}", {plain(flag) for flag, _ in NAMED.findall(quoted) if flag}


def strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Whole strings with {} for what is filled in; none that stand alone, such as docstrings."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.JoinedStr):
        yield node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, node.value
    for child in ast.iter_child_nodes(node) if not isinstance(node, ast.JoinedStr) else values_of(node):
        yield from strings(child)


def values_of(node: ast.JoinedStr) -> list[ast.expr]:
    return [part.value for part in node.values if isinstance(part, ast.FormattedValue)]


class Source:
    """The package as names that name each other."""

    def __init__(self) -> None:
        paths = {self.module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
        self.trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in paths.items()}
        self.names = {module: dict(self.names_in(module, tree)) for module, tree in self.trees.items()}
        self.refers: dict[Key, set[Key]] = defaultdict(set)
        self.attributes: dict[Key, set[str]] = defaultdict(set)
        self.messages: dict[Key, list[tuple[int, str]]] = defaultdict(list)
        self.methods: dict[Key, dict[str, Key]] = {}
        self.classes: dict[str, Key] = {}
        for module, tree in self.trees.items():
            for node in tree.body:
                self.read(module, node)
        self.named: dict[str, list[tuple[Key, Key]]] = defaultdict(list)
        for one, methods in self.methods.items():
            for name, method in methods.items():
                self.named[name].append((one, method))
        for key in list(self.refers):
            texts = {text for _, text in self.messages[key]}  # classes are also fetched by name
            self.refers[key] |= {self.classes[text] for text in texts & self.classes.keys()}

    @staticmethod
    def module_of(path: Path) -> str:
        return ".".join(["geneformer", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")

    def names_in(self, module: str, tree: ast.Module) -> Iterator[tuple[str, Key]]:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield alias.asname or alias.name, inner if inner in self.trees else f"{node.module}:{alias.name}"
        for node in tree.body:
            for name in defined(node):
                yield name, f"{module}:{name}"

    def read(self, module: str, node: ast.stmt) -> None:
        for name in defined(node):
            key = f"{module}:{name}"
            if isinstance(node, ast.ClassDef):
                if not module.startswith("geneformer.compat"):
                    self.classes[name] = key
                inner = {one.name: one for one in node.body if isinstance(one, ast.FunctionDef)}
                self.methods[key] = {method: f"{key}.{method}" for method in inner}
                for method, body in inner.items():
                    self.note(module, f"{key}.{method}", [body])
                self.note(module, key, [*node.bases, *(one for one in node.body if one not in inner.values())])
            else:
                self.note(module, key, [node])

    def note(self, module: str, key: Key, nodes: Iterable[ast.AST]) -> None:
        names = self.names[module]
        for node in nodes:
            self.messages[key] += strings(node)
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and inner.id in names:
                    self.refers[key].add(names[inner.id])
                elif isinstance(inner, ast.Attribute):
                    within = names.get(inner.value.id) if isinstance(inner.value, ast.Name) else None
                    if within in self.trees:
                        self.refers[key].add(f"{within}:{inner.attr}")
                    else:
                        self.attributes[key].add(inner.attr)

    def reached(self, *start: Key) -> set[Key]:
        """All that code at `start` may run."""
        seen: set[Key] = set()
        called: set[str] = set()
        left = list(start)
        attributes = {"__init__", "__post_init__", "__call__", "__enter__", "__iter__", "__getitem__", "_check"}
        while True:
            for name in attributes - called:
                left += [method for one, method in self.named[name] if one in seen]
            called |= attributes
            if not left:
                return seen
            key = left.pop()
            attributes = set()
            if key not in seen:
                seen.add(key)
                left += self.refers[key]
                left += [method for name, method in self.methods.get(key, {}).items() if name in called]
                attributes = self.attributes[key]


def defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def parameters_of(function: object) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return set()


def key_of(thing: object) -> Key:
    thing = inspect.unwrap(thing)  # type: ignore[arg-type]
    return f"{thing.__module__}:{thing.__qualname__}"


@cache
def commands() -> dict[str, set[str]]:
    """Flags of every command, as parameters."""
    names = [*(name for name in cli.COMMANDS if name not in cli.GROUPS)]
    names += [f"{family}-{member}" for family, members in cli.GROUPS.items() for member in members]
    return {
        f"geneformer {name}": {plain(flag.lstrip("-")) for one in cli.load_command(name).params for flag in one.opts}
        for name in names
    }


def functions() -> dict[str, tuple[list[Key], set[str]]]:
    """Public functions and classes with where they begin and what they take, constructors and methods together."""
    found = {f"gf.{room}.{name}": getattr(getattr(gf, room), name) for room in ("pp", "tl", "pl")
             for name in getattr(gf, room).__all__}  # fmt: skip
    found |= {f"gf.{name}": getattr(gf, name) for name in gf.__all__ if callable(getattr(gf, name))}
    for path in sorted({*(SOURCE / "compat").glob("[a-z]*.py")} - {SOURCE / "compat" / "paths.py"}):
        module = importlib.import_module(Source.module_of(path))
        found |= {
            f"{path.stem}.{name}": thing
            for name, thing in vars(module).items()
            if inspect.isclass(thing) and thing.__module__ == module.__name__ and not name.startswith("_")
        }
    taken = {name: door_of(thing) for name, thing in found.items()}
    learnt = taken["gf.CellClassifier"][1]  # options of the estimator that these are given
    return taken | {name: (taken[name][0], taken[name][1] | learnt) for name in ("gf.cross_validate", "gf.search")}


def door_of(thing: object) -> tuple[list[Key], set[str]]:
    if not inspect.isclass(thing):
        return [key_of(thing)], parameters_of(thing)
    own = [one for one in thing.__mro__ if one.__module__.startswith("geneformer")]
    starts = [key_of(one) for one in own] + [
        f"{key_of(one)}.{name}" for one in own for name, value in vars(one).items() if callable(value)
    ]
    methods = (getattr(thing, name) for name in dir(thing) if not name.startswith("_"))
    return starts, parameters_of(thing).union(*(parameters_of(one) for one in methods if callable(one)))


def doors() -> dict[str, tuple[list[Key], set[str]]]:
    """All public ways in."""
    starts = {name: [key_of(cli.command_function(name.removeprefix("geneformer ")))] for name in commands()}
    return {name: (starts[name], taken) for name, taken in commands().items()} | functions()
