"""The single stages of the demo; importing this loads every library they need."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys, pl, tl
from geneformer.demo.cells import LABEL, UNASSIGNED, pbmc3k, pbmc3k_path
from geneformer.demo.classifying import figures, fit_classifier, write_classifier
from geneformer.demo.comparison import Compared, compare
from geneformer.demo.report import DemoReport
from geneformer.models.loading import LoadedModel, load_model
from geneformer.options import RuntimeOptions, TokenizeOptions
from geneformer.pl._figures import FAINT, plotting_library
from geneformer.pl._layout import umap_layout
from geneformer.pl._palette import SAFE
from geneformer.runs.manifest import Manifest, describe_inputs
from geneformer.tasks.embedding_quality import is_labeled
from geneformer.tasks.pca_baseline import pca_embedding
from geneformer.tasks.random_weights import save_random_weights
from geneformer.tokenization.report import TokenizeReport
from geneformer.tokenization.tokenizer import tokenize_counts

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "add_components", "draw", "embed", "embed_at_random", "figures", "fit_classifier", "lay_out", "load_cells",
    "load_libraries", "load_model", "predict", "tokenize", "write_cells", "write_classifier", "write_report",
]  # fmt: skip

UMAP, PCA = "X_umap", "X_pca"
"""Slots of the map and of the baseline, by the names scanpy and CELLxGENE look for."""

FOLDS = 5
"""Parts the cells are split into, each predicted from the others."""

LIBRARIES = ("matplotlib.pyplot", "seaborn", "sklearn", "scanpy")


def load_libraries() -> None:
    """Import what later stages import on their own, so that no stage pays for it.

    Raises
    ------
    MissingExtraError
        One is not installed.
    """
    for library in LIBRARIES:
        plotting_library(library)


def load_cells(n_cells: int | None, seed: int) -> "AnnData":
    """The bundled cells, or some of them, with a color for each kind."""
    adata = pbmc3k()
    if n_cells is not None:
        drawn = np.random.default_rng(seed).choice(adata.n_obs, min(n_cells, adata.n_obs), replace=False)
        adata = adata[np.sort(drawn)].copy()
    kinds = [kind for kind in adata.obs[LABEL].cat.categories if kind != UNASSIGNED]
    adata.obs[LABEL] = adata.obs[LABEL].cat.set_categories([*kinds, UNASSIGNED])
    adata.uns[f"{LABEL}_colors"] = np.array([*SAFE[: len(kinds)], FAINT], dtype=object)
    return adata


def tokenize(adata: "AnnData", model: LoadedModel, output: Path) -> TokenizeReport:
    """Write the tokens of the cells for a model, as `geneformer tokenize` does."""
    options = TokenizeOptions(vocabulary=model.vocabulary.name, max_length=model.max_length)
    _, report = tokenize_counts(adata, options, output=output, vocabulary=model.vocabulary)
    return report


def embed(adata: "AnnData", model: str | Path, runtime: RuntimeOptions) -> None:
    """Put embeddings into `adata`, as `gf.tl.embed` does."""
    tl.embed(
        adata,
        model=model,
        device=runtime.device,
        dtype=runtime.dtype,
        tokens_per_batch=runtime.tokens_per_batch,
        progress=runtime.progress,
    )


def lay_out(adata: "AnnData", seed: int) -> None:
    """Put the coordinates of the map into `adata`."""
    adata.obsm[UMAP] = umap_layout(adata.obsm[keys.EMBEDDING], seed=seed)


def draw(adata: "AnnData", folder: Path, model: str, seed: int) -> None:
    """Save the pictures; nothing is shown and nothing stays open."""
    from matplotlib import pyplot

    title = f"{adata.n_obs:,} blood cells, Geneformer {model}"
    before = pyplot.get_fignums()
    pl.embedding(adata, color=LABEL, basis=UMAP, title=title, seed=seed, save=folder / "umap.png")
    pl.heatmap(adata, groupby=LABEL, title=title, seed=seed, save=folder / "heatmap.png")
    for number in set(pyplot.get_fignums()) - set(before):
        pyplot.close(number)


def embed_at_random(adata: "AnnData", model: str | Path, runtime: RuntimeOptions, seed: int) -> NDArray[np.float32]:
    """Embeddings by a model of the same shape that has learnt nothing, ``(n, d)``."""
    bare = adata.copy()
    with tempfile.TemporaryDirectory() as place:
        embed(bare, save_random_weights(model, Path(place) / "random", seed=seed), runtime)
    values: NDArray[np.float32] = bare.obsm[keys.EMBEDDING]
    return values


def add_components(adata: "AnnData", seed: int) -> None:
    """Put the principal components of the baseline into `adata`."""
    adata.obsm[PCA] = pca_embedding(adata.X, seed=seed)


def predict(adata: "AnnData", model: str, random: NDArray[np.float32], seed: int) -> list[Compared]:
    """Accuracy of cell types told from each embedding; labels of fewer cells than there are folds are left out."""
    labels = adata.obs[LABEL].astype(str)
    known = is_labeled(labels) & (labels.map(labels.value_counts()) >= FOLDS).to_numpy()
    embeddings: dict[str, NDArray[Any]] = {
        f"Geneformer {model}": adata.obsm[keys.EMBEDDING][known],
        "random weights, same shape": random[known],
        f"PCA({adata.obsm[PCA].shape[1]}) of variable genes": adata.obsm[PCA][known],
    }
    return compare(embeddings, labels[known], folds=FOLDS, seed=seed)


def write_cells(adata: "AnnData", path: Path) -> None:
    """Write counts, labels and embeddings."""
    adata.write_h5ad(path, compression="gzip")


def write_report(report: DemoReport, folder: Path, fingerprint: str, runtime: RuntimeOptions) -> None:
    """Write the report for people, for programs, and the manifest."""
    (folder / "report.md").write_text(report.to_markdown(), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    manifest = Manifest(
        task="demo",
        vocabulary=fingerprint,
        inputs=describe_inputs([pbmc3k_path()]),
        options={"model": report.model, "seed": report.seed, "runtime": dataclasses.asdict(runtime)},
        results={"quality": [row.to_dict() for row in report.quality]},
    )
    manifest.write(folder)
