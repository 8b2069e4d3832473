"""Options that are taken by keyword are listed where they are taken: in signatures and documentation."""

import inspect
import re
from dataclasses import fields

import pytest

import geneformer as gf
from geneformer.errors import UnknownOptionError
from geneformer.options import PerturbOptions, SearchOptions

ESTIMATORS = ("CellClassifier", "CellRegressor", "ExpressionDecoder", "GeneClassifier", "MultiTaskClassifier")


TAKERS = [(getattr(gf, name), getattr(gf, name).option_kinds.values()) for name in ESTIMATORS]
TAKERS += [(gf.search, [SearchOptions]), (gf.tl.perturb, [PerturbOptions])]


@pytest.mark.parametrize(("taker", "kinds"), TAKERS, ids=[*ESTIMATORS, "search", "perturb"])
def test_every_option_is_a_keyword_with_its_default_and_its_documentation(taker, kinds):
    parameters = inspect.signature(taker).parameters
    doc = inspect.getdoc(taker).partition("Parameters\n")[2].partition("\n\n")[0]
    assert not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    defaults = {}
    for kind in kinds:
        for field in fields(kind):
            defaults.setdefault(field.name, field.default)
    named_in_full = {"genes", "edit", "start", "goal"} if taker is gf.tl.perturb else set()
    for name in defaults.keys() - named_in_full:
        assert parameters[name].default == defaults[name]
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        default = re.escape(repr(defaults[name]))
        assert re.search(rf"^{name} : \S.*, default {default}.*\n(    .+\n)*    .+\.$", doc, re.MULTILINE), name


def test_a_default_that_is_not_the_same_in_training_and_prediction_is_told():
    doc = inspect.getdoc(gf.CellClassifier)
    assert "tokens_per_batch : int, default 8192; int or None, default None\n" in doc
    assert "Seed of new weights" in doc


def test_a_misspelt_option_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownOptionError, match='Did you mean "learning_rate"'):
        gf.CellClassifier(learning_rat=1e-3)


def test_a_class_without_documentation_of_its_own_keeps_the_options():
    class Own(gf.CellRegressor):
        kind = "own"

    assert Own.__doc__ is None
    assert inspect.signature(Own).parameters["loss"].default == "squared_error"
