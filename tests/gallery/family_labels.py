"""What is learnt: columns of labels, of groups and of numbers, and trainings that cannot end well."""

import warnings
from pathlib import Path

import numpy as np

from gallery.inputs import genes, h5ad
from gallery.model_folders import model
from gallery.rows import ACCEPTED, Row, call, command
from geneformer.finetuning.labels import encode_labels, read_gene_classes
from geneformer.genes.vocabulary import Vocabulary

START = ("{}", "-m", "model", "-o", "m", "--device", "cpu", "--baselines", "none", "--no-progress", "--label", "label")
LEARN = (*START, "--max-steps", "1")


def fit(*more):
    return command("classify", "fit", *LEARN, *more)


def _cells(labels, **columns):
    """Counts with a column of labels, given as one period of it, beside a small model."""

    def make(folder: Path) -> Path:
        def change(adata):
            for name, values in {"label": labels, **columns}.items():
                adata.obs[name] = np.resize(np.array(values, dtype=object), adata.n_obs)

        model()(folder)
        return h5ad(change)(folder)

    return make


def _numbers(*values):
    def make(folder: Path) -> Path:
        model()(folder)
        return h5ad(lambda adata: adata.obs.__setitem__("score", np.resize(values, adata.n_obs)))(folder)

    return make


def _encode(labels):
    return encode_labels(labels)[1]


def _lists(**changes):
    first, second = genes()[:4], genes()[10:14]
    return lambda _: {"x": first, "y": second} | {name: change(second) for name, change in changes.items()}


def _learnt(lists):
    with warnings.catch_warnings(record=True):
        return len(read_gene_classes(lists, Vocabulary.load("V1")))


TWO = ["A", "B"]

ROWS = [
    Row("two classes", _cells(TWO), ACCEPTED, act=fit(), why="the plain case", writes=("m",)),
    Row("classes that differ in capitals only", _cells(["B cell", "b cell", "T cell"]), ACCEPTED,
        "'B cell', 'b cell'. They are learnt as different ones", act=fit(), writes=("m",)),
    Row("classes that differ in spaces only", lambda _: ["T cell", "T  cell", "B"], ACCEPTED, "learnt as different",
        act=call(_encode)),
    Row("classes with spaces around them", lambda _: [" A", "A ", "B"], ACCEPTED, "('A', 'B')", act=call(_encode)),
    Row("a class of one cell", _cells([*"A" * 19, "B"]), ACCEPTED, "one cell, which is learnt from", act=fit(),
        writes=("m",)),
    Row("a class for every cell", _cells([f"c{cell}" for cell in range(20)]), "GF703", "one cell", act=fit()),
    Row("ten thousand classes", lambda _: [f"c{cell % 10_000}" for cell in range(30_000)], ACCEPTED, "c9999",
        act=call(_encode), why="a class needs cells, not company"),
    Row("one class", _cells(["A"]), "GF701", "two classes", act=fit()),
    Row("no label", _cells(["unassigned", "?"]), "GF702", "label", act=fit()),
    Row("a column that is not there", _cells(TWO), "GF208", "nope", act=fit("--label", "nope")),
    Row("labels in a column called length", _cells(TWO, length=["x", "y"]), ACCEPTED, "x, y",
        act=fit("--label", "length"), writes=("m",)),
    Row("cells without a group", _cells(TWO, donor=["d1", "d2", "d3", None, "d4"]), ACCEPTED,
        "labeled cells have no group", act=fit("--groups", "donor"), writes=("m",)),
    Row("the first token, with a vocabulary without <cls>", _cells(TWO), ACCEPTED, act=fit("--pooling", "cls"),
        why="published classifiers read the first token, which is then the highest ranked gene", writes=("m",)),
    Row("more tokens than the model has positions", _cells(TWO), ACCEPTED, "of each cell 2,048 tokens are read",
        act=fit("--max-length", "4096"), writes=("m",)),
    Row("a precision that needs a library or a device", _cells(TWO), "GF901", "bits",
        act=fit("--bits", "4bit", "--strategy", "lora")),
    Row("numbers beyond 32 bits", _numbers(1e308, -1e308), "GF700", "finite numbers up to 1e+30",
        act=command("regress", "fit", *LEARN, "--label", "score")),
    Row("lists of genes", _lists(), ACCEPTED, "8", act=call(_learnt)),
    Row("a gene twice in a list", _lists(y=lambda names: [*names, names[0]]), ACCEPTED, "8", act=call(_learnt),
        why="a class is a set: the second time says nothing new"),
    Row("identifiers with versions and spaces", _lists(y=lambda names: [f" {name}.7 " for name in names]),
        ACCEPTED, "8",
        act=call(_learnt)),
    Row("a gene in two classes", _lists(y=lambda names: [*names, genes()[0]]), "GF711", "in two classes",
        act=call(_learnt)),
    Row("genes of which half are unknown", _lists(y=lambda names: [*names, "zz1", "zz2", "zz3", "zz4"]), "GF711",
        ("4 genes are not in vocabulary V1", 'unknown_genes="drop"'), act=call(_learnt)),
]  # fmt: skip
