"""Embedding and training run on a device nobody named: PyTorch's PrivateUse1, registered by `stand_in.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a process of its own reports: a backend, once registered, stays."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this PyTorch has no backends in Python; the version in constraints.txt has")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(Path(__file__).parent / "stand_in.py"), str(tmp_path_factory.mktemp("runs"))]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_accelerator_is_found(told):
    assert told["device"].startswith("standin")


@pytest.mark.parametrize("pooling", ["mean", "gene"])
def test_embeddings_are_those_of_the_cpu(told, pooling):
    assert told[pooling]["where"] == "standin:0"
    assert told[pooling]["difference"] < 1e-5


def test_a_training_step_is_that_of_the_cpu(told):
    training = told["training"]
    assert (training["where"], training["host"]) == ("standin:0", "cpu")
    assert training["losses"][0] == pytest.approx(training["losses"][1], abs=1e-5)
    assert training["difference"] < 1e-4
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json"} <= set(training["saved"])


def test_the_work_was_done_on_the_stand_in(told):
    assert {"aten::addmm", "aten::bmm", "aten::_copy_from", "aten::index_add"} <= set(told["operations"])
