"""Names of files, models and columns that are wrong are refused before a library is loaded that takes seconds."""

import json
import subprocess
import sys

import pytest

from geneformer import cli
from geneformer.datasets import pbmc3k

pytestmark = pytest.mark.contract

CALLS = """
import json, sys
from typer.testing import CliRunner
from geneformer import cli
for line in json.load(sys.stdin):
    done = CliRunner().invoke(cli.app, line)
    heavy = sorted({"torch", "transformers", "scanpy"} & sys.modules.keys())
    print(json.dumps([line, done.exit_code, " ".join(done.stderr.split()), heavy, done.stdout]))
"""

READS = {
    "tokenize": ["-o", "x.dataset"],
    "embed": ["-o", "x.h5ad"],
    "annotate": ["-r", "cells.h5ad", "-l", "cell_type", "-o", "x"],
    "attention": ["-o", "x.csv"],
    "predict-masked": ["-o", "x.csv", "--genes", "B2M"],
    "pretrain": ["-o", "x"],
    "perturb plan": [],
    "perturb run": ["-o", "x"],
    "classify fit": ["-l", "cell_type", "-o", "x"],
    "classify cross-validate": ["-l", "cell_type", "-o", "x"],
    "classify search": ["-l", "cell_type", "-o", "x"],
    "classify predict": ["-m", "fitted", "-o", "x.csv"],
    "classify evaluate": ["-m", "fitted", "-o", "x"],
    "regress fit": ["-l", "cell_type", "-o", "x"],
    "regress predict": ["-m", "fitted", "-o", "x.csv"],
    "regress evaluate": ["-m", "fitted", "-o", "x"],
    "multi-task fit": ["-l", "cell_type", "-o", "x"],
    "multi-task predict": ["-m", "fitted", "-o", "x.csv"],
    "multi-task evaluate": ["-m", "fitted", "-o", "x"],
    "decode-expression fit": ["-o", "x"],
    "decode-expression predict": ["-m", "fitted", "-o", "x.csv"],
    "decode-expression evaluate": ["-m", "fitted", "-o", "x"],
    "classify-genes fit": ["--genes", "genes.csv", "-o", "x"],
    "classify-genes predict": ["-m", "fitted", "-o", "x.csv"],
    "classify-genes cross-validate": ["--genes", "genes.csv", "-o", "x"],
    "network plan": [],
    "network infer": ["-o", "x.parquet"],
    "perturb rank": ["-o", "x.csv"],
    "perturb merge": ["-o", "x"],
}
"""Commands that read, with the rest of a command line that is right."""

PLACES = {"pretrain", "perturb plan", "network plan"}
"""Of these, commands that make the folders above their output, or have none."""


def with_output(rest, output):
    return [output if before == "-o" else one for before, one in zip(["", *rest], rest, strict=False)]


def wrong_lines():
    lines = [([*name.split(), "nope.h5ad", *rest], "GF201") for name, rest in READS.items()]
    for name, rest in READS.items():
        given = ["run"] if name in ("perturb rank", "perturb merge") else ["cells.h5ad"]
        if name not in PLACES:
            # A dataset, a folder or a table: none can be made where there is no folder.
            here = next(one for before, one in zip(["", *rest], rest, strict=False) if before == "-o")
            lines.append(([*name.split(), *given, *with_output(rest, f"nowhere/{here}")], "GF400"))
        if "-m" in rest:
            lines.append(([*name.split(), *given, *["nothing" if one == "fitted" else one for one in rest]], "GF305"))
        if "cell_type" in rest:
            wrong = ["cell_typ" if one == "cell_type" else one for one in rest]
            lines.append(([*name.split(), *given, *wrong], 'Did you mean "cell_type"?'))
        if name.split()[0] in ("embed", "annotate", "attention", "predict-masked", "perturb", "network") and given == [
            "cells.h5ad"
        ]:
            lines.append(([*name.split(), *given, *rest, "-m", "nothing"], "GF304"))
            lines.append(([*name.split(), *given, *rest, "-m", "run"], "there is no config.json"))
            lines.append(([*name.split(), *given, *rest, "--vocabulary", "V7"], "V7"))
    annotating = ["annotate", "cells.h5ad", "-l", "cell_type", "-o", "x", "-r"]
    lines.append(([*annotating, "nope.h5ad"], "GF201"))
    lines.append((["embed", "cells.h5ad", "-o", "x.txt"], "GF209"))
    lines.append((["embed", "cells.h5ad", "-o", "x.h5ad", "--umap", "map.xyz"], "GF101"))
    lines.append((["embed", "cells.h5ad", "-o", "x.h5ad", "--umap", "map.png", "--color", "cell_typ"], "--color"))
    lines.append((["embed", "cells.h5ad", "-o", "x.h5ad", "--umap", "map.png", "--color", "LYZZ"], "--color"))
    lines.append((["models", "nothing"], "GF304"))
    lines.append((["models", "--convert", "run", "-o", "nowhere/x"], "GF400"))
    lines.append((["embed", "cells.h5ad", "-o", "cells.h5ad", "--overwrite"], 'is the input "cells.h5ad"'))
    lines.append((["classify", "fit", "cells.h5ad", "-l", "cell_type", "--groups", "donor", "-o", "x"], "--groups"))
    lines.append((["perturb", "run", "cells.h5ad", "-o", "x", "--state-key", "cell_typ"], "--state-key"))
    lines.append((["perturb", "rank", "run", "--null", "nope", "-o", "x.csv"], "GF201"))
    lines.append((["classify-genes", "fit", "cells.h5ad", "--genes", "nope.csv", "-o", "x"], "GF201"))
    lines.append((["classify", "predict", "cells.h5ad", "-m", "fitted", "-o", "x.xyz"], "GF209"))
    lines.append((["demo", "-o", "nowhere/x"], "GF400"))
    lines.append((["network", "show", "nope.csv"], "GF201"))
    lines.append((["network", "evaluate", "nope.csv", "--truth", "genes.csv"], "GF201"))
    lines.append((["network", "evaluate", "genes.csv", "--truth", "nope.csv"], "GF201"))
    lines.append((["pretrain", "cells.h5ad", "-o", "trained"], "holds a model already"))
    lines.append((["pretrain", "cells.h5ad", "-o", "x", "--resume"], "no training checkpoint to resume from"))
    return lines


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    place = tmp_path_factory.mktemp("paths")
    pbmc3k()[:4].copy().write_h5ad(place / "cells.h5ad")
    for name in ("run", "fitted", "trained"):
        (place / name).mkdir()
    (place / "trained" / "model.safetensors").touch()
    (place / "fitted" / "config.json").write_text("{}")
    (place / "genes.csv").write_text("gene,class\nB2M,a\nLYZ,b\n")
    before = sorted(place.rglob("*"))
    given = json.dumps([line for line, _ in wrong_lines()])
    done = subprocess.run(
        [sys.executable, "-c", CALLS], input=given, cwd=place, capture_output=True, text=True, check=True
    )
    assert sorted(place.rglob("*")) == before
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_wrong_in_a_command_line_is_said_at_once(refusals):
    for (line, code, message, heavy, output), (_, expected) in zip(refusals, wrong_lines(), strict=True):
        assert code == 1, line
        assert expected in message, line
        assert "Traceback" not in message, line
        assert output == "", line
        assert heavy == [], line


def test_every_command_that_reads_is_tried():
    names = {*cli.COMMANDS, *(f"{family} {name}" for family, members in cli.GROUPS.items() for name in members)}
    families = set(cli.GROUPS)
    of_networks = {"network evaluate", "network show"}
    assert names - families - set(READS) - of_networks == {
        "demo",
        "doctor",
        "explain",
        "models",
        "verify",
        "vocabulary",
    }
