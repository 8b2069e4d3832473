"""Every public door refuses what is of the wrong kind by an error of this package, whatever the kind."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import geneformer as gf
from geneformer.errors import GeneformerError
from small_cells import blood, short_tokens
from small_perturbations import made_run

mpl.use("agg")

pytestmark = pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")

WRITTEN = Path(__file__).parent / "data" / "written_before"
NOWHERE = Path("no") / "such" / "cells.h5ad"
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def kinds():
    adata, classifier = blood(6), gf.load_classifier(WRITTEN / "cell_classifier")
    return {
        "path": str(NOWHERE), "Path": NOWHERE, "frame": pd.DataFrame({"a": [1, 2]}), "series": pd.Series([1, 2]),
        "array": np.ones((3, 2)), "sparse": sparse.csr_matrix(np.eye(3)), "list": [1, 2], "empty list": [],
        "list of frames": [pd.DataFrame()], "list of cells": [adata, adata], "dict": {"a": 1}, "None": None,
        "number": 3, "bytes": b"x", "class": gf.CellClassifier, "unfitted": gf.CellClassifier(), "fitted": classifier,
        "report": classifier.report_, "model": gf.load_model("mini"), "cells": adata, "tokens": short_tokens(),
    }  # fmt: skip


CELLS = ("cells", "tokens")
NAMED = ("path", "Path")
EMPTY = ("None", "empty list")
DOORS = {
    "pp.tokenize": (lambda x, k: gf.pp.tokenize(x), ("cells", "list of cells")),
    "pp.tokenize, vocabulary": (lambda x, k: gf.pp.tokenize(k["cells"], vocabulary=x), ()),
    "tl.embed": (lambda x, k: gf.tl.embed(x, **QUIET), ("cells",)),
    "tl.embed, model": (lambda x, k: gf.tl.embed(k["cells"], model=x, **QUIET), ("fitted", "model")),
    "tl.embed, layer": (lambda x, k: gf.tl.embed(k["cells"], counts_layer=x, **QUIET), ("None",)),
    "tl.attention": (lambda x, k: gf.tl.attention(x, **QUIET), ("cells",)),
    "tl.predict_masked": (lambda x, k: gf.tl.predict_masked(x, genes=("B2M",), **QUIET), ("cells",)),
    "tl.predict_masked, genes": (lambda x, k: gf.tl.predict_masked(k["cells"], genes=x, **QUIET), ()),
    "tl.perturb": (lambda x, k: gf.tl.perturb(x, genes=["B2M"], **QUIET), ("cells",)),
    "tl.perturb, genes": (lambda x, k: gf.tl.perturb(k["cells"], genes=x, **QUIET), ()),
    "tl.perturb, model": (
        lambda x, k: gf.tl.perturb(k["cells"], genes=["B2M"], model=x, **QUIET), ("fitted", "model", "class"),
    ),
    "tl.classify": (lambda x, k: gf.tl.classify(x, k["fitted"]), ("cells",)),
    "tl.classify, classifier": (lambda x, k: gf.tl.classify(k["cells"], x), ("fitted",)),
    "tl.rank_perturbations": (lambda x, k: gf.tl.rank_perturbations(x), ()),
    "tl.rank_perturbations, null": (lambda x, k: gf.tl.rank_perturbations(made_run(3), null=x), ("None",)),
    "pl.embedding": (lambda x, k: gf.pl.embedding(x), ()),
    "pl.embedding, color": (lambda x, k: gf.pl.embedding(k["cells"], color=x), ()),
    "pl.heatmap": (lambda x, k: gf.pl.heatmap(x), ()),
    "pl.heatmap, groupby": (lambda x, k: gf.pl.heatmap(k["cells"], groupby=x), ()),
    "pl.confusion_matrix": (lambda x, k: gf.pl.confusion_matrix(x), ("fitted", "report")),
    "pl.roc": (lambda x, k: gf.pl.roc(x), ("fitted", "report")),
    "pl.predictions": (lambda x, k: gf.pl.predictions(x), ("fitted", "report")),
    "pl.calibration": (lambda x, k: gf.pl.calibration(x), ("fitted", "report")),
    "pl.training_curve": (lambda x, k: gf.pl.training_curve(x), ("fitted",)),
    "pl.perturbation": (lambda x, k: gf.pl.perturbation(x), ()),
    "pl, save": (lambda x, k: gf.pl.confusion_matrix(k["report"], save=x), ("None",)),
    "fit": (lambda x, k: gf.CellClassifier(**QUIET).fit(x, "no such column"), ()),
    "fit, label": (lambda x, k: gf.CellClassifier(**QUIET).fit(k["cells"], x), ()),
    "fit, groups": (lambda x, k: gf.CellClassifier(**QUIET).fit(k["cells"], "cell_type", groups=x), ("None",)),
    "fit, model": (lambda x, k: gf.CellClassifier(model=x, **QUIET).fit(k["cells"], "no such column"), ()),
    "fit, labels": (lambda x, k: gf.MultiTaskClassifier(**QUIET).fit(k["cells"], x), ()),
    "fit, gene_classes": (lambda x, k: gf.GeneClassifier(**QUIET).fit(k["cells"], x), ()),
    "fit on genes": (lambda x, k: gf.GeneClassifier(**QUIET).fit(x, {"a": ["X"], "b": ["Y"]}), ()),
    "fit on expression": (lambda x, k: gf.ExpressionDecoder(**QUIET).fit(x), ("cells",)),
    "predict": (lambda x, k: k["fitted"].predict(x), CELLS),
    "predict_proba": (lambda x, k: k["fitted"].predict_proba(x), CELLS),
    "embed": (lambda x, k: k["fitted"].embed(x), CELLS),
    "evaluate": (lambda x, k: k["fitted"].evaluate(x), ()),
    "evaluate, label": (lambda x, k: k["fitted"].evaluate(k["cells"], x), ()),
    "save": (lambda x, k: k["fitted"].save(x), ()),
    "cross_validate": (lambda x, k: gf.cross_validate(x, k["cells"], "no such column"), ()),
    "cross_validate, cells": (lambda x, k: gf.cross_validate(k["unfitted"], x, "no such column"), ()),
    "search": (lambda x, k: gf.search(x, k["cells"], "no such column"), ()),
    "search, cells": (lambda x, k: gf.search(k["unfitted"], x, "no such column"), ()),
    "search, space": (lambda x, k: gf.search(k["unfitted"], k["cells"], "no such column", space=x), ()),
    "load_classifier": (lambda x, k: gf.load_classifier(x), ()),
    "CellClassifier.load": (lambda x, k: gf.CellClassifier.load(x), ()),
    "load_model": (lambda x, k: gf.load_model(x), ("fitted", "model")),
    "load_model, vocabulary": (lambda x, k: gf.load_model("mini", vocabulary=x), ("None",)),
    "read_dataset": (lambda x, k: gf.read_dataset(x), ()),
    "Vocabulary.load": (lambda x, k: gf.Vocabulary.load(x), ()),
}  # fmt: skip
"""Public doors, and the kinds that each of them takes."""


@pytest.mark.parametrize("door", DOORS)
def test_a_door_refuses_what_it_does_not_take(door, kinds):
    call, taken = DOORS[door]
    for name, value in kinds.items():
        if name in taken:
            continue
        try:
            call(value, kinds)
        except GeneformerError as error:
            message = str(error)
        else:
            pytest.fail(f"{door} took {name}")
        # What was given is named by its kind, not by pages of its content.
        assert len(message) < 2500, (door, name, message)
        assert "Traceback" not in message
        assert "object at 0x" not in message
