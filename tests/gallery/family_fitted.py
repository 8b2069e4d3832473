"""Folders of fitted models, their reports, and perturbation runs: what they say of themselves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

import geneformer
from gallery.model_folders import HIDDEN, model
from gallery.rows import ACCEPTED, Row, call
from geneformer.finetuning.reports import load_report
from geneformer.perturbation.effects import PerturbationEffects

BEFORE = Path(__file__).parents[1] / "data" / "written_before"
DEEP = '{"a":' * 100_000


def stored(name, change=lambda _: None):
    """A folder as an earlier version wrote it, changed."""

    def make(folder: Path) -> Path:
        shutil.copytree(BEFORE / name, folder / name)
        change(folder / name)
        return Path(name)

    return make


def edited(file, change):
    """An edit of a JSON file; of what `change` returns, or of the object it changed."""

    def edit(path):
        content = json.loads((path / file).read_text())
        changed = change(content)
        (path / file).write_text(changed if isinstance(changed, str) else json.dumps(content))

    return edit


def entry(name, value, file="task.json"):
    return edited(file, lambda content: content.__setitem__(name, value))


def weights(change):
    def edit(path):
        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})

    return edit


def table(name, change):
    def edit(path):
        pq.write_table(change(pq.read_table(path / f"{name}.parquet")), path / f"{name}.parquet")

    return edit


def _as_text(found):
    place = found.schema.get_field_index("value")
    return found.set_column(place, "value", pa.array(["x"] * found.num_rows))


def _of_another_run(path):
    found = pq.read_table(path / "genes.parquet")
    noted = {
        key: value.replace(b"mini", b"mono").replace(b"tiny", b"tidy") for key, value in found.schema.metadata.items()
    }
    pq.write_table(found.replace_schema_metadata(noted), path / "genes.parquet")


def published(**entries):
    """A classifier of cells as the published package writes it."""

    def change(stored_weights):
        rng = np.random.default_rng(2)
        for name in [name for name in stored_weights if name.startswith("cls.")]:
            del stored_weights[name]
        shapes = {"bert.pooler.dense": (HIDDEN, HIDDEN), "classifier": (2, HIDDEN)}
        for name, shape in shapes.items():
            stored_weights[f"{name}.weight"] = rng.normal(0, 0.1, shape).astype(np.float32)
            stored_weights[f"{name}.bias"] = np.zeros(shape[0], np.float32)

    return model(change, architectures=["BertForSequenceClassification"], **entries)


def _load(path):
    return geneformer.load_classifier(path)


def _classes(path):
    return geneformer.load_classifier(path).classes_


load, effects, report = call(_load), call(PerturbationEffects.read), call(load_report)
CELLS, GENES, TASKS = "cell_classifier", "gene_classifier", "multi_task_classifier"

ROWS = [
    *(Row(f"{name} as written before", stored(name), ACCEPTED, act=load, why="the plain case")
      for name in (CELLS, GENES, TASKS, "cell_regressor", "label_sets", "expression_decoder")),
    Row("a task nested too deeply", stored(CELLS, edited("task.json", lambda _: DEEP)), "GF305", "not valid JSON",
        act=load),
    Row("a task that is a list", stored(CELLS, edited("task.json", lambda _: "[]")), "GF305", "JSON object", act=load),
    Row("a task of no kind", stored(CELLS, entry("kind", "tree")), "GF305", "tree", act=load),
    Row("a log nested too deeply", stored(CELLS, edited("training.json", lambda _: DEEP)), "GF305", "not valid JSON",
        act=load),
    Row("fewer classes than were learnt", stored(CELLS, entry("classes_", ["kind 0"])), "GF305", "has learnt",
        act=load),
    Row("classes in another order", stored(CELLS, entry("classes_", ["kind 1", "kind 0", "kind 2"])), "GF305",
        "has learnt", act=load),
    Row("classes that are a number", stored(CELLS, entry("classes_", 3)), "GF305", act=load),
    Row("another name of the label", stored(CELLS, entry("label_", "other")), "GF305", "has learnt", act=load),
    Row("a temperature of 0", stored(CELLS, entry("temperature_", 0)), "GF305", "temperatures", act=load),
    Row("a temperature that is no number", stored(CELLS, entry("temperature_", float("nan"))), "GF305", "temperatures",
        act=load),
    Row("a temperature that is a text", stored(CELLS, entry("temperature_", "warm")), "GF305", act=load),
    Row("temperatures of other tasks", stored(TASKS, entry("temperatures_", {"x": 1.0})), "GF305", act=load),
    Row("options that are a list", stored(CELLS, entry("options", [])), "GF305", act=load),
    Row("an option out of range", stored(CELLS, entry("options", {"finetuning": {"epochs": -1}})), "GF305", "epochs",
        act=load),
    Row("preprocessing without a length", stored(CELLS, entry("preprocessing", {})), "GF305", "max_length", act=load),
    Row("a length that is a text", stored(CELLS, entry("preprocessing", {"max_length": "64"})), "GF305", "max_length",
        act=load),
    Row("a folder without weights", stored(CELLS, lambda path: (path / "model.safetensors").unlink()), "GF305",
        "model.safetensors", act=load),
    Row("a head with weights that are not finite", stored(CELLS, weights(lambda w: w["heads.0.weight"].fill(np.nan))),
        "GF305", "not finite", act=load),
    Row("heads that the configuration does not describe", stored(CELLS, entry("geneformer_heads", [{"a": 1}],
        "config.json")), "GF305", "does not describe", act=load),
    Row("heads that are a number", stored(CELLS, entry("geneformer_heads", 7, "config.json")), "GF305", act=load),
    Row("a pooling there is not", stored(CELLS, entry("geneformer_pooling", "os.system", "config.json")), "GF305",
        act=load),
    Row("a report nested too deeply", stored(f"{CELLS}/report", edited("report.json", lambda _: DEEP)), "GF202",
        act=report),
    Row("a report of no kind", stored(f"{CELLS}/report", entry("kind", "tree", "report.json")), "GF202", act=report),
    Row("a published classifier", published(id2label={"0": "B", "1": "T"}), ACCEPTED, ("'B'", "'T'"),
        act=call(_classes)),
    Row("a published classifier with fewer classes than it has", published(id2label={"0": "B"}), "GF305", "heads.0",
        act=load),
    Row("a pretrained model", model(), "GF305", "looks like a pretrained checkpoint", act=load),
    Row("a run as written before", stored("perturbation"), ACCEPTED, act=effects, why="the plain case"),
    Row("a run without a column", stored("perturbation", table("effects", lambda t: t.drop_columns(["value"]))),
        "GF308", "value", act=effects),
    Row("effects that are texts", stored("perturbation", table("effects", _as_text)), "GF308", "no numbers",
        act=effects),
    Row("genes of another run", stored("perturbation", _of_another_run), "GF308", "different runs", act=effects),
    Row("a run without a table", stored("perturbation", lambda path: (path / "cells.parquet").unlink()), "GF308",
        act=effects),
    Row("a run with a table cut short", stored("perturbation", lambda path: (path / "cells.parquet").write_bytes(
        (path / "cells.parquet").read_bytes()[:200])), "GF308", act=effects),
]  # fmt: skip
