import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from geneformer.errors import (
    MissingExtraError,
    OptionError,
    OutOfRangeError,
    RunMismatchError,
    TrainingError,
    UnknownChoiceError,
    UnknownOptionError,
)
from geneformer.finetuning.estimators import CellClassifier, CellRegressor, MultiTaskClassifier
from geneformer.finetuning.search import BELONGS, check_space, default_space, draw_options, search
from geneformer.options import FinetuneOptions, SearchOptions
from geneformer.options.finetuning import read_space
from small_finetuning import QUICK, labeled_blood, tiny_model

pytestmark = pytest.mark.contract

TESTS = Path(__file__).parents[1]
RATES = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "freeze_layers": {"low": 0, "high": 1}}
SETTINGS = {**QUICK, "max_steps": 1, "baselines": "none", "valid": 0.25, "test": 0.25}
SEARCH = {"space": RATES, "n_startup_trials": 2, "pruner": "none", "metric": "loss"}
DRAWN = ["learning_rate", "freeze_layers"]

WORKER = """
import sys, time
from pathlib import Path
from geneformer.finetuning import search as module
from test_search import SEARCH, SETTINGS, CellClassifier, labeled_blood

model, storage, trials, hang, marker = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
run = module._Objective.run

def noticed(objective, study, trial):
    if trial.number == hang:
        marker.touch()
        time.sleep(600)
    marker.with_suffix(".begun").touch()
    run(objective, study, trial)

module._Objective.run = noticed
classifier = CellClassifier(model, **SETTINGS)
module.search(classifier, labeled_blood(24), "kind", storage=storage, trials=trials, refit="none", **SEARCH)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("search") / "model", dropout=0.0)


@pytest.fixture(scope="module")
def cells():
    return labeled_blood(24)


@pytest.fixture
def classifier(model):
    return CellClassifier(model, **SETTINGS)


def worker(model, storage, trials, marker, hang=-1):
    arguments = [sys.executable, "-c", WORKER, str(model), storage, str(trials), str(hang), str(marker)]
    paths = [str(TESTS), str(TESTS / "finetuning"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"})


def wait_for(marker, process):
    for _ in range(1200):
        if marker.exists():
            return
        assert process.poll() is None
        time.sleep(0.1)
    raise AssertionError(marker)


def trials_of(storage, study="geneformer"):
    return optuna.load_study(study_name=study, storage=storage).trials


def test_the_best_trial_is_fitted_and_evaluated(classifier, cells):
    found = search(classifier, cells, "kind", trials=3, **SEARCH)
    assert found.trials["state"].tolist() == ["complete"] * 3
    best = found.trials.loc[found.trials["value"].idxmin()]
    assert found.best_value == best["value"]
    assert found.best_options == {"learning_rate": best["learning_rate"], "freeze_layers": best["freeze_layers"]}
    assert found.estimator.finetuning.learning_rate == best["learning_rate"]
    assert found.estimator.metrics_["loss"] == pytest.approx(best["value"], rel=1e-5)  # the same training again
    assert found.report is found.estimator.report_
    assert found.report.evaluation.n == 6
    assert classifier.network_ is None


def test_no_trial_sees_the_test_cells(classifier, cells, monkeypatch):
    seen = []
    fit = CellClassifier.fit

    def noted(self, *arguments, **settings):
        seen.append(settings["split_rows"])
        return fit(self, *arguments, **settings)

    monkeypatch.setattr(CellClassifier, "fit", noted)
    search(classifier, cells, "kind", trials=2, refit="train_valid", groups="donor", **SEARCH)
    *trials, last = seen
    assert len(trials) == 2
    for split in trials:
        assert len(split.test) == 0
        assert not np.intersect1d(np.concatenate([split.train, split.valid]), last.test).size
    assert np.array_equal(last.train, np.union1d(trials[0].train, trials[0].valid))
    assert len(last.valid) == 0
    assert len(last.test)


def test_the_same_seed_draws_the_same_trials(classifier, cells):
    first, again, other = (
        search(classifier, cells, "kind", trials=3, seed=seed, refit="none", **SEARCH).trials for seed in (5, 5, 6)
    )
    assert first[[*DRAWN, "value"]].equals(again[[*DRAWN, "value"]])
    assert not first[DRAWN].equals(other[DRAWN])


@pytest.mark.parametrize("kind", ["sqlite:///{}/study.db", "{}/study.log"])
def test_a_study_goes_on_where_it_was(classifier, cells, tmp_path, kind):
    storage = kind.format(tmp_path)
    whole = search(classifier, cells, "kind", trials=4, refit="none", **SEARCH).trials
    search(classifier, cells, "kind", trials=2, storage=storage, refit="none", **SEARCH)
    gone_on = search(classifier, cells, "kind", trials=4, storage=storage, refit="none", **SEARCH).trials
    assert gone_on[[*DRAWN, "value", "state"]].equals(whole[[*DRAWN, "value", "state"]])
    untouched = search(classifier, cells, "kind", trials=4, storage=storage, refit="none", **SEARCH).trials
    assert untouched.equals(gone_on)


@pytest.mark.slow
def test_a_killed_process_leaves_its_trial_to_others(classifier, cells, model, tmp_path):
    storage, marker = f"sqlite:///{tmp_path}/study.db", tmp_path / "marker"
    process = worker(model, storage, 3, marker, hang=1)
    wait_for(marker, process)
    process.kill()
    process.wait()
    assert [trial.state.name for trial in trials_of(storage)] == ["COMPLETE", "RUNNING"]
    found = search(classifier, cells, "kind", trials=3, storage=storage, refit="none", **SEARCH).trials
    assert found["state"].tolist() == ["complete", "interrupted", "complete", "complete"]
    assert found.loc[1, DRAWN].tolist() == found.loc[2, DRAWN].tolist()
    whole = search(classifier, cells, "kind", trials=3, refit="none", **SEARCH).trials
    left = found[found["state"] == "complete"].reset_index(drop=True)
    assert left[DRAWN].equals(whole[DRAWN])
    assert np.allclose(left["value"], whole["value"], rtol=1e-4)


@pytest.mark.slow
def test_two_processes_share_the_trials(classifier, cells, model, tmp_path):
    storage, marker = f"sqlite:///{tmp_path}/study.db", tmp_path / "marker"
    process = worker(model, storage, 6, marker)
    wait_for(marker.with_suffix(".begun"), process)
    found = search(classifier, cells, "kind", trials=6, storage=storage, **SEARCH)
    assert process.wait() == 0
    assert found.trials["state"].tolist() == ["complete"] * 6  # in all, and those of the other were waited for
    assert len({trial.user_attrs["worker"] for trial in trials_of(storage)}) == 2
    assert found.report is not None


def test_a_trial_that_kills_its_process_is_not_tried_for_ever(classifier, cells, tmp_path, monkeypatch):
    from geneformer.finetuning import search as module

    storage = f"sqlite:///{tmp_path}/study.db"

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(module._Objective, "run", killed)
        for _ in range(4):
            with pytest.raises(Killed):
                search(classifier, cells, "kind", trials=2, storage=storage, refit="none", **SEARCH)
    found = search(classifier, cells, "kind", trials=2, storage=storage, refit="none", **SEARCH).trials
    assert found["state"].tolist() == ["interrupted"] * 3 + ["failed", "complete"]
    assert "process ended" in found.loc[3, "reason"]
    assert len(found[DRAWN].drop_duplicates()) == 2


def test_a_bad_trial_is_stopped(model, cells):
    slow = CellClassifier(model, **{**SETTINGS, "max_steps": 6, "eval_steps": 1, "head_start": "random"})
    space = {"learning_rate": [1e-3, 3.0]}
    options = SearchOptions(trials=4, metric="loss", prune_after=1, n_startup_trials=4, seed=5, refit="none")
    trials = search(slow, cells, "kind", space=space, options=options).trials
    pruned = trials["state"] == "pruned"
    assert trials.loc[0, "learning_rate"] == 1e-3
    assert pruned.any()
    assert (trials.loc[pruned, "learning_rate"] == 3.0).all()
    assert (trials.loc[pruned, "evaluations"] < 6).all()
    assert (trials.loc[~pruned, "evaluations"] == 6).all()
    kept = search(slow, cells, "kind", space=space, options=options, pruner="none").trials
    assert (kept["state"] == "complete").all()
    assert kept["learning_rate"].equals(trials["learning_rate"])


def test_a_trial_without_enough_memory_fails_alone(classifier, cells, monkeypatch):
    fit = CellClassifier.fit

    def limited(self, *arguments, **settings):
        if self.finetuning.freeze_layers == 0:
            msg = "tried to allocate 99 GiB"
            raise torch.OutOfMemoryError(msg)
        return fit(self, *arguments, **settings)

    monkeypatch.setattr(CellClassifier, "fit", limited)
    space = {"freeze_layers": [0, 1]}
    found = search(classifier, cells, "kind", trials=6, space=space, n_startup_trials=6, refit="none")
    failed = found.trials["state"] == "failed"
    assert (found.trials["freeze_layers"] == 0).equals(failed)
    assert 0 < failed.sum() < 6
    assert found.trials.loc[failed, "reason"].str.contains("out of memory: tried to allocate 99 GiB").all()
    assert found.best_options == {"freeze_layers": 1}


def test_when_every_trial_fails_the_last_reason_is_told(classifier, cells):
    with pytest.raises(TrainingError, match=r"All 2 trials failed.*the encoder has 2 layers"):
        search(classifier, cells, "kind", trials=2, space={"freeze_layers": {"low": 5, "high": 6}})


def test_when_time_is_over_no_trial_starts(classifier, cells, tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    with pytest.raises(TrainingError, match="in time"):
        search(classifier, cells, "kind", trials=2, storage=storage, timeout=1e-9, **SEARCH)
    search(classifier, cells, "kind", trials=1, storage=storage, refit="none", **SEARCH)
    found = search(classifier, cells, "kind", trials=9, storage=storage, timeout=1e-9, refit="none", **SEARCH)
    assert len(found.trials) == 1
    assert found.best_options


def test_a_study_that_was_started_otherwise_is_refused(model, classifier, cells, tmp_path):
    told = {"storage": f"sqlite:///{tmp_path}/study.db", "trials": 1, "refit": "none"}
    search(classifier, cells, "kind", **told, **SEARCH)
    others = cells.copy()
    others.obs["kind"] = cells.obs["kind"].to_numpy()[::-1]
    for estimator, adata, changes, name in [
        (classifier, others, {}, "cells was"),
        (CellClassifier(model, **{**SETTINGS, "max_steps": 2}), cells, {}, "max_steps was 1 and is 2"),
        (CellClassifier(model, **{**SETTINGS, "test": 0.4}), cells, {}, "cells was"),
        (classifier, cells, {"metric": "accuracy"}, "metric was 'loss'"),
        (classifier, cells, {"seed": 3}, "search.seed was 0"),
        (classifier, cells, {"space": {"learning_rate": [1e-3]}}, "space.learning_rate was"),
    ]:
        with pytest.raises(RunMismatchError, match=name):
            search(estimator, adata, "kind", **told, **(SEARCH | changes))
    fresh = search(classifier, others, "kind", study="another", **told, **SEARCH)
    assert len(fresh.trials) == 1


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"space": {"learning_rat": [1e-3]}}, UnknownOptionError, "learning_rate"),
        ({"space": {"unknown_below": [0.5]}}, OptionError, "which cells"),
        ({"space": {"device": ["cpu"]}}, OptionError, "which cells"),
        ({"space": {"learning_rate": {"low": 1.0, "high": 0.1}}}, OptionError, "empty"),
        ({"space": {"label_smoothing": [0.0, 0.1]}, "metric": "loss"}, OptionError, "label_smoothing"),
        ({"metric": "macro_f2"}, OptionError, "macro_f1"),
        ({"trails": 3}, UnknownOptionError, "trials"),
        ({"trials": 0}, OutOfRangeError, "trials"),
        ({"storage": "postgresql://here/study"}, OptionError, "sqlite"),
        ({"storage": "sqlite:///no/such/folder/study.db"}, OptionError, "no folder"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_the_first_trial(
    classifier, cells, changes, error, told, monkeypatch
):
    monkeypatch.setattr(CellClassifier, "fit", None)
    with pytest.raises(error, match=told):
        search(classifier, cells, "kind", **changes)


def test_trials_need_validation_cells(model, cells):
    blind = CellClassifier(model, **{**SETTINGS, "valid": 0.0})
    with pytest.raises(OptionError, match="validation cells"):
        search(blind, cells, "kind", **SEARCH)


def test_label_sets_are_judged_by_their_loss(model, cells):
    sets = cells.copy()
    sets.obs["sets"] = [f"{kind};odd" if i % 2 else kind for i, kind in enumerate(sets.obs["kind"])]
    labels = CellClassifier(model, multi_label=True, **SETTINGS)
    found = search(labels, sets, "sets", trials=1, space={"learning_rate": [1e-3]}, refit="none")
    assert found.metric == "loss"
    with pytest.raises(OptionError, match="not measured"):
        search(labels, sets, "sets", trials=1, metric="macro_f1")


@pytest.mark.parametrize(
    ("kind", "label", "space"),
    [
        (CellRegressor, "age", {"learning_rate": [1e-3, 1e-2]}),
        (MultiTaskClassifier, ["kind", "side"], {"learn_task_weights": [True, False]}),
    ],
)
def test_other_estimators(model, cells, kind, label, space):
    estimator = kind(model, **SETTINGS)
    sided = cells.copy()
    sided.obs["side"] = ["left", "right"] * 12
    found = search(estimator, sided, label, trials=2, space=space)
    assert found.metric == ("loss" if kind is CellRegressor else "macro_f1")
    assert found.trials["state"].tolist() == ["complete"] * 2
    assert found.report is not None
    (name,) = space
    assert found.best_options[name] in space[name]


def test_without_optuna_the_extra_is_named(classifier, cells, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"geneformer\[train\]"):
        search(classifier, cells, "kind", trials=1)


# What is searched


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
    assert space["learning_rate"] == FloatDistribution(1.0, 2.0)
    assert isinstance(space["learning_rate"].low, float)
    assert space["freeze_layers"] == IntDistribution(0, 4, step=2)
    assert space["dropout"] == CategoricalDistribution([None, 0.1])


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
        ({"freeze_layers": {"low": 0.5, "high": 2}}, OptionError, "a whole number"),
        ({"freeze_layers": {"low": 0, "high": 2, "step": 0.5}}, OptionError, "whole"),
        ({"freeze_layers": [True]}, OptionError, "a whole number"),
        ({"strategy": {"low": 0, "high": 1}}, OptionError, "no number"),
        ({"strategy": ["full", "lorra"]}, UnknownChoiceError, "lora"),
        ({"schedule": [None]}, OptionError, "linear"),
    ],
)
def test_what_cannot_be_searched_is_refused(table, error, told):
    with pytest.raises(error, match=told):
        check_space(table, [FinetuneOptions()], {"max_cells"})


def test_the_default_space_is_one_the_options_take():
    space = check_space(default_space(6), [FinetuneOptions()])
    assert space["learning_rate"] == FloatDistribution(1e-6, 1e-3, log=True)
    assert space["freeze_layers"] == IntDistribution(0, 3)
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


@given(low=st.floats(1e-8, 1.0), ratio=st.floats(1.0, 10.0))
def test_a_drawn_number_is_in_its_range(low, ratio):
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
