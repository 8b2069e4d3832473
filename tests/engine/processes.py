"""One of several processes that `torchrun` starts: pretrain by command, fine-tune without a folder.

The report has the files that this process opened for writing, made or renamed under the folder of the runs.
"""

import json
import os
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Both runs; the report of a process is named after its rank."""
    written, temporary = [], []

    def watch(event, arguments):
        if event == "open" and isinstance(arguments[0], str) and set(str(arguments[1])) & set("wax+"):
            written.append(arguments[0])
        elif event in {"os.rename", "os.mkdir"}:
            written.append(str(arguments[1] if event == "os.rename" else arguments[0]))
        elif event == "tempfile.mkdtemp":
            temporary.append(Path(arguments[0]).name)

    sys.addaudithook(watch)
    report = pretrain(folder) | finetune(folder)
    rank = os.environ["RANK"]
    report["temporary folders"] = [name for name in temporary if name.startswith("geneformer-")]
    report["written"] = sorted({Path(name).name for name in written if name.startswith(str(folder / "out"))})
    (folder / f"rank{rank}.json").write_text(json.dumps(report))


def pretrain(folder: Path) -> dict:
    """A run of the command that breaks off nowhere, then one that goes on."""
    from geneformer.cli import app

    cells, architecture = str(folder / "donor0.h5ad"), str(folder / "architecture.json")
    options = ["--architecture", architecture, "--tokens-per-batch", "300", "--logging-steps", "1", "--device", "cpu"]
    for steps, resume in (("4", []), ("6", ["--resume"])):
        command = ["pretrain", cells, "-o", str(folder / "out"), "--max-steps", steps, "--save-steps", "2", *options]
        if app([*command, "--held-out", "0.25", "--no-progress", *resume], standalone_mode=False):
            sys.exit(1)
    return {}


def finetune(folder: Path) -> dict:
    """Weights after a run whose best evaluation is not the last."""
    import numpy as np
    from test_finetuning import learn, short_tokens

    from geneformer.finetuning.training import array_digest
    from geneformer.models.loading import load_model

    changes = {
        "max_steps": 40,
        "eval_steps": 1,
        "learning_rate": 0.3,
        "schedule": "constant_with_warmup",
        "patience": 3,
    }
    network, result = learn(load_model(folder / "tiny"), short_tokens(cells=24), **changes)
    evaluations = [line["eval_loss"] for line in result.history if "eval_loss" in line]
    weights = array_digest(*(value.numpy() for value in network.state_dict().values()))
    return {"weights": weights, "best": int(np.argmin(evaluations)), "evaluations": len(evaluations)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
