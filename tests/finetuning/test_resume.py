"""A run that breaks off and goes on ends where it would have ended anyway."""

import pytest
import torch
from safetensors.torch import load_file

from geneformer.errors import OutputExistsError, RunMismatchError
from geneformer.genes.vocabulary import Vocabulary
from geneformer.pretraining.run import check_run_folder, check_same_run
from small_runs import options_for, run, tokenized, write_cells


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tokenized(write_cells(tmp_path_factory.mktemp("cells")))


class Interruption(RuntimeError):
    """The power went off."""


def interrupt_after(step):
    """Progress that breaks off a run."""

    def progress(done, total):
        if done == step:
            raise Interruption

    return progress


def weights_of(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "stop"),
    [
        ({"tokens_per_batch": 600}, 5),  # in the middle of an epoch
        ({"tokens_per_batch": 1200, "accumulation": 2, "contrastive_weight": 0.2}, 4),
        ({"max_steps": -1, "epochs": 2.0, "tokens_per_batch": 500}, 7),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_run(dataset, tmp_path, changes, stop):
    options = options_for(tmp_path, **{"max_steps": 9, "save_steps": 3, "eval_steps": 3, "eval_cells": 3} | changes)
    whole = run(dataset, tmp_path / "whole", options)
    with pytest.raises(Interruption):
        run(dataset, tmp_path / "broken", options, progress=interrupt_after(stop))
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    check_run_folder(tmp_path / "broken", resume=True)
    resumed = run(dataset, tmp_path / "broken", options, resume=True)
    assert resumed.steps == whole.steps > stop
    ours, theirs = weights_of(tmp_path / "broken"), weights_of(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.metrics == whole.metrics
    losses = [[line["loss"] for line in result.history if "loss" in line] for result in (resumed, whole)]
    assert losses[0] == losses[1]


def test_seeds_make_the_run(dataset, tmp_path):
    results = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(dataset, tmp_path / name, options_for(tmp_path, max_steps=2, seed=seed))
        results[name] = weights_of(tmp_path / name)
    key = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(results["a"][key], results["b"][key])
    assert not torch.equal(results["a"][key], results["c"][key])


def test_runs_are_not_mixed(dataset, tmp_path):
    check_run_folder(tmp_path / "new", resume=False)
    with pytest.raises(RunMismatchError, match=r"no training checkpoint to resume from\. Start without --resume"):
        check_run_folder(tmp_path / "new", resume=True)
    run(dataset, tmp_path / "run", options_for(tmp_path, max_steps=2, save_steps=1))
    with pytest.raises(OutputExistsError, match=r"holds a pretraining run already\. Pass --resume"):
        check_run_folder(tmp_path / "run", resume=False)
    check_run_folder(tmp_path / "run", resume=True)


def test_a_run_goes_on_with_the_options_and_cells_it_had(dataset, tmp_path):
    vocabulary, options = Vocabulary.load("V1"), options_for(tmp_path)
    check_same_run(tmp_path / "run", dataset, vocabulary, options, resume=False)
    check_same_run(tmp_path / "run", dataset, vocabulary, options, resume=True)
    longer = options_for(tmp_path, max_steps=99, save_steps=7, eval_cells=3)
    check_same_run(tmp_path / "run", dataset, vocabulary, longer, resume=True)
    with pytest.raises(RunMismatchError, match=r"learning_rate was 0\.01 and is 0\.5"):
        check_same_run(tmp_path / "run", dataset, vocabulary, options_for(tmp_path, learning_rate=0.5), resume=True)
    with pytest.raises(RunMismatchError, match="cells was 48 and is 47, tokens was"):
        check_same_run(tmp_path / "run", dataset.take(range(47)), vocabulary, options, resume=True)
