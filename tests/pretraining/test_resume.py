"""A run that breaks off and goes on ends where it would have ended anyway."""

import shutil

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from transformers import Trainer
from transformers.trainer_callback import TrainerState

from geneformer.engine.run_folder import check_run_folder
from geneformer.engine.training import begin_run
from geneformer.errors import OutputExistsError, RunMismatchError
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


def test_a_run_whose_steps_are_all_done_is_not_trained_further(dataset, tmp_path):
    options = options_for(tmp_path, max_steps=4, save_steps=2)
    whole = run(dataset, tmp_path / "run", options)
    before = weights_of(tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()  # as if the run had been killed before it was written
    again = run(dataset, tmp_path / "run", options, resume=True)
    after = weights_of(tmp_path / "run")
    assert (again.steps, again.metrics) == (whole.steps, whole.metrics)
    assert all(torch.equal(after[name], before[name]) for name in before)


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
    with pytest.raises(OutputExistsError, match=r"holds a model already\. Pass --resume"):
        check_run_folder(tmp_path / "run", resume=False)
    check_run_folder(tmp_path / "run", resume=True)
    (tmp_path / "run" / "model.safetensors").unlink()  # as a run that was killed before its end
    with pytest.raises(OutputExistsError, match=r"holds a training run already\. Pass --resume"):
        check_run_folder(tmp_path / "run", resume=False)


@pytest.mark.parametrize("weights", ["kept", "gone"])
def test_a_folder_with_a_model_is_not_trained_into(dataset, tmp_path, weights):
    run(dataset, tmp_path / "run", options_for(tmp_path, max_steps=2, save_steps=1))
    if weights == "gone":
        (tmp_path / "run" / "model.safetensors").unlink()
    else:
        shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(OutputExistsError):
        check_run_folder(tmp_path / "run", resume=False)


def test_a_run_goes_on_with_the_options_and_cells_it_had(dataset, tmp_path):
    short = {"max_steps": 2, "save_steps": 1}
    run(dataset, tmp_path / "run", options_for(tmp_path, **short))
    longer = options_for(tmp_path, max_steps=3, save_steps=7, eval_cells=3)
    assert run(dataset, tmp_path / "run", longer, resume=True).steps == 3
    with pytest.raises(RunMismatchError, match=r"learning_rate was 0\.01 and is 0\.5"):
        run(dataset, tmp_path / "run", options_for(tmp_path, learning_rate=0.5), resume=True)
    with pytest.raises(RunMismatchError, match="cells was 48 and is 47, tokens was"):
        run(dataset.take(range(47)), tmp_path / "run", options_for(tmp_path), resume=True)


def test_what_an_earlier_version_did_not_record_is_not_compared(dataset, tmp_path):
    options, alone = options_for(tmp_path, max_steps=2, save_steps=1), PartialState(cpu=True)
    run(dataset, tmp_path / "run", options)
    stage = begin_run(tmp_path / "run", {"an option since": 1}, alone, may_change=set(), resume=True)
    assert stage.steps == 2
    (tmp_path / "run" / "checkpoints" / "run.json").unlink()
    assert run(dataset, tmp_path / "run", options, resume=True).steps == 2


WRITERS = [(Trainer, "save_model"), (Trainer, "_save_optimizer_and_scheduler"), (Trainer, "_save_rng_state"),
           (TrainerState, "save_to_json")]  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS, ids=[name for _, name in WRITERS])
@pytest.mark.parametrize("torn", [False, True], ids=["before", "within"])
def test_a_checkpoint_that_was_being_written_is_passed_over(dataset, tmp_path, monkeypatch, writer, torn):
    options = options_for(tmp_path, max_steps=6, save_steps=2, eval_steps=6)
    whole = run(dataset, tmp_path / "whole", options)
    owner, name = writer
    usual = getattr(owner, name)

    def break_off(self, path, *args, **kwargs):
        if "checkpoint-4" not in str(path):
            return usual(self, path, *args, **kwargs)
        if torn:
            usual(self, path, *args, **kwargs)
            newest = max(
                (tmp_path / "broken" / "checkpoints" / "checkpoint-4").iterdir(), key=lambda p: p.stat().st_mtime_ns
            )
            newest.write_bytes(newest.read_bytes()[:50])
        raise Interruption

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, break_off)
        with pytest.raises(Interruption):
            run(dataset, tmp_path / "broken", options)
    resumed = run(dataset, tmp_path / "broken", options, resume=True)
    ours, theirs = weights_of(tmp_path / "broken"), weights_of(tmp_path / "whole")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert (resumed.steps, resumed.metrics) == (whole.steps, whole.metrics)
    names = [sorted(p.name for p in (tmp_path / run_ / "checkpoints").iterdir()) for run_ in ("broken", "whole")]
    assert names[0] == names[1]


def test_a_first_checkpoint_that_was_being_written_does_not_stand_in_the_way(dataset, tmp_path):
    options = options_for(tmp_path, max_steps=2, save_steps=2)
    torn = tmp_path / "run" / "checkpoints" / "checkpoint-1"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(RunMismatchError, match="no training checkpoint to resume from"):
        check_run_folder(tmp_path / "run", resume=True)
    check_run_folder(tmp_path / "run", resume=False)
    assert run(dataset, tmp_path / "run", options).steps == 2
    assert not torn.exists()
