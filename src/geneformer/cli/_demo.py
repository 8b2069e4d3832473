"""The demo: real blood cells to tokens, embeddings, pictures and figures."""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer import keys, pl, tl
from geneformer.datasets import LABEL, UNASSIGNED, pbmc3k, pbmc3k_path
from geneformer.files.atomic import atomic_folder, check_output
from geneformer.files.manifest import Manifest, describe_inputs, installed_versions
from geneformer.finetuning.baselines import pca_embedding
from geneformer.finetuning.estimators import CellClassifier
from geneformer.finetuning.labels import is_labeled
from geneformer.inference.quality import EmbeddingQuality, embedding_quality, save_random_weights
from geneformer.models.loading import load_model
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SplitOptions, TokenizeOptions
from geneformer.pl._embedding import umap_layout
from geneformer.pl._figures import FAINT, SAFE, plotting_library
from geneformer.tokenization.tokenizer import tokenize_counts

if TYPE_CHECKING:
    from anndata import AnnData

UMAP, PCA = "X_umap", "X_pca"
"""Slots of the map and of the baseline, by the names scanpy and CELLxGENE look for."""

FOLDS = 5
"""Parts the cells are split into, each predicted from the others."""

LIBRARIES = ("matplotlib.pyplot", "seaborn", "sklearn", "scanpy")
"""What later steps import on their own; imported first, so that no step pays for it."""

OPTIONS = FinetuneOptions(epochs=3, max_length=256, learning_rate=1e-3, tokens_per_batch=4096)
"""Short enough for a demo: the highest ranked genes of each cell, three times."""

FILES = {
    "umap.png": "map of the cells by cell type",
    "heatmap.png": "clustered heatmap of the embedding",
    "confusion.png": "types of held-out cells, predicted by the fine-tuned classifier",
    "classifier": "the fine-tuned classifier, for `gf.load_classifier`, with its report",
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

    def __str__(self) -> str:
        memory = "" if self.peak_bytes is None else f", peak {self.peak_bytes / 2**20:,.0f} MiB"
        return f"{self.seconds:.1f} s{memory}"


@dataclass(slots=True)
class StepLog:
    """Steps done so far."""

    tell: Callable[[Step], object] | None = None
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the block."""
        forget_peak()
        started = time.perf_counter()
        yield
        done = Step(name=name, seconds=time.perf_counter() - started, peak_bytes=peak_memory())
        self.steps.append(done)
        if self.tell is not None:
            self.tell(done)


def forget_peak() -> None:
    """Start measuring the peak anew, where the system allows that."""
    try:
        RESET.write_text("5")
    except OSError:
        return


def peak_memory() -> int | None:
    """Most memory this process held at a time, in bytes; None where the system does not say."""
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One embedding."""

    name: str
    as_given: EmbeddingQuality
    standardized: EmbeddingQuality

    def cells(self) -> tuple[str, str, str]:
        """The accuracies in the order of `COLUMNS`, with 95% intervals."""
        return str(self.as_given.knn), str(self.standardized.knn), str(self.as_given.probe)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        return {
            "name": self.name,
            "as_given": self.as_given.to_dict(),
            "standardized": self.standardized.to_dict(),
        }


def compare(
    embeddings: Mapping[str, NDArray[Any]], labels: ArrayLike, *, groups: ArrayLike | None = None, **options: Any
) -> list[Compared]:
    """Every embedding under the same splits."""
    return [
        Compared(
            name=name,
            as_given=embedding_quality(values, labels, groups=groups, standardize=False, **options),
            standardized=embedding_quality(values, labels, groups=groups, standardize=True, **options),
        )
        for name, values in embeddings.items()
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """Steps and figures of a demo."""

    folder: Path
    model: str
    steps: tuple[Step, ...]
    quality: tuple[Compared, ...]
    classified: Mapping[str, Mapping[str, str]]
    tokens: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def notes(self) -> list[str]:
        """What must be known to read the figures."""
        first = self.quality[0].as_given
        how = (
            f"Share of {first.n_cells:,} labeled cells whose type is predicted right while they are held out "
            f"({first.folds} folds, {first.n_neighbors} neighbors, {first.metric} distance; 95% intervals)."
        )
        return [how, LABELS_FROM_COMPONENTS, *([PRETRAINED_ON_THEM] if self.model == "mini" else [])]

    def rows(self) -> list[tuple[str, object]]:
        """Lines of the closing table: what, and how much."""
        steps = [(step.name, str(step)) for step in self.steps]
        figures = [
            (f"accuracy of {row.name}", f"neighbors {given}, standardized {standardized}, linear probe {probe}")
            for row in self.quality
            for given, standardized, probe in [row.cells()]
        ]
        figures += [
            (f"held-out cells, {name}", f"accuracy {row['accuracy']}, macro-F1 {row['macro_f1']}")
            for name, row in self.classified.items()
        ]
        made = [(str(self.folder / name), text) for name, text in FILES.items()]
        return [*steps, ("all steps", f"{self.seconds:.1f} s"), *figures, *made]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "model": self.model,
            "seed": self.seed,
            "processors": os.cpu_count(),
            "platform": platform.platform(),
            "versions": dict(self.versions),
            "seconds": self.seconds,
            "steps": [asdict(step) for step in self.steps],
            "quality": [row.to_dict() for row in self.quality],
            "classified": {name: dict(row) for name, row in self.classified.items()},
            "tokens": dict(self.tokens),
            "notes": self.notes,
            "files": list(FILES),
        }

    def to_markdown(self) -> str:
        """The report for people."""
        first = self.quality[0].as_given
        accuracies: list[tuple[str, ...]] = [(row.name, *row.cells()) for row in self.quality]
        accuracies.append(("commonest label", *[f"{first.commonest:.3f}" for _ in COLUMNS]))
        classified = [(name, row["accuracy"], row["macro_f1"]) for name, row in self.classified.items()]
        costs = [
            (step.name, f"{step.seconds:.1f}", "" if step.peak_bytes is None else f"{step.peak_bytes / 2**20:,.0f}")
            for step in self.steps
        ]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        paragraphs = [
            f"# {self.tokens['n_cells']:,} blood cells through Geneformer `{self.model}`",
            "![Map of the cells](umap.png)",
            "## Cell types predicted from the embedding",
            _table(("embedding", *COLUMNS), accuracies),
            "\n".join(f"* {note}" for note in self.notes),
            "![Heatmap of the embedding](heatmap.png)",
            "## Cell types predicted by a fine-tuned classifier",
            "A fifth of the cells was held out; everything in the table was trained on the same other cells.",
            _table(("", "accuracy", "macro-F1"), classified),
            "![Confusion matrix](confusion.png)",
            "## Time and memory",
            _table(("step", "seconds", "peak MiB"), [*costs, ("all steps", f"{self.seconds:.1f}", "")]),
            f"{os.cpu_count()} processors, {platform.platform()}, {versions}.",
            "## Files",
            "\n".join(f"* `{name}`: {text}" for name, text in FILES.items()),
            "Counts: PBMC3k, 10x Genomics, CC BY 4.0. Labels: the scanpy tutorial's.",
        ]
        return "\n\n".join(paragraphs) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join("|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in lines)


def run_demo(
    output: str | Path,
    *,
    model: str | Path = "mini",
    runtime: RuntimeOptions | None = None,
    seed: int = 0,
    n_cells: int | None = None,
    overwrite: bool = False,
    tell: Callable[[Step], object] | None = None,
) -> DemoReport:
    """Tokenize and embed PBMC3k, draw it, measure what the embedding knows about cell types, and fine-tune on them."""
    check_output(output, overwrite=overwrite)
    runtime = runtime or RuntimeOptions()
    name = Path(model).name
    log = StepLog(tell)
    with log.step("load libraries"):
        for library in LIBRARIES:
            plotting_library(library)
    with log.step("load model and counts"):
        loaded = load_model(model)
        adata = load_cells(n_cells, seed)
    on_machine = {key: getattr(runtime, key) for key in ("device", "dtype", "tokens_per_batch", "progress")}
    with atomic_folder(output, overwrite=overwrite) as folder:
        with log.step(f"tokenize {adata.n_obs:,} cells"):
            options = TokenizeOptions(vocabulary=loaded.vocabulary.name, max_length=loaded.max_length)
            _, tokenized = tokenize_counts(
                adata, options, output=folder / "pbmc3k.dataset", vocabulary=loaded.vocabulary
            )
        with log.step("embed them"):
            tl.embed(adata, model=model, **on_machine)
        with log.step("lay out the map"):
            adata.obsm[UMAP] = umap_layout(adata.obsm[keys.EMBEDDING], seed=seed)
        with log.step("draw map and heatmap"), _closed_figures():
            title = f"{adata.n_obs:,} blood cells, Geneformer {name}"
            pl.embedding(adata, color=LABEL, basis=UMAP, title=title, seed=seed, save=folder / "umap.png")
            pl.heatmap(adata, groupby=LABEL, title=title, seed=seed, save=folder / "heatmap.png")
        with log.step("baseline: random weights"), tempfile.TemporaryDirectory() as place:
            untrained = save_random_weights(model, Path(place) / "random", seed=seed)
            tl.embed(bare := adata.copy(), model=untrained, **on_machine)
        with log.step("baseline: principal components"):
            adata.obsm[PCA] = pca_embedding(adata.X, seed=seed)
        with log.step("predict cell types"):
            labels = adata.obs[LABEL].astype(str)
            # Every fold needs a cell of each type.
            rows = is_labeled(labels) & (labels.map(labels.value_counts()) >= FOLDS).to_numpy()
            embeddings = {
                f"Geneformer {name}": adata.obsm[keys.EMBEDDING][rows],
                "random weights, same shape": bare.obsm[keys.EMBEDDING][rows],
                f"PCA({adata.obsm[PCA].shape[1]}) of variable genes": adata.obsm[PCA][rows],
            }
            quality = compare(embeddings, labels[rows], folds=FOLDS, seed=seed)
        with log.step("fine-tune a classifier"):
            classifier = CellClassifier(
                model,
                finetuning=replace(OPTIONS, seed=seed),
                classify=ClassifyOptions(baselines="cheap", rare_below=9),
                split=SplitOptions(test=0.2, seed=seed),
                runtime=runtime,
            ).fit(adata, LABEL)
        with log.step("draw its confusion matrix"), _closed_figures():
            classifier.save(folder / "classifier")
            title = "Cell types of held-out cells"
            pl.confusion_matrix(classifier.report_, title=title, save=folder / "confusion.png")
        with log.step("write the cells"):
            adata.write_h5ad(folder / "pbmc3k_geneformer.h5ad", compression="gzip")
        evaluations = {"fine-tuned": classifier.report_.evaluation, **classifier.report_.baselines}
        report = DemoReport(
            folder=Path(output),
            model=str(model),
            steps=tuple(log.steps),
            quality=tuple(quality),
            classified={
                model_name: {metric: str(evaluation.metrics[metric]) for metric in ("accuracy", "macro_f1")}
                for model_name, evaluation in evaluations.items()
            },
            tokens=tokenized.to_dict(),
            seed=seed,
            versions=installed_versions(),
        )
        (folder / "report.md").write_text(report.to_markdown(), encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        Manifest(
            task="demo",
            vocabulary=loaded.vocabulary.fingerprint,
            inputs=describe_inputs([pbmc3k_path()]),
            options={"model": report.model, "seed": seed, "runtime": asdict(runtime)},
            results={"quality": [row.to_dict() for row in quality]},
        ).write(folder)
    return report


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
