"""`geneformer perturb` from the shell's side: plan, run in parts, merge, resume and rank, with the bundled model."""

import json
import re

import pandas as pd
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from geneformer import cli
from geneformer.datasets import pbmc3k
from geneformer.files.manifest import Manifest
from geneformer.perturbation import run
from geneformer.perturbation.effects import PerturbationEffects

CPU = ["--device", "cpu", "--dtype", "float32", "--no-progress"]
STATES = ["--start", "B cells", "--goal", "CD14+ Monocytes", "--state-key", "cell_type"]
FEW = ["--genes", "B2M", "--genes", "both=CD74+B2M", "--genes", "overexpress:LYZ", "--cells-per-shard", 1]

pytestmark = [pytest.mark.contract, pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")]


def call(*arguments):
    return CliRunner().invoke(cli.app, ["perturb", *map(str, arguments)])


def told(*arguments):
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    adata = pbmc3k()
    kinds = adata.obs["cell_type"]
    rows = [*kinds.index[kinds == "B cells"][:3], *kinds.index[kinds == "CD14+ Monocytes"][:3]]
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    adata[rows].copy().write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def whole(cells, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    report = told("run", cells, "-o", out, *STATES, *FEW, *CPU)
    (out.parent / "report.json").write_text(json.dumps(report))
    return out


def effects(folder):
    frame = PerturbationEffects.read(folder).to_frame()
    return frame.astype({name: str for name in frame.columns if name != "value"})


def test_plan_tells_what_run_does(cells, whole):
    planned = told("plan", cells, *STATES, *FEW, *CPU)
    report = json.loads((whole.parent / "report.json").read_text())
    panel = {"asked": 3, "used": 3, "left_out": [], "reasons": []}
    assert report == {"output": str(whole), "cells": 3, "effects": planned["rows"], "panel": panel}
    assert planned["panel"] == panel
    some = told("plan", cells, *STATES, *FEW, "--genes", "NOTAGENE", "--no-calibrate", *CPU)
    assert some["panel"]["left_out"] == ["NOTAGENE"]
    assert (planned["cells"], planned["perturbations"], planned["shards"]) == (3, 3, 3)
    assert planned["rows"] == 2 * planned["passes"] == len(effects(whole))
    assert planned["seconds"] > 0
    told_in_words = call("plan", cells, *STATES, *FEW, *CPU, "--no-calibrate")
    assert told_in_words.exit_code == 0
    assert told_in_words.stdout == ""
    for line in ("Nothing was run yet", "Forward passes", "Memory, about", "Shards"):
        assert line in told_in_words.stderr, line
    assert "Time on this machine" not in told_in_words.stderr


def test_run_writes_shifts_of_every_perturbation(whole):
    found = PerturbationEffects.read(whole)
    frame = effects(whole)
    assert set(frame["perturbation"]) == {"B2M", "both", "overexpress:LYZ"}
    assert set(frame["target"]) == {"B cells", "CD14+ Monocytes"}
    assert set(frame["effect"]) == {"shift"}
    assert frame["value"].abs().between(1e-9, 1).all()
    assert (found.start, found.goal) == ("B cells", "CD14+ Monocytes")
    assert set(found.cells["cell_type"].to_pylist()) == set(found.cells["state"].to_pylist()) == {"B cells"}
    assert found.provenance["model"] == "mini"
    assert [name for name in found.genes.column_names if name.startswith("expression:")]
    assert Manifest.read(whole).options["perturb"]["genes"] == ["B2M", "both=CD74+B2M", "overexpress:LYZ"]
    assert {path.name for path in whole.parent.iterdir()} == {"run", "report.json"}


def test_parts_merge_to_the_whole(cells, whole, tmp_path):
    parts = [tmp_path / f"part{number}" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        result = call("run", cells, "-o", part, *STATES, *FEW, *CPU, "--part", f"{number}/2")
        assert result.exit_code == 0, result.output
        assert f"merge{part}PART{3 - number}" in re.sub(r"[\s│]", "", result.stderr)
    refused = call("rank", parts[1], "-o", tmp_path / "half.csv")
    assert (refused.exit_code, "GF402" in refused.stderr) == (1, True)
    assert "part 2 of 2 of a run; missing are [1]" in " ".join(refused.stderr.split())
    assert not (tmp_path / "half.csv").exists()
    report = told("merge", *reversed(parts), "-o", tmp_path / "merged")
    assert report == {"output": str(tmp_path / "merged"), "effects": len(effects(whole))}
    assert effects(tmp_path / "merged").equals(effects(whole))
    refused = call("merge", parts[0], "-o", tmp_path / "half")
    assert refused.exit_code == 1
    assert "missing are [2]" in " ".join(refused.stderr.split())
    assert not (tmp_path / "half").exists()
    assert call("merge", *parts, "-o", tmp_path / "merged").exit_code == 1
    assert call("merge", *parts, "-o", tmp_path / "merged", "--overwrite").exit_code == 0


def test_a_run_goes_on_after_an_interruption(cells, whole, tmp_path, monkeypatch):
    real, made = run.run_shard, []

    def interrupted(plan, shard, *rest):
        if shard == 1:
            raise KeyboardInterrupt
        return real(plan, shard, *rest)

    given = ["run", cells, "-o", tmp_path / "out", *STATES, *FEW, *CPU]
    with monkeypatch.context() as patched:
        patched.setattr(run, "run_shard", interrupted)
        assert call(*given).exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    refused = call(*given)
    assert refused.exit_code == 1
    assert "--resume" in refused.stderr
    monkeypatch.setattr(run, "run_shard", lambda plan, shard, *rest: made.append(shard) or real(plan, shard, *rest))
    assert call(*given, "--resume").exit_code == 0
    assert made == [1, 2]
    assert (tmp_path / "out" / "effects.parquet").read_bytes() == (whole / "effects.parquet").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_options_from_a_file(cells, whole, tmp_path):
    (tmp_path / "options.toml").write_text(
        '[perturb]\ngenes = ["B2M", "both=CD74+B2M", "overexpress:LYZ"]\ncells_per_shard = 1\nstart = "B cells"\n'
        'goal = "CD14+ Monocytes"\nstate_key = "cell_type"\n[runtime]\ndevice = "cpu"\ndtype = "float32"\n'
    )
    given = ["run", cells, "--config", tmp_path / "options.toml", "--no-progress"]
    told(*given, "-o", tmp_path / "out")
    assert (tmp_path / "out" / "effects.parquet").read_bytes() == (whole / "effects.parquet").read_bytes()
    told(*given, "-o", tmp_path / "one", "--genes", "B2M")
    assert set(effects(tmp_path / "one")["perturbation"]) == {"B2M"}


def test_a_finished_run_is_ranked(whole, tmp_path):
    report = told("rank", whole, "-o", tmp_path / "ranking.csv", "--permutations", 20)
    table = pd.read_csv(tmp_path / "ranking.csv")
    assert report["mode"] == "goal_state_shift"
    assert report["n"] == len(table) == 3
    shown = call("rank", whole, "-o", tmp_path / "again.csv", "--permutations", 20)
    head, *lines = shown.stderr.partition("└")[2].splitlines()[1:]
    assert head.split()[:3] == ["Perturbation", "Shift", "to"]
    assert [line.split()[0] for line in lines] == table["perturbation"].tolist()
    assert all(f"{effect:.4g}" in line for effect, line in zip(table["effect"], lines, strict=True))


@pytest.mark.parametrize("mode", ["aggregate", "mixture_model"])
def test_first_ranks_are_shown_whatever_the_statistics(cells, tmp_path, mode):
    told("run", cells, "-o", tmp_path / "run", "--max-cells", 2, "--genes", "B2M,CD74,overexpress:LYZ", *CPU)
    shown = call("rank", tmp_path / "run", "-o", tmp_path / "ranking.csv", "--permutations", 20, "--mode", mode)
    assert shown.exit_code == 0, shown.output
    head, *lines = shown.stderr.partition("└")[2].splitlines()[1:]
    assert head.split()[:2] == ["Perturbation", "Effect"]
    assert {line.split()[0] for line in lines} == {"B2M", "CD74", "overexpress:LYZ"}


def test_all_genes_of_a_cell_of_tokens_without_states(cells, tmp_path):
    tokens, given = tmp_path / "cells.dataset", ["--max-cells", 1, "--seed", 3, *CPU]
    made = CliRunner().invoke(cli.app, ["tokenize", str(cells), "-o", str(tokens), "--max-length", "30"])
    assert made.exit_code == 0, made.output
    report = told("run", tokens, "-o", tmp_path / "out", *given)
    frame = effects(tmp_path / "out")
    assert set(frame["effect"]) == {"similarity"}
    assert report["effects"] == len(frame) == frame["perturbation"].nunique() == 30
    assert told("plan", tokens, *given, "--no-calibrate")["rows"] == len(frame)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--genes", "B2MM"], 'Did you mean "B2M"'),
        (["--genes", "inhibit@much:B2M"], "is no number"),
        (["--edit", "overexpress", "--method", "screen"], 'method="screen"'),
        (["--start", "B cell", "--state-key", "cell_type"], 'Did you mean "B cells"'),
        (["--start", "B cells", "--goal", "B cells"], "must differ"),
        (["--genes", "B2M", "--layer", "-40"], "layer=-40"),
        (["--genes", "B2M", "--pooling", "cls"], 'Use pooling="mean"'),
        (["--genes", "B2M", "--part", "0/2"], "Count from 1"),
        (["--genes", "B2M", "--part", "two"], "Write I/N"),
        (["--genes", "B2M", "--part", "1/7"], "too few for 7 parts"),
        (["--genes", "B2M", "--model", "nothing-like-it"], "nothing-like-it"),
    ],
)
def test_refusals_are_short_and_write_nothing(cells, tmp_path, given, sentence):
    result = call("run", cells, "-o", tmp_path / "out", *given, *CPU)
    assert result.exit_code == 1, result.output
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept(whole, cells, tmp_path):
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    for given in ([], ["--resume"]):
        refused = call("run", cells, "-o", whole, *STATES, *FEW, *CPU, *given)
        assert refused.exit_code == 1
        assert "--overwrite" in refused.stderr
    assert call("rank", cells, "-o", tmp_path / "ranking.csv").exit_code == 1
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before
    assert parquet.read_metadata(whole / "effects.parquet").num_rows == len(effects(whole))
