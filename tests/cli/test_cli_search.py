import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from geneformer.cli import app
from geneformer.finetuning.estimators import CellClassifier
from small_finetuning import labeled_blood, tiny_model

pytestmark = pytest.mark.contract

FLAGS = [
    "--label", "kind", "--max-steps", "1", "--tokens-per-batch", "600", "--baselines", "none", "--device", "cpu",
    "--dtype", "float32", "--no-progress", "--valid", "0.25", "--test", "0.25", "--json",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli_search")
    tiny_model(folder / "model", dropout=0.0)
    cells = labeled_blood(25)
    cells.obs["kind"] = cells.obs["kind"].astype(object)
    cells.obs.loc[cells.obs_names[24], "kind"] = None
    cells.write_h5ad(folder / "cells.h5ad")
    (folder / "space.toml").write_text("[space]\nfreeze_layers = {low = 0, high = 1}\nlearning_rate = [1e-3, 1e-2]\n")
    return folder


def call(folder, *flags):
    common = [str(folder / "cells.h5ad"), "--model", str(folder / "model"), "--space", str(folder / "space.toml")]
    return CliRunner().invoke(app, ["classify", "search", *common, *FLAGS, *flags])


def test_two_calls_share_a_study_and_the_second_fits(folder, tmp_path):
    storage = ["--storage", f"sqlite:///{tmp_path}/study.db"]
    first = call(folder, *storage, "--trials", "1", "--refit", "none")
    assert first.exit_code == 0, first.stderr
    told = json.loads(first.stdout)
    assert told["output"] is None
    assert told["trials"] == {"complete": 1}
    second = call(folder, *storage, "--trials", "2", "--output", str(tmp_path / "classifier"))
    assert second.exit_code == 0, second.stderr
    told = json.loads(second.stdout)
    assert told["trials"] == {"complete": 2}
    assert told["cells_left_out"] == {"without a label in kind": 1}
    trials = pd.read_csv(tmp_path / "classifier" / "trials.csv")
    best = trials.loc[trials["value"].idxmax()]
    assert told["best_value"] == pytest.approx(best["value"])
    assert told["best_options"] == {name: pytest.approx(best[name]) for name in ("freeze_layers", "learning_rate")}
    saved = CellClassifier.load(tmp_path / "classifier")
    assert saved._options["finetuning"]["learning_rate"] == told["best_options"]["learning_rate"]
    assert told["test"]["macro_f1"]["mean"] is not None


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "no --output"),
        (["--refit", "none", "--output", "classifier"], "--refit none"),
        (["--refit", "none", "--max-length", "9", "--metric", "f1"], "macro_f1"),
    ],
)
def test_refusals(folder, flags, told):
    found = call(folder, *flags)
    assert found.exit_code == 1
    assert told in found.stderr
