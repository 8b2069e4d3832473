"""The demo: real blood cells to tokens, embeddings, pictures and figures."""

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer import keys, pl, tl
from geneformer.datasets import LABEL, UNASSIGNED, pbmc3k, pbmc3k_path
from geneformer.files.atomic import atomic_folder, check_output
from geneformer.files.manifest import Manifest, describe_inputs, installed_versions
from geneformer.finetuning.baselines import pca_embedding
from geneformer.finetuning.estimators import CellClassifier
from geneformer.finetuning.evaluations import markdown_table
from geneformer.finetuning.labels import is_labeled
from geneformer.inference.quality import Accuracy, embedding_quality, save_random_weights
from geneformer.models.loading import load_model
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SplitOptions, TokenizeOptions
from geneformer.options.settings import settings
from geneformer.pl._embedding import umap_layout
from geneformer.pl._figures import FAINT, SAFE, plotting_library
from geneformer.tokenization.tokenizer import tokenize_counts

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

UMAP, PCA = "X_umap", "X_pca"
"""Slots of the map and of the baseline, by the names scanpy and CELLxGENE look for."""

FOLDS = 5
"""Parts the cells are split into, each predicted from the others."""

LIBRARIES = ("matplotlib.pyplot", "seaborn")
"""What later steps import on their own; imported first, so that no step pays for it."""

OPTIONS = FinetuneOptions(strategy="probe", max_length=320)
"""Short enough for a demo: a linear probe of the highest ranked genes of each cell."""

FILES = {
    "umap.png": "map of the cells by cell type",
    "heatmap.png": "clustered heatmap of the embedding",
    "confusion.png": "types of held-out cells, predicted by the classifier",
    "classifier": "the classifier, for `gf.load_classifier`, with its report",
    "pbmc3k_geneformer.h5ad": "raw counts, cell types and embeddings, for scanpy and CELLxGENE",
    "pbmc3k.dataset": "tokens, a Hugging Face dataset",
    "report.md": "this report",
    "report.json": "the same for programs",
}
"""What is in the folder of a demo."""

PRETRAINED_ON_THEM = (
    "Most of these cells, without their labels, were among those `mini` was pretrained on. Its figures on data that it "
    "never saw are in its model card."
)
"""A note on the bundled model only."""

LABELS_FROM_COMPONENTS = (
    "The labels name clusters that were found in principal components of these cells, which favors that baseline."
)

COLUMNS = ("nearest neighbors", "nearest neighbors, standardized", "linear probe")
"""Headings of the three accuracies."""

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one step cost."""

    name: str
    seconds: float
    peak_bytes: int | None

    @property
    def peak(self) -> str:
        """The most memory in MiB, empty where the system does not report it."""
        return "" if self.peak_bytes is None else f"{self.peak_bytes / 2**20:,.0f}"

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s" + (f", peak {self.peak} MiB" if self.peak else "")


@contextmanager
def measured(name: str, *, steps: list[Step], report: Callable[[Step], object] | None = None) -> Iterator[None]:
    """Add what the block cost to the steps."""
    with suppress(OSError):  # where the system allows it, the peak is measured anew
        RESET.write_text("5")
    started = time.perf_counter()
    yield
    steps.append(Step(name=name, seconds=time.perf_counter() - started, peak_bytes=peak_memory()))
    if report is not None:
        report(steps[-1])


def peak_memory() -> int | None:
    """Most memory this process held at a time, in bytes; None where the system does not report it."""
    with suppress(OSError, StopIteration):
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _accuracies(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Accuracies of one embedding in the order of `COLUMNS`, with 95% intervals."""
    chosen = row["as_given"]["knn"], row["standardized"]["knn"], row["as_given"]["probe"]
    return tuple(str(Accuracy(**accuracy)) for accuracy in chosen)


def closing_rows(report: Mapping[str, Any], folder: Path) -> list[tuple[str, object]]:
    """Lines of the closing table: what, and how much."""
    rows: list[tuple[str, object]] = [(step["name"], Step(**step)) for step in report["steps"]]
    rows.append(("all steps", f"{report['seconds']:.1f} s"))
    for row in report["quality"]:
        given, standardized, probe = _accuracies(row)
        figures = f"neighbors {given}, standardized {standardized}, linear probe {probe}"
        rows.append((f"accuracy of {row['name']}", figures))
    for name, row in report["classified"].items():
        rows.append((f"held-out cells, {name}", f"accuracy {row['accuracy']}, macro-F1 {row['macro_f1']}"))
    return [*rows, *((str(folder / name), text) for name, text in FILES.items())]


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report for people."""
    accuracies = [(row["name"], *_accuracies(row)) for row in report["quality"]]
    accuracies.append(("commonest label", *[f"{report['quality'][0]['as_given']['commonest']:.3f}"] * len(COLUMNS)))
    classified = [(name, row["accuracy"], row["macro_f1"]) for name, row in report["classified"].items()]
    costs = [(step["name"], f"{step['seconds']:.1f}", Step(**step).peak) for step in report["steps"]]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    paragraphs = [
        f"# {report['tokens']['n_cells']:,} blood cells through Geneformer `{report['model']}`",
        "![Map of the cells](umap.png)",
        "## Cell types predicted from the embedding",
        markdown_table(("embedding", *COLUMNS), accuracies),
        "\n".join(f"* {note}" for note in report["notes"]),
        "![Heatmap of the embedding](heatmap.png)",
        "## Cell types predicted by a classifier",
        "A fifth of the cells was held out; everything in the table was trained on the same other cells.",
        markdown_table(("", "accuracy", "macro-F1"), classified),
        "![Confusion matrix](confusion.png)",
        "## Time and memory",
        markdown_table(("step", "seconds", "peak MiB"), [*costs, ("all steps", f"{report['seconds']:.1f}", "")]),
        f"{report['processors']} processors, {report['platform']}, {versions}.",
        "## Files",
        "\n".join(f"* `{name}`: {text}" for name, text in FILES.items()),
        "Counts: PBMC3k, 10x Genomics, CC BY 4.0. Labels: the scanpy tutorial's.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def run_demo(
    output: str | Path,
    *,
    model: str | Path = "mini",
    runtime: RuntimeOptions | None = None,
    seed: int = 0,
    n_cells: int | None = None,
    overwrite: bool = False,
    report_step: Callable[[Step], object] | None = None,
    report_map: Callable[[Path], object] | None = None,
) -> dict[str, Any]:
    """Tokenize and embed PBMC3k, draw it, measure how well cell types are predicted; the content of `report.json`.

    The folder is there as soon as the map is, and once more, complete, at the end.
    """
    output = check_output(output, overwrite=overwrite)
    runtime = runtime or RuntimeOptions()
    name = Path(model).name
    steps: list[Step] = []
    step = partial(measured, steps=steps, report=report_step)
    with step("load libraries"):
        for library in LIBRARIES:
            plotting_library(library)
    with step("load model and counts"):
        loaded = load_model(model)
        adata = load_cells(n_cells, seed)
    on_machine = {key: getattr(runtime, key) for key in ("device", "dtype", "tokens_per_batch", "progress")}
    manifest = Manifest(
        task="demo",
        vocabulary=loaded.vocabulary.fingerprint,
        inputs=describe_inputs([pbmc3k_path()]),
        options={"model": str(model), "seed": seed, "runtime": asdict(runtime)},
    )
    with atomic_folder(output, overwrite=overwrite) as folder:
        with step(f"tokenize {adata.n_obs:,} cells"):
            options = TokenizeOptions(vocabulary=loaded.vocabulary.name, max_length=loaded.max_length)
            _, tokenized = tokenize_counts(
                adata, options, output=folder / "pbmc3k.dataset", vocabulary=loaded.vocabulary
            )
        with step("embed them"):
            tl.embed(adata, model=model, **on_machine)
        with step("lay out the map"):
            adata.obsm[UMAP] = umap_layout(adata.obsm[keys.EMBEDDING], seed=seed)
        with step("draw map and heatmap"), _closed_figures():
            title = f"{adata.n_obs:,} blood cells, Geneformer {name}"
            pl.embedding(adata, color=LABEL, basis=UMAP, title=title, seed=seed, save=folder / "umap.png")
            pl.heatmap(adata, groupby=LABEL, title=title, seed=seed, save=folder / "heatmap.png")
        manifest.write(folder)
    if report_map is not None:
        report_map(output / "umap.png")
    # What was read of the cells has been told.
    with atomic_folder(output, overwrite=True) as folder, settings.override(verbosity="warning"):
        shutil.copytree(output, folder, dirs_exist_ok=True)
        with step("baseline: random weights"), tempfile.TemporaryDirectory() as place:
            untrained = save_random_weights(model, Path(place) / "random", seed=seed)
            tl.embed(bare := adata.copy(), model=untrained, **on_machine)
        with step("baseline: principal components"):
            adata.obsm[PCA] = pca_embedding(adata.X, seed=seed)
        with step("predict cell types"):
            quality = _qualities(
                {
                    f"Geneformer {name}": adata.obsm[keys.EMBEDDING],
                    "random weights, same shape": bare.obsm[keys.EMBEDDING],
                    f"PCA({adata.obsm[PCA].shape[1]}) of variable genes": adata.obsm[PCA],
                },
                adata.obs[LABEL].astype(str),
                seed,
            )
        with step("fit a classifier"):
            classifier = CellClassifier(
                model,
                finetuning=replace(OPTIONS, seed=seed),
                classify=ClassifyOptions(baselines="cheap", rare_below=9),
                split=SplitOptions(test=0.2, seed=seed),
                runtime=runtime,
            ).fit(adata, LABEL)
        with step("draw its confusion matrix"), _closed_figures():
            classifier.save(folder / "classifier")
            title = "Cell types of held-out cells"
            pl.confusion_matrix(classifier.report_, title=title, save=folder / "confusion.png")
        with step("write the cells"):
            adata.write_h5ad(folder / "pbmc3k_geneformer.h5ad", compression="gzip")
        report = {
            "model": str(model),
            "seed": seed,
            **_figures(quality, classifier),
            "steps": [asdict(step) for step in steps],
            "seconds": sum(step.seconds for step in steps),
            "tokens": tokenized.to_dict(),
        }
        report["notes"] += [PRETRAINED_ON_THEM] if str(model) == "mini" else []
        (folder / "report.md").write_text(to_markdown(report), encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        replace(manifest, results={"quality": quality}).write(folder)
    return report


def _figures(quality: Sequence[Mapping[str, Any]], classifier: CellClassifier) -> dict[str, Any]:
    """What was measured, where, and how to read it."""
    evaluations = {"linear probe of the encoder": classifier.report_.evaluation, **classifier.report_.baselines}
    first = quality[0]["as_given"]
    how = (
        f"Share of {first['n_cells']:,} labeled cells whose type is predicted right while they are held out "
        f"({first['folds']} folds, {first['n_neighbors']} neighbors, {first['metric']} distance; 95% intervals)."
    )
    return {
        "processors": os.cpu_count(),
        "platform": platform.platform(),
        "versions": installed_versions(),
        "quality": quality,
        "classified": {
            model_name: {metric: str(evaluation.metrics[metric]) for metric in ("accuracy", "macro_f1")}
            for model_name, evaluation in evaluations.items()
        },
        "notes": [how, LABELS_FROM_COMPONENTS],
        "files": list(FILES),
    }


def _qualities(embeddings: Mapping[str, Any], labels: "pd.Series[str]", seed: int) -> list[dict[str, Any]]:
    """What each embedding knows about the labels, as it is and standardized."""
    # Every fold needs a cell of each type.
    rows = is_labeled(labels) & (labels.map(labels.value_counts()) >= FOLDS).to_numpy()
    found: list[dict[str, Any]] = []
    for name, values in embeddings.items():
        measure = partial(embedding_quality, values[rows], labels[rows], folds=FOLDS, seed=seed)
        as_given = measure()
        standardized = measure(standardize=True, probe=as_given.probe)
        found.append({"name": name, "as_given": as_given.to_dict(), "standardized": standardized.to_dict()})
    return found


def load_cells(n_cells: int | None, seed: int) -> "AnnData":
    """The bundled cells, or some of them, with a color for each type."""
    adata = pbmc3k()
    if n_cells is not None:
        drawn = np.random.default_rng(seed).choice(adata.n_obs, min(n_cells, adata.n_obs), replace=False)
        adata = adata[np.sort(drawn)].copy()
    types = [name for name in adata.obs[LABEL].cat.categories if name != UNASSIGNED]
    adata.obs[LABEL] = adata.obs[LABEL].cat.set_categories([*types, UNASSIGNED])
    adata.uns[f"{LABEL}_colors"] = np.array([*SAFE[: len(types)], FAINT], dtype=object)
    return adata


@contextmanager
def _closed_figures() -> Iterator[None]:
    """Close the figures that the block opens."""
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    yield
    for number in set(pyplot.get_fignums()) - set(before):
        pyplot.close(number)
