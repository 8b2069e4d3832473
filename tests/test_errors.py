"""Codes of errors: each explained, none used twice, and a page that says what the classes say."""

import ast
import re
from pathlib import Path

import pytest

import geneformer as gf
from geneformer import errors, options

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "errors.md"
CLASSES = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.GeneformerError)]


def test_every_error_has_a_code_of_its_own():
    assert len({error.code for error in CLASSES}) == len(CLASSES)
    assert set(errors.errors_by_code().values()) == set(CLASSES)


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.code)
def test_every_code_is_explained(error):
    head, what, mend, names = gf.explain(error.code).split("\n\n")
    assert head == f"{error.code} {error.__name__}"
    assert what.endswith(".")
    assert len(mend) > 20
    assert error.__name__ in names


def test_the_page_says_what_the_classes_say():
    assert PAGE.read_text(encoding="utf-8") == errors.reference(), (
        "write it anew: python -c \"from geneformer import errors; print(errors.reference(), end='')\""
    )


@pytest.mark.parametrize("code", ["gf203", " GF203 ", "203"])
def test_codes_are_found_as_people_write_them(code):
    assert "NotRawCountsError" in gf.explain(code)


@pytest.mark.parametrize("code", ["GF999", "", "x", "GF"])
def test_a_code_there_is_not_is_refused(code):
    with pytest.raises(errors.UnknownChoiceError, match="There is no code"):
        gf.explain(code)


MESSAGES = {
    "a configuration": (lambda path: options._fields.read_options(path, options.TokenizeOptions), "none.toml"),
    "a space": (options.finetuning.read_space, "none.toml"),
    "a run": (gf.pl.perturbation, "none"),
    "cells": (gf.pp.tokenize, "none.h5ad"),
    "tokens": (gf.read_dataset, "none.dataset"),
    "a report": (gf.pl.roc, "none"),
}


@pytest.mark.parametrize("what", MESSAGES)
def test_a_message_names_a_file_that_is_not_there_once(what, tmp_path):
    read, name = MESSAGES[what]
    with pytest.raises(errors.GeneformerError) as caught:
        read(tmp_path / name)
    assert str(caught.value).count(str(tmp_path / name)) == 1


def test_advice_can_be_taken_in_a_shell_and_in_python():
    source = Path(gf.__file__).parent
    flag = re.compile(r"--(overwrite|resume|counts|missing|accept-normalized|truncate|method|genes)(?![-\w])")
    alone = []
    for path in sorted(source.rglob("*.py")):
        if path.relative_to(source).parts[0] in ("cli", "compat", "options", "errors.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "msg":
                message = ast.unparse(node.value)
                alone += [
                    (path.name, found[1])
                    for found in flag.finditer(message)
                    if f"{found[1].replace('-', '_')}=" not in message
                ]
    assert alone == []
