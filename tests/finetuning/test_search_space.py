import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneformer.errors import OptionError, OutOfRangeError, UnknownChoiceError, UnknownOptionError
from geneformer.finetuning.search import BELONGS, Choices, Range, check_space, default_space, draw_options
from geneformer.options import FinetuneOptions
from geneformer.options.finetuning import read_space


class Fixed:
    """A trial that always draws the same end, and notes what it was asked for."""

    def __init__(self, end: int = 0) -> None:
        self.end, self.asked = end, []

    def suggest_categorical(self, name, choices):
        self.asked.append(name)
        return choices[-self.end]

    def suggest_int(self, name, low, high, *, step=1, log=False):
        self.asked.append(name)
        return (low, high)[self.end]

    suggest_float = suggest_int


def test_ranges_and_choices_are_of_the_kind_the_option_is():
    space = check_space(
        {
            "learning_rate": {"low": 1, "high": 2},
            "freeze_layers": {"low": 0, "high": 4, "step": 2},
            "dropout": [None, 0.1],
            "strategy": ["full", "lora"],
        },
        [FinetuneOptions()],
    )
    assert next(iter(space)) == "strategy"
    assert space["learning_rate"] == Range(1.0, 2.0)
    assert isinstance(space["learning_rate"].low, float)
    assert space["freeze_layers"] == Range(0, 4, step=2, whole=True)
    assert space["dropout"] == Choices((None, 0.1))


@pytest.mark.parametrize(
    ("table", "error", "told"),
    [
        ({"learning_rat": [1e-3]}, UnknownOptionError, "learning_rate"),
        ({"max_cells": [3]}, OptionError, "which cells"),
        ({}, OptionError, "names no option"),
        ({"learning_rate": []}, OptionError, "empty"),
        ({"learning_rate": 1e-3}, OptionError, "list of choices"),
        ({"learning_rate": {"low": 1e-2, "high": 1e-3}}, OptionError, "empty"),
        ({"learning_rate": {"low": 1e-2}}, OptionError, "both low and high"),
        ({"learning_rate": {"low": 0.0, "high": 1e-3}}, OutOfRangeError, "learning_rate"),
        ({"weight_decay": {"low": 0.0, "high": 1e-3, "log": True}}, OptionError, "above 0"),
        ({"weight_decay": {"low": 0.1, "high": 0.3, "log": True, "step": 0.1}}, OptionError, "no step"),
        ({"weight_decay": {"low": 0.1, "high": 0.3, "step": 0}}, OptionError, "above 0"),
        ({"weight_decay": {"low": 0.1, "high": 0.3, "steps": 2}}, OptionError, "step"),
        ({"freeze_layers": {"low": 0.5, "high": 2}}, OptionError, "int"),
        ({"freeze_layers": {"low": 0, "high": 2, "step": 0.5}}, OptionError, "whole"),
        ({"freeze_layers": [True]}, OptionError, "int"),
        ({"strategy": {"low": 0, "high": 1}}, OptionError, "no number"),
        ({"strategy": ["full", "lorra"]}, UnknownChoiceError, "lora"),
        ({"schedule": [None]}, OptionError, "str"),
    ],
)
def test_what_cannot_be_searched_is_refused(table, error, told):
    with pytest.raises(error, match=told):
        check_space(table, [FinetuneOptions()], {"max_cells"})


def test_the_default_space_is_one_the_options_take():
    space = check_space(default_space(6), [FinetuneOptions()])
    assert space["learning_rate"] == Range(1e-6, 1e-3, log=True)
    assert space["freeze_layers"] == Range(0, 3, whole=True)
    for end in (0, 1):
        FinetuneOptions(**draw_options(space, Fixed(end), [FinetuneOptions()]))


def test_options_of_another_strategy_are_not_drawn():
    table = {"lora_rank": [4], "freeze_layers": {"low": 1, "high": 2}, "strategy": ["full", "lora"]}
    space = check_space(table, [FinetuneOptions()])
    full, lora = Fixed(0), Fixed(1)
    assert draw_options(space, full, [FinetuneOptions()]) == {"strategy": "full", "freeze_layers": 1}
    assert draw_options(space, lora, [FinetuneOptions()]) == {"strategy": "lora", "lora_rank": 4}
    assert full.asked == ["strategy", "freeze_layers"]
    assert lora.asked == ["strategy", "lora_rank"]


def test_what_was_set_for_another_strategy_goes_back_to_its_default():
    base = FinetuneOptions(freeze_layers=2)
    space = check_space({"strategy": ["full", "lora"]}, [base])
    assert draw_options(space, Fixed(0), [base]) == {"strategy": "full"}
    assert draw_options(space, Fixed(1), [base]) == {"strategy": "lora", "freeze_layers": 0}


def test_without_a_strategy_in_the_space_the_given_one_decides():
    space = check_space({"freeze_layers": [1], "seed": [3]}, [FinetuneOptions()])
    assert draw_options(space, Fixed(), [FinetuneOptions(strategy="head")]) == {"seed": 3}


@given(st.sampled_from(sorted(BELONGS)))
def test_every_option_that_belongs_to_a_strategy_exists(name):
    FinetuneOptions(strategy=BELONGS[name], **{name: getattr(FinetuneOptions(), name)})


@given(low=st.floats(1e-8, 1e3), ratio=st.floats(1.0, 1e6))
def test_a_drawn_number_is_in_its_range(low, ratio):
    import optuna

    space = check_space({"learning_rate": {"low": low, "high": low * ratio, "log": True}}, [FinetuneOptions()])
    trial = optuna.trial.FixedTrial({"learning_rate": math.sqrt(low * low * ratio)})
    drawn = draw_options(space, trial, [FinetuneOptions()])["learning_rate"]
    assert low * (1 - 1e-9) <= drawn <= low * ratio * (1 + 1e-9)


def test_a_space_from_a_file(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text('[space]\nstrategy = ["full", "lora"]\nlearning_rate = {low = 1e-5, high = 1e-2, log = true}\n')
    assert read_space(path) == {
        "strategy": ["full", "lora"],
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    }
    path.write_text("seed = [1, 2]\n")
    assert read_space(path) == {"seed": [1, 2]}
    for text in ("seed = [1", "space = 3"):
        path.write_text(text)
        with pytest.raises(OptionError, match="space"):
            read_space(path)
