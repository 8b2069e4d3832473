"""What is perturbed and ranked: entries as users write them, states, parts, folders of runs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from gallery.inputs import cells, h5ad
from gallery.model_folders import model
from gallery.rows import ACCEPTED, Row, call, command
from geneformer.genes.vocabulary import Vocabulary
from geneformer.options import RankOptions
from geneformer.perturbation.effects import EFFECT_COLUMNS, PerturbationEffects, effects_of, to_uns
from geneformer.perturbation.run import merge_runs
from geneformer.perturbation.statistics import rank_effects

USING = ("{}", "-m", "model", "--device", "cpu", "--no-progress")


def perturb(*more):
    return command("perturb", "run", *USING, "-o", "run", "--max-cells", "2", *more)


def _few(adata, *, alone=False, **columns):
    """Cells of which each has the same few genes, or one of them has the first alone; the last gene is in none."""
    few = adata[:6, :40].copy()
    few.X = np.tile(np.arange(40, 0, -1), (6, 1)) - 1.0
    if alone:
        few.X[0, 1:] = 0
    for name, values in columns.items():
        few.obs[name] = pd.Series(values, index=few.obs_names, dtype=object if None in values else None)
    return few


def _cells(**columns):
    def make(folder: Path) -> Path:
        model()(folder)
        return h5ad(partial(_few, **columns))(folder)

    return make


def names():
    """Genes of the cells."""
    return list(cells().var_names[:40])


FIRST, SECOND, ABSENT = names()[0], names()[1], names()[-1]
SYMBOL = Vocabulary.load("V1").symbol_of(FIRST)


def _parsed(entry):
    from small_plans import parsed

    found = parsed(entry)
    return found.name, found.edit


def _run(
    folder: Path, name: str, number: int, change: Callable[[dict[str, Any]], object] = lambda _: None, parts: int = 2
) -> Path:
    """A part of a finished run, written without running one; `change` is given its tables."""
    rows = [(f"c{number}", gene, gene, "delete", "similarity", "", 0.9, "exact") for gene in (FIRST, SECOND)]
    effects = pa.table(dict(zip(EFFECT_COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
    told = {"run": {"cells": "x"}, "part": [number, parts], "shards": [[number - 1, 2]], "vocabulary_fingerprint": "v"}
    told |= {"perturb": {}, "vocabulary": "V1"}
    content: dict[str, Any] = {
        "effects": effects,
        "cells": pa.table({"cell_id": [f"c{number}"]}),
        "genes": pa.table({"gene": [FIRST, SECOND], "symbol": ["a", "b"], "token": [2, 3]}),
        "provenance": told,
    }
    change(content)
    path = folder / name
    path.mkdir()
    PerturbationEffects(**content).save(path)
    return Path(name)


def _one(change=lambda _: None):
    return lambda folder: _run(folder, "run", 1, change, parts=1)


def _told(**entries):
    return lambda content: content["provenance"].update(entries)


def _nested(folder: Path) -> Path:
    path = _run(folder, "run", 1)
    table = parquet.read_table(path / "effects.parquet")
    deep = {b"geneformer": b'{"a":' * 100_000}
    parquet.write_table(table.replace_schema_metadata(deep), path / "effects.parquet")
    return path


def _parts(change=lambda _: None):
    return lambda folder: [_run(folder, "a", 1), _run(folder, "b", 2, change)]


def _ranked(path):
    return len(rank_effects(PerturbationEffects.read(path), RankOptions(mode="aggregate")))


def _slot(change):
    def make(folder: Path):
        adata = cells(2)
        path = _run(folder, "run", 1, parts=1)
        slot = to_uns(PerturbationEffects.read(path))
        if change is not None:
            change(slot)
        adata.uns["geneformer_perturbation"] = "x" if change is None else slot
        return adata

    return make


def _ranked_slot(adata):
    return len(rank_effects(effects_of(adata), RankOptions(mode="aggregate")))


def merge(output, *, overwrite=False):
    return call(lambda parts: merge_runs(parts, output, overwrite=overwrite))


ROWS = [
    Row("a gene", _cells(), ACCEPTED, act=perturb("--genes", FIRST), why="the plain case", writes=("run",)),
    *(Row(f"the entry {entry!r}", lambda _, entry=entry: entry, code, says, act=call(_parsed), why=why)
      for entry, code, says, why in (
          (f":{FIRST}", "GF101", "edit=''", ""),
          (f"x:{FIRST}", "GF101", "edit='x'", ""),
          (f"={FIRST}", "GF100", "no name", ""),
          (f"a=b={FIRST}", ACCEPTED, "'a=b'", "names may hold the sign; the last one ends the name"),
          (f"delete@0.5:{FIRST}", "GF100", "does not take", ""),
          (f"inhibit@²:{FIRST}", "GF100", "no number", ""),
          (f"inhibit@1e400:{FIRST}", "GF102", "dose", ""),
          (f"{FIRST}+", "GF801", "''", ""),
          (f"{FIRST}>", "GF801", "''", ""),
          ("ALL", "GF100", 'Write "all" for every gene', ""),
          ("ZZZ9", "GF801", "Pass Ensembl ids or symbols", ""),
      )),
    Row("a gene by symbol and by identifier", _cells(), "GF100", "the same perturbation",
        act=perturb("--genes", SYMBOL, "--genes", FIRST)),
    Row("all genes and one of them", _cells(), "GF100", "the same perturbation",
        act=perturb("--genes", "all", "--genes", SYMBOL)),
    Row("more genes at once than a cell has room for", _cells(), "GF804", "room for 2,048",
        act=perturb("--edit", "overexpress", "--genes", "+".join(cells().var_names[:2100]))),
    Row("all genes of every cell at once", _cells(), "GF804", "nothing would be left",
        act=perturb("--genes", "+".join(names()[:-1]))),
    Row("a gene that is all that is left of a cell", _cells(alone=True), ACCEPTED, act=perturb("--genes", FIRST),
        why="that cell is passed over, as one without the gene is: nothing would be left of it", writes=("run",)),
    Row("a gene that no cell has", _cells(), "GF802", "fewer than 1", act=perturb("--genes", ABSENT)),
    Row("missing values for a state", _cells(kind=["a", "a", "a", None, None, None]), "GF803", "No cell is 'None'",
        act=perturb("--genes", FIRST, "--start", "None", "--goal", "a", "--state-key", "kind")),
    Row("numbers for states", _cells(kind=[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]), ACCEPTED,
        act=perturb("--genes", FIRST, "--start", "0", "--goal", "1", "--state-key", "kind"),
        why="0 and 0.0 are one number", writes=("run",)),
    Row("a part in raised digits", _cells(), "GF100", "not understood", act=perturb("--genes", FIRST, "--part", "²/²")),
    Row("a part that is not there", _cells(), "GF100", "does not exist",
        act=perturb("--genes", FIRST, "--part", "2/1")),
    Row("masked genes that nobody knows", _cells(), "GF801", "ZZZ9",
        act=command("predict-masked", *USING, "-o", "out.csv", "--genes", "ZZZ9")),
    Row("attention of genes that nobody knows", _cells(), "GF801", "ZZZ9",
        act=command("attention", *USING, "-o", "out.csv", "--genes", "ZZZ9")),
    Row("a masked gene that no cell has", _cells(), "GF802", "in none of the",
        act=command("predict-masked", *USING, "-o", "out.csv", "--genes", ABSENT)),
    Row("attention of a gene that no cell has", _cells(), "GF802", "in none of the",
        act=command("attention", *USING, "-o", "out.csv", "--genes", ABSENT)),
    *(Row(f"a panel of which some are absent, for {task}", _cells(), ACCEPTED, "Left out: 1 without a token",
          act=command(task, *USING, "-o", "out.csv", "--genes", FIRST, "--genes", ABSENT, "--genes", "ZZZ9"),
          why="they are left out, and all of them are listed", writes=("out.csv",))
      for task in ("predict-masked", "attention")),
    Row("a panel of which some are absent, perturbed", _cells(), ACCEPTED, "1 of 3 perturbations are used",
        act=perturb("--genes", FIRST, "--genes", ABSENT, "--genes", "ZZZ9"),
        why="they are left out, and all of them are listed", writes=("run",)),
    Row("a panel of which one must not be absent", _cells(), "GF801", "ZZZ9",
        act=perturb("--genes", FIRST, "--genes", "ZZZ9", "--unknown", "error")),
    Row("more predictions than there are genes", _cells(), "GF102", "at most 25424",
        act=command("predict-masked", *USING, "-o", "out.csv", "--genes", FIRST, "--n-predictions", str(10**9))),
    Row("a finished run", _one(), ACCEPTED, act=call(_ranked), why="the plain case"),
    Row("a run whose notes are nested too deeply", _nested, "GF308", "run", act=call(_ranked)),
    *(Row(f"a slot of uns {name}", _slot(change), code, says, act=call(_ranked_slot), why=why)
      for name, change, code, says, why in (
          ("with effects", lambda _: None, ACCEPTED, "2", "the plain case"),
          ("without values", lambda slot: slot.update(effects=slot["effects"].drop(columns="value")), "GF308",
           "lacks value", ""),
          ("with text for values", lambda slot: slot["effects"].__setitem__("value", "x"), "GF308", "no numbers", ""),
          ("without tokens of genes", lambda slot: slot.update(genes=slot["genes"].drop(columns="token")), "GF308",
           "genes lacks token", ""),
          ("without the cells", lambda slot: slot.pop("cells"), "GF308", "no effects", ""),
          ("with more names of states than embeddings", lambda slot: slot.update(state_names=["a", "b"]), "GF308",
           "no effects", ""),
          ("with notes nested too deeply", lambda slot: slot.update(provenance='{"a":' * 100_000), "GF308",
           "no effects", ""),
          ("that is a text", None, "GF308", "no effects", ""),
      )),
    Row("both parts of a run", _parts(), ACCEPTED, act=merge("all"), why="the plain case", writes=("all",)),
    Row("parts merged over one of them", _parts(), "GF400", "is the input", act=merge("a", overwrite=True)),
    Row("a part whose shards are text", _parts(_told(shards=[["x", "y"]])), "GF308", "which part",
        act=merge("all")),
    Row("a part with more rows than it has", _parts(_told(shards=[[1, 9]])), "GF308", "which part", act=merge("all")),
    Row("a part that is a text", _parts(_told(part="2/2")), "GF308", "which part", act=merge("all")),
    Row("a part of another run", _parts(_told(run={"cells": "y"})), "GF402", "another run", act=merge("all")),
]  # fmt: skip
