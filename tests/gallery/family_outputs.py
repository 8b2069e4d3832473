"""Where results go: over inputs, into them, to what is no file, beside what was there before; runs taken up again."""

import json
import os
import shutil
import warnings
from contextlib import suppress
from pathlib import Path

from gallery.inputs import cells, genes, h5ad
from gallery.rows import ACCEPTED, Row, call, command, tokenize
from gallery.token_folders import tokens
from gallery.watch import outside
from geneformer.finetuning.reports import load_report
from geneformer.options import TokenizeOptions
from geneformer.tokenization.tokenizer import tokenize_counts
from geneformer.tokens.storage import DatasetWriter


def run(*words):
    return command(*words, "--no-progress")


def embed(output, *more):
    return run("embed", "{}", "-m", "mini", "-o", output, "--device", "cpu", *more)


def _also(start, make):
    def made(folder: Path) -> Path:
        path = start(folder)
        make(folder)
        return path

    return made


def _link(folder):
    """Never the device itself: who may write there would replace it."""
    (folder / "out.csv").symlink_to("/dev/null")


def _partial(name, content=None):
    """A folder where one of ours would be made."""

    def make(folder):
        path = folder / name
        path.mkdir()
        (path / "notes.txt").write_text("mine")
        for file, text in (content or {}).items():
            (path / file).write_text(text)

    return make


def _broken_off(change):
    """A tokenization that was broken off after its first file, and changed by someone since."""

    def make(folder: Path) -> Path:
        path = h5ad()(folder)
        partial = folder / "out.dataset.partial"
        kept = DatasetWriter.finish
        DatasetWriter.finish = _stop  # type: ignore[assignment]
        with warnings.catch_warnings(action="ignore"), suppress(OSError):
            tokenize_counts([path], TokenizeOptions(), output="out.dataset")
        DatasetWriter.finish = kept  # type: ignore[method-assign]
        assert (partial / "journal.jsonl").is_file()
        change(partial)
        return path

    return make


def _stop(writer, _manifest=None):
    writer._end_shard()
    raise OSError(5, "broken off")


def _journal(change):
    def edit(partial):
        path = partial / "journal.jsonl"
        path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))

    return _broken_off(edit)


def _entry(**changes):
    return _journal(lambda lines: [lines[0], json.dumps(json.loads(lines[1]) | changes)])


def _linked_data(partial):
    target = partial.parent / "mine"
    shutil.move(partial / "dataset", target)
    (partial / "dataset").symlink_to(target)


def _link_to_input(folder):
    (folder / "out.csv").symlink_to(folder / "in.h5ad")


def _link_outside(folder):
    (folder / "out.csv").symlink_to(outside(folder))


def _pipe(folder):
    os.mkfifo(folder / "out.csv")


def _zarr(folder: Path) -> Path:
    cells().write_zarr(folder / "in.zarr")
    return Path("in.zarr")


def _ten_x(folder: Path) -> Path:
    import scipy.io

    path = folder / "tenx"
    path.mkdir()
    adata = cells()
    scipy.io.mmwrite(path / "matrix.mtx", adata.X.T.astype(int))
    (path / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
    (path / "genes.tsv").write_text("".join(f"{gene}\t{gene}\n" for gene in adata.var_names))
    return Path("tenx")


resume = run("tokenize", "{}", "-o", "out.dataset", "--resume")
FILES = ("out.csv", "out.csv.json", "out.csv.manifest.json")

ROWS = [
    Row("a dataset over its counts", h5ad(), "GF400", "is the input",
        act=run("tokenize", "{}", "-o", "in.h5ad", "--overwrite")),
    Row("embeddings over their counts", h5ad(), "GF400", "is the input", act=embed("in.h5ad", "--overwrite")),
    Row("embeddings over their counts, by another path", h5ad(), "GF400", "is the input",
        act=embed("gone/../in.h5ad", "--overwrite")),
    Row("embeddings over their counts, by a link", _also(h5ad(), _link_to_input), "GF400", "is the input",
        act=embed("out.csv", "--overwrite")),
    Row("a dataset inside a folder of counts", _ten_x, ACCEPTED, act=run("tokenize", "{}", "-o", "tenx/out.dataset"),
        writes=("tenx",), why="files of counts and what is made of them may stand side by side; none is written over"),
    Row("a dataset inside a store", _zarr, "GF400", "lies in the input",
        act=run("tokenize", "{}", "-o", "in.zarr/out.dataset")),
    Row("embeddings inside their dataset", tokens(), "GF400", "lies in the input", act=embed("t.dataset/out.csv")),
    Row("a dataset over itself", tokens(), "GF400", "is the input",
        act=run("tokenize", "{}", "-o", "t.dataset", "--overwrite")),
    Row("a map where the table goes", tokens(), "GF400", "one place", act=embed("out.csv", "--umap", "out.csv")),
    Row("two pictures in one place", tokens(), "GF400", "one place",
        act=embed("out.csv", "--umap", "a.png", "--heatmap", "./a.png")),
    Row("a link to the device that swallows everything", _also(tokens(), _link), "GF400", "a device",
        act=embed("out.csv", "--overwrite")),
    Row("a dataset to the device that swallows everything", _also(h5ad(), _link), "GF400", "a device",
        act=run("tokenize", "{}", "-o", "out.csv", "--overwrite")),
    Row("a pipe", _also(tokens(), _pipe), "GF400", "a pipe", act=embed("out.csv", "--overwrite")),
    Row("a file that is there", _also(tokens(), lambda folder: (folder / "out.csv").write_text("mine")), "GF401",
        "exists already", act=embed("out.csv")),
    Row("a folder that is not ours", _also(h5ad(), _partial("out.dataset")), "GF401", "not made by this package",
        act=run("tokenize", "{}", "-o", "out.dataset", "--overwrite")),
    Row("a folder that is not there", tokens(), "GF400", "no folder", act=embed("gone/out.csv")),
    Row("a name too long for a file", tokens(), "GF400", "too long", act=embed("x" * 252 + ".csv")),
    Row("a folder of the user where a dataset is made", _also(h5ad(), _partial("out.dataset.partial")), "GF401",
        "in the way", act=tokenize),
    Row("a folder of the user where a run is made", _also(h5ad(), _partial("run.partial")), "GF401", "in the way",
        act=run("perturb", "run", "{}", "-m", "mini", "-o", "run", "--genes", genes()[0], "--device", "cpu")),
    Row("a folder of the user where checkpoints go", _also(h5ad(), _partial(".m.training")), "GF401", "in the way",
        act=run("classify", "fit", "{}", "--label", "cell_type", "-o", "m", "--device", "cpu", "--max-steps", "1")),
    Row("a journal that is no JSON", _journal(lambda lines: ["not", "JSON"]), "GF402", "damaged", act=resume),
    Row("a journal without a header", _journal(lambda lines: ["{}", lines[1]]), "GF402", "damaged", act=resume),
    Row("a journal with a list for a header", _journal(lambda lines: ["[1]", lines[1]]), "GF402", "damaged",
        act=resume),
    Row("a journal nested too deeply", _journal(lambda lines: ['{"a":' * 100_000, lines[1]]), "GF402", "damaged",
        act=resume),
    Row("an entry that is no JSON", _journal(lambda lines: [lines[0], "x"]), "GF402", "damaged", act=resume),
    Row("an entry of files elsewhere", _entry(file="../../victim"), "GF402", "damaged", act=resume),
    Row("an entry with text for a number", _entry(rows="9"), "GF402", "damaged", act=resume),
    Row("a broken off run that goes on behind a link", _broken_off(_linked_data), "GF401", "in the way", act=resume),
    Row("a broken off run of other options", _broken_off(lambda _: None), "GF402", "made from something else",
        act=run("tokenize", "{}", "-o", "out.dataset", "--resume", "--max-length", "100")),
    Row("a broken off run of other cells", _journal(lambda lines: [lines[0].replace("in.h5ad", "on.h5ad"), lines[1]]),
        "GF402", "made from something else", act=resume),
    Row("a code that is explained", lambda _: "GF203", ACCEPTED, "not raw counts", act=command("explain", "{}")),
    Row("a code there is not", lambda _: "GF999", "GF101", "no code", act=command("explain", "{}")),
    Row("a report from where there is none", lambda folder: (folder / "r").mkdir() or Path("r"), "GF201",
        act=call(load_report)),
]  # fmt: skip
