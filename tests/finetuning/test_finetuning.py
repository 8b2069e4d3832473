"""The one loop of all fine-tuning: repeatable, resumable after a kill, stopped in time, and typed in its failures."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import TrainerCallback

from geneformer.engine.run_folder import CHECKPOINTS
from geneformer.engine.training import PackedTrainer, last_stage
from geneformer.errors import DeviceMemoryError, NoCellsError, OutputExistsError, RunMismatchError, TrainingError
from geneformer.finetuning.training import best_evaluation, cell_batches, learn_cells, predict_cells
from geneformer.models.heads import HeadSpec
from geneformer.models.loading import load_model
from geneformer.models.losses import MISSING
from geneformer.options import FinetuneOptions, RuntimeOptions
from small_cells import short_tokens
from small_finetuning import QUICK, same_weights, tiny_model

TESTS = Path(__file__).parents[1]
RUNTIME = RuntimeOptions(device="cpu", dtype="float32", progress=False)
OPTIONS = {name: value for name, value in QUICK.items() if name not in ("device", "dtype", "progress")}
CELLS = 24
SPEC = HeadSpec(name="kind", kind="one_of", classes=("a", "b", "c"))
LONG = {"max_steps": 6, "tokens_per_batch": 250, "eval_steps": 2}

KILLED = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from geneformer.models.loading import load_model
from test_finetuning import LONG, learn, short_tokens

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

learn(load_model(sys.argv[1]), short_tokens(cells=24), output=Path(sys.argv[2]), callbacks=[Kill()], **LONG)
"""

WHOLE = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from geneformer.models.loading import load_model
from test_finetuning import LONG, learn, short_tokens

output = Path(sys.argv[2])
network, told = learn(load_model(sys.argv[1]), short_tokens(cells=24), output=output, resume=output.exists(), **LONG)
save_file({name: value.contiguous() for name, value in network.state_dict().items()}, sys.argv[3])
print(told.steps, told.metrics)
"""


class PowerCut(RuntimeError):
    """The run is over."""


class BreakOff(TrainerCallback):
    """Breaks a run off after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step >= self.step:
            raise PowerCut


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_model(tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def tokens():
    return short_tokens(cells=CELLS)


def learn(base, tokens, *, targets=None, train=None, valid=None, spec=SPEC, runtime=RUNTIME, **changes):
    names = ("output", "resume", "callbacks", "class_weights", "best_by", "deleted_genes", "progress")
    arguments = {name: changes.pop(name) for name in names if name in changes}
    targets = np.arange(CELLS) % 3 if targets is None else targets
    return learn_cells(
        base,
        tokens,
        [spec],
        {spec.name: targets},
        train_rows=np.arange(18) if train is None else train,
        valid_rows=np.arange(18, CELLS) if valid is None else valid,
        options=FinetuneOptions(**OPTIONS | changes),
        runtime=runtime,
        **arguments,
    )


def losses(result):
    return [line["loss"] for line in result.history if "loss" in line]


def test_the_same_seed_learns_the_same_weights(base, tokens):
    one, told = learn(base, tokens)
    again, told_again = learn(base, tokens)
    assert same_weights(one, again)
    assert told.metrics == told_again.metrics
    assert losses(told) == losses(told_again)
    assert not same_weights(one, learn(base, tokens, seed=1)[0])


def test_the_pretrained_model_is_left_as_it_is(base, tokens):
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    network, _ = learn(base, tokens)
    assert all(torch.equal(value, before[name]) for name, value in base.network.state_dict().items())
    assert not torch.equal(network.bert.state_dict()["embeddings.word_embeddings.weight"],
                           before["bert.embeddings.word_embeddings.weight"])  # fmt: skip
    assert not network.training


@pytest.mark.parametrize(
    ("changes", "stop"),
    [
        (LONG, 3),
        (LONG | {"accumulation": 2, "contrastive_weight": 0.3}, 5),
        ({"max_steps": -1, "epochs": 2.0, "tokens_per_batch": 120}, 8),
        (LONG | {"strategy": "lora"}, 3),
        (LONG | {"strategy": "adapters", "adapter_size": 4, "schedule": "cosine"}, 4),
        (LONG | {"valid": np.empty(0, dtype=np.int64)}, 3),
    ],
    ids=["steps", "views", "epochs", "lora", "adapters", "without validation"],
)
def test_a_run_that_broke_off_ends_where_it_would_have_ended(base, tokens, tmp_path, changes, stop):
    if changes.get("strategy") == "lora":
        pytest.importorskip("peft")
    whole, told = learn(base, tokens, **changes)
    with pytest.raises(PowerCut):
        learn(base, tokens, output=tmp_path, callbacks=[BreakOff(stop)], **changes)
    assert 0 < last_stage(tmp_path).steps <= stop < told.steps
    resumed, told_resumed = learn(base, tokens, output=tmp_path, resume=True, **changes)
    assert same_weights(resumed, whole)
    assert (told_resumed.steps, told_resumed.metrics) == (told.steps, told.metrics)
    assert losses(told_resumed) == losses(told)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_killed_process_goes_on_to_the_same_weights(base, tmp_path):
    """Every part in a process of its own: libraries loaded by other tests can change how tiny numbers are rounded."""
    run = tmp_path / "run"
    ended = in_process(KILLED, base.folder, run, 5)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert last_stage(run).steps == 4
    told = []
    for output in (run, tmp_path / "whole"):
        ended = in_process(WHOLE, base.folder, output, output.with_suffix(".safetensors"))
        assert ended.returncode == 0, ended.stderr
        told.append(ended.stdout.splitlines()[-1])
    resumed, whole = (load_file(tmp_path / f"{name}.safetensors") for name in ("run", "whole"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert told[0] == told[1]


def in_process(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(
        command, cwd=Path(__file__).parent, env=environment(), capture_output=True, text=True, check=False
    )


def environment():
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS, Path(__file__).parent, *sys.path)))}


@pytest.mark.parametrize("steps", [3, 6])
def test_a_run_that_is_done_is_not_trained_further(base, tokens, tmp_path, steps):
    changes = LONG | {"max_steps": steps}
    whole, told = learn(base, tokens, output=tmp_path, **changes)
    again, told_again = learn(base, tokens, output=tmp_path, resume=True, callbacks=[BreakOff(0)], **changes)
    assert same_weights(again, whole)
    assert (told_again.steps, told_again.metrics) == (steps, told.metrics)
    longer, _ = learn(base, tokens, output=tmp_path, resume=True, schedule="linear", **LONG | {"max_steps": 8})
    assert not same_weights(longer, whole)


def test_a_checkpoint_that_was_being_written_is_passed_over(base, tokens, tmp_path):
    with pytest.raises(PowerCut):
        learn(base, tokens, output=tmp_path, callbacks=[BreakOff(3)], **LONG)
    torn = tmp_path / CHECKPOINTS / "checkpoint-4"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"\0" * 100)
    resumed, _ = learn(base, tokens, output=tmp_path, resume=True, **LONG)
    assert same_weights(resumed, learn(base, tokens, **LONG)[0])


def test_a_run_may_be_moved_before_it_goes_on(base, tokens, tmp_path):
    changes = LONG | {"learning_rate": 0.5}  # diverges, so that the best weights are not the last ones
    with pytest.raises(PowerCut):
        learn(base, tokens, output=tmp_path / "here", callbacks=[BreakOff(5)], **changes)
    (tmp_path / "here").rename(tmp_path / "there")
    stage = last_stage(tmp_path / "there")
    assert stage.best.is_dir()
    assert stage.best.parent == tmp_path / "there" / CHECKPOINTS
    resumed, told = learn(base, tokens, output=tmp_path / "there", resume=True, **changes)
    whole, told_whole = learn(base, tokens, **changes)
    assert same_weights(resumed, whole)
    assert told.metrics == told_whole.metrics


def test_runs_are_not_mixed(base, tokens, tmp_path):
    with pytest.raises(RunMismatchError, match=r"no training checkpoint to resume from\. Start without --resume"):
        learn(base, tokens, output=tmp_path / "run", resume=True)
    learn(base, tokens, output=tmp_path / "run")
    with pytest.raises(OutputExistsError, match=r"holds a training run already\. Pass --resume \(resume=True\)"):
        learn(base, tokens, output=tmp_path / "run")
    with pytest.raises(RunMismatchError, match=r"learning_rate was 0\.01 and is 0\.5"):
        learn(base, tokens, output=tmp_path / "run", resume=True, learning_rate=0.5)
    with pytest.raises(RunMismatchError, match="labels was"):
        learn(base, tokens, output=tmp_path / "run", resume=True, targets=np.arange(CELLS)[::-1] % 3)
    with pytest.raises(RunMismatchError, match="labels was"):
        learn(base, tokens, output=tmp_path / "run", resume=True, train=np.arange(17, -1, -1))


def test_a_run_does_not_go_on_from_another_model(base, tokens, tmp_path):
    learn(base, tokens, output=tmp_path / "run")
    other = load_model(tiny_model(tmp_path / "other", seed=1))
    with pytest.raises(RunMismatchError, match="model was"):
        learn(other, tokens, output=tmp_path / "run", resume=True)
    moved = replace(base, name="elsewhere")
    assert learn(moved, tokens, output=tmp_path / "run", resume=True)[1].steps == OPTIONS["max_steps"]


def test_a_run_stops_when_it_no_longer_improves_and_keeps_its_best_weights(base, tokens, tmp_path):
    changes = {"max_steps": 40, "eval_steps": 1, "learning_rate": 0.3, "schedule": "constant_with_warmup"}
    changes["head_start"] = "random"  # its start does not count
    network, told = learn(base, tokens, patience=3, output=tmp_path, **changes)
    found = [line["eval_loss"] for line in told.history if "eval_loss" in line]
    best = int(np.argmin(found))
    assert told.steps == len(found) == best + 1 + 3 < 40
    assert told.metrics["loss"] == min(found)
    assert same_weights(network, learn(base, tokens, **changes | {"max_steps": best + 1})[0])
    assert same_weights(network, learn(base, tokens, patience=3, output=tmp_path, resume=True, **changes)[0])


def test_patience_outlives_an_interruption(base, tokens, tmp_path):
    changes = {"max_steps": 40, "eval_steps": 1, "learning_rate": 0.3, "schedule": "constant_with_warmup"}
    whole, told = learn(base, tokens, patience=3, **changes)
    with pytest.raises(PowerCut):
        learn(base, tokens, patience=3, output=tmp_path, callbacks=[BreakOff(told.steps - 1)], **changes)
    resumed, told_resumed = learn(base, tokens, patience=3, output=tmp_path, resume=True, **changes)
    assert told_resumed.steps == told.steps
    assert same_weights(resumed, whole)


def test_evaluations_are_counted_since_the_best_one():
    lines = [{"eval_loss": x, "eval_f1": -x} for x in (3.0, 2.0, 2.0, float("nan"), 2.5)]
    assert best_evaluation([{"loss": 1.0}, *lines], "loss") == (lines[1], 3)
    assert best_evaluation(lines, "f1") == (lines[1], 3)
    assert best_evaluation([], "loss") == ({}, 0)


def test_the_weights_are_chosen_by_the_metric_asked_for(base, tokens):
    _, told = learn(base, tokens, best_by="accuracy", max_steps=4, eval_steps=1, learning_rate=0.1)
    found = [line["eval_accuracy"] for line in told.history if "eval_accuracy" in line]
    assert told.metrics["accuracy"] == max(found)


def test_class_weights_weigh_the_loss_as_in_torch(base, tokens):
    targets, weights = np.arange(CELLS) % 3, np.array([0.2, 1.0, 5.0])
    network, _ = learn(base, tokens, targets=targets, class_weights={"kind": weights})
    batch = cell_batches(tokens, np.arange(6), {"kind": targets}, 64)([(0, row) for row in range(6)])
    with torch.no_grad():
        output = network(**batch)
    logits, classes = output.predictions["kind"], torch.from_numpy(targets[:6])
    expected = functional.cross_entropy(logits, classes, weight=torch.from_numpy(weights).float())
    assert torch.allclose(output.loss, expected)
    assert not torch.allclose(output.loss, functional.cross_entropy(logits, classes))
    assert not same_weights(network, learn(base, tokens, targets=targets)[0])


def test_cells_without_a_label_teach_nothing(base, tokens):
    targets = np.where(np.arange(CELLS) % 4 == 0, MISSING, np.arange(CELLS) % 3)
    assert np.isfinite(learn(base, tokens, targets=targets)[1].metrics["loss"])
    batch = cell_batches(tokens, np.arange(8), {"kind": targets}, 64)([(0, row) for row in range(8)])
    network, _ = learn(base, tokens, max_steps=1)
    with torch.no_grad():
        output = network(**batch)
    classes = torch.from_numpy(targets[:8])
    known = classes != MISSING
    assert torch.allclose(output.loss, functional.cross_entropy(output.predictions["kind"][known], classes[known]))


def test_predictions_are_in_the_order_of_the_cells_whatever_the_batches(base, tokens):
    network, _ = learn(base, tokens)
    alone = [predict_cells(network, tokens.take(np.array([row])), RUNTIME, max_length=64)["kind"] for row in range(6)]
    for budget in (1, 130, 10_000):
        runtime = replace(RUNTIME, tokens_per_batch=budget)
        together = predict_cells(network, tokens, runtime, max_length=64)["kind"]
        assert together.shape == (CELLS, 3)
        assert np.allclose(together[:6], np.concatenate(alone), atol=1e-6)


def test_the_second_views_depend_on_seed_and_place_only(tokens):
    def views(seed, keys):
        batches = cell_batches(
            tokens, np.arange(CELLS), {}, 64, views={"special": np.array([0, 1]), "share": 0.5}, seed=seed
        )
        return batches(keys)["input_ids"]

    keys = [(0, 3), (0, 5)]
    assert torch.equal(views(0, keys), views(0, keys))
    assert not torch.equal(views(0, keys), views(1, keys))
    assert not torch.equal(views(0, keys), views(0, [(1, 3), (1, 5)]))
    assert torch.equal(views(0, keys)[: tokens.lengths[[3, 5]].sum()], torch.from_numpy(
        tokens.gather(np.array([3, 5])).input_ids.astype(np.int64)
    ))  # fmt: skip


def test_nothing_to_learn_from_is_refused(base, tokens):
    with pytest.raises(NoCellsError, match="No labeled cell is left to learn from"):
        learn(base, tokens, train=np.empty(0, dtype=np.int64))


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("Out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["device", "cpu"],
)
def test_memory_that_runs_out_is_told_with_the_remedy(base, tokens, tmp_path, monkeypatch, failure):
    step, calls = PackedTrainer.training_step, []

    def training_step(self, *arguments, **more):
        calls.append(None)
        if len(calls) == 4:
            raise failure
        return step(self, *arguments, **more)

    monkeypatch.setattr(PackedTrainer, "training_step", training_step)
    with pytest.raises(DeviceMemoryError, match=r"Lower tokens_per_batch \(now 250\) and raise accumulation \(now 1\)"):
        learn(base, tokens, output=tmp_path, **LONG)
    monkeypatch.undo()
    resumed, _ = learn(base, tokens, output=tmp_path, resume=True, **LONG)
    assert same_weights(resumed, learn(base, tokens, **LONG)[0])


def test_other_failures_are_not_taken_for_memory(base, tokens, monkeypatch):
    def training_step(self, *_, **__):
        msg = "mat1 and mat2 shapes cannot be multiplied"
        raise RuntimeError(msg)

    monkeypatch.setattr(PackedTrainer, "training_step", training_step)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        learn(base, tokens)


def test_a_loss_that_diverges_is_told(base, tokens, monkeypatch):
    usual = PackedTrainer.compute_loss
    monkeypatch.setattr(PackedTrainer, "compute_loss", lambda *given, **named: usual(*given, **named) * np.inf)
    with pytest.raises(TrainingError, match="Lower learning_rate"):
        learn(base, tokens, max_steps=6)


def test_what_a_run_was_started_with_is_noted(base, tokens, tmp_path):
    learn(base, tokens, output=tmp_path, max_steps=1)
    noted = json.loads((tmp_path / CHECKPOINTS / "run.json").read_text())
    assert noted["cells"] == 18
    assert noted["heads"][0]["classes"] == ["a", "b", "c"]
    assert noted["tokens"] == int(tokens.lengths[:18].sum())
