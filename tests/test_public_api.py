"""The public names, how they are loaded, and that every surface offers the same knobs."""

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import geneformer as gf
from geneformer import cli, options
from geneformer.options import AttentionOptions, EmbedOptions, PredictOptions, RuntimeOptions, TokenizeOptions
from geneformer.options._fields import field_docs, section

pytestmark = pytest.mark.contract

SURFACES = {
    "pp.tokenize": (TokenizeOptions,),
    "tl.attention": (AttentionOptions, RuntimeOptions),
    "tl.embed": (EmbedOptions, RuntimeOptions),
    "tl.predict_masked": (PredictOptions, RuntimeOptions),
}
"""Python functions that repeat the fields of options classes in their signatures."""

WITHOUT_EFFECT = {"tl.embed": {"truncate"}}
"""Knobs a function does not offer because its cells are tokenized to the length of the model."""

OPTIONS = [getattr(options, name) for name in options.__all__]
HEAVY = {"numpy", "torch", "pandas", "anndata", "scanpy", "scipy", "pyarrow", "transformers", "matplotlib"}


def imported_by(code: str) -> set[str]:
    """Top-level modules a fresh interpreter has loaded after some code."""
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("LOADED")[2]
    return {name.split(".")[0] for name in loaded.split()}


def functions(package: str) -> list[str]:
    return [f"{package}.{name}" for name in getattr(importlib.import_module(f"geneformer.{package}"), "__all__", [])]


def resolve(name: str):
    package, _, attribute = name.partition(".")
    return getattr(importlib.import_module(f"geneformer.{package}"), attribute)


def test_public_names():
    assert sorted(gf.__all__) == dir(gf)
    assert all(getattr(gf, name) is not None for name in gf.__all__)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(gf.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert set(seen) == set(gf.__all__) - {"__version__"}
    homes = {name: f"geneformer.{home}" for name, home in gf._HOMES.items()}
    assert homes == {name: module for name, module in seen.items() if module != "geneformer"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tokenise'"):
        _ = gf.tokenise


def test_importing_the_package_loads_nothing_heavy():
    assert not imported_by("import geneformer") & HEAVY


def test_the_tokenizer_leaves_out_the_functions_of_arrow():
    code = "import sys, geneformer.tokenization.tokenizer; print(*(n for n in sys.modules if n == 'pyarrow.compute'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_help_loads_nothing_heavy(command):
    arguments = ["geneformer", *([command] if command else []), "--help"]
    assert not imported_by(f"sys.argv = {arguments}; from geneformer.cli import main; main()") & HEAVY


@pytest.mark.parametrize("cls", OPTIONS)
def test_every_option_is_documented(cls):
    docs = field_docs(cls)
    assert list(docs) == [field.name for field in dataclasses.fields(cls)]
    assert all(doc.endswith(".") for doc in docs.values())
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(cls))


@pytest.mark.parametrize("name", SURFACES)
def test_a_function_has_the_defaults_of_its_options(name):
    parameters = inspect.signature(resolve(name)).parameters
    fields = {field.name: field for cls in SURFACES[name] for field in dataclasses.fields(cls)}
    shared = parameters.keys() & fields.keys()
    assert shared
    assert {n: parameters[n].default for n in shared} == {n: fields[n].default for n in shared}
    types = {field: hint for cls in SURFACES[name] for field, hint in get_type_hints(cls).items()}
    assert {n: parameters[n].annotation for n in shared} == {n: types[n] for n in shared}
    assert all(parameters[n].kind is inspect.Parameter.KEYWORD_ONLY for n in shared)


@pytest.mark.parametrize("name", SURFACES)
def test_a_function_offers_every_knob_of_the_science(name):
    parameters = inspect.signature(resolve(name)).parameters
    machine = {field.name for field in dataclasses.fields(RuntimeOptions)} | {"workers", "chunk_size"}
    science = {field.name for cls in SURFACES[name] for field in dataclasses.fields(cls)} - machine
    assert science - WITHOUT_EFFECT.get(name, set()) <= parameters.keys()


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_command_has_a_flag_for_every_option(command):
    function = cli.command_function(command)
    flags = {parameter.name for parameter in cli.load_command(command).params}
    for cls in function.options:
        assert {field.name for field in dataclasses.fields(cls)} - set(function.hidden.get(cls, ())) <= flags
    assert "json" in flags
    assert ("config" in flags) is bool(function.options)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_summaries_are_those_of_the_commands(command):
    function = cli.command_function(command)
    assert inspect.getdoc(function).splitlines()[0] == cli.COMMANDS[command]


@pytest.mark.parametrize("name", [*functions("pp"), *functions("tl"), *functions("pl")])
def test_public_functions_document_every_parameter(name):
    function = resolve(name)
    doc = inspect.getdoc(function)
    documented = set(
        re.findall(r"^(?:\*\*)?([a-z_]+(?:, [a-z_]+)*)(?: : .+)?$", doc.partition("Parameters\n")[2], re.MULTILINE)
    )
    documented = {word for line in documented for word in line.split(", ")}
    assert set(inspect.signature(function).parameters) <= documented
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty


def test_section_names_are_distinct():
    assert len({section(cls) for cls in OPTIONS}) == len(OPTIONS)
