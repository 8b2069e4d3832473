"""Pretraining and fine-tuning in two processes of `torchrun`, which speak over gloo: the first one alone writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from geneformer.models.loading import load_model
from small_finetuning import tiny_model
from small_runs import write_architecture, write_cells

TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no processes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where both processes worked."""
    folder = tmp_path_factory.mktemp("processes")
    write_architecture(folder)
    write_cells(folder, sources=1)
    tiny_model(folder / "tiny")
    paths = os.pathsep.join([*sys.path, str(TESTS), str(TESTS / "finetuning")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [*launch, str(Path(__file__).with_name("processes.py")), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def reports(folder):
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_the_first_process_alone_writes_the_run(folder, reports):
    first, second = ({name for name in report["written"] if not name.startswith(".")} for report in reports)
    assert {"run.json", "config.json", "model.safetensors", "pretraining.json", "tokens.dataset"} <= first
    assert second <= {"rng_state_1.pth", "checkpoints", "checkpoint-2", "checkpoint-4", "checkpoint-6"}


def test_the_run_was_trained_by_both_and_resumed(folder):
    record = json.loads((folder / "out" / "pretraining.json").read_text())
    assert record["steps"] == 6
    assert sorted(path.name for path in (folder / "out" / "checkpoints").glob("checkpoint-6/rng*")) == [
        "rng_state_0.pth",
        "rng_state_1.pth",
    ]
    load_model(folder / "out")
    assert list((folder / "out").rglob(".*")) == []


def test_fine_tuning_without_a_folder_ends_with_the_best_weights_in_every_process(reports):
    first, second = reports
    assert first["best"] < first["evaluations"] - 1
    assert first["weights"] == second["weights"]
    assert [len(report["temporary folders"]) for report in reports] == [1, 0]
