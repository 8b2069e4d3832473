"""The demo: real blood cells to tokens, embeddings, pictures and figures."""

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys, pl, tl
from geneformer.demo.cells import LABEL, UNASSIGNED, pbmc3k, pbmc3k_path
from geneformer.demo.comparison import Compared, compare
from geneformer.demo.measuring import Step, StepLog
from geneformer.demo.report import DemoReport
from geneformer.models.loading import load_model
from geneformer.options import RuntimeOptions, TokenizeOptions
from geneformer.pl._figures import FAINT, plotting_library
from geneformer.pl._layout import umap_layout
from geneformer.pl._palette import SAFE
from geneformer.runs.files import atomic_folder, check_output
from geneformer.runs.manifest import Manifest, describe_inputs, installed_versions
from geneformer.tasks.embedding_quality import is_labeled
from geneformer.tasks.pca_baseline import pca_embedding
from geneformer.tasks.random_weights import save_random_weights
from geneformer.tokenization.tokenizer import tokenize_counts

if TYPE_CHECKING:
    from anndata import AnnData

UMAP, PCA = "X_umap", "X_pca"
"""Slots of the map and of the baseline, by the names scanpy and CELLxGENE look for."""

LIBRARIES = ("matplotlib.pyplot", "seaborn", "sklearn", "scanpy")


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
    """Tokenize and embed PBMC3k, draw it, and measure what the embedding knows about cell types.

    The folder appears when everything is done, or not at all. Accuracies stand beside those of 50 principal components
    and of random weights of the same shape.

    Parameters
    ----------
    output
        Folder to make; see `geneformer.demo.report.FILES` for what is in it.
    model
        Name, checkpoint folder or hub repository.
    runtime
        Where and how the model runs.
    seed
        Fixes splits, map and random weights.
    n_cells
        Take that many cells only, drawn at random, to try things out.
    overwrite
        Replace a demo that is there.
    tell
        Called after every step with its time and memory.

    Raises
    ------
    OutputExistsError
        The folder exists and was not to be replaced, or was not made by this package.
    MissingExtraError
        A library for plots is not installed.
    """
    check_output(output, overwrite=overwrite)
    runtime = runtime or RuntimeOptions()
    log = StepLog(tell)
    with log.step("load libraries, model and counts"):
        for library in LIBRARIES:
            plotting_library(library)
        loaded = load_model(model)
        adata = _cells(n_cells, seed)
    with atomic_folder(output, overwrite=overwrite) as folder:
        with log.step(f"tokenize {adata.n_obs:,} cells"):
            options = TokenizeOptions(vocabulary=loaded.vocabulary.name, max_length=loaded.max_length)
            _, told = tokenize_counts(adata, options, output=folder / "pbmc3k.dataset", vocabulary=loaded.vocabulary)
        with log.step("embed them"):
            _embed(adata, model, runtime)
        with log.step("lay out the map"):
            adata.obsm[UMAP] = umap_layout(adata.obsm[keys.EMBEDDING], seed=seed)
        with log.step("draw map and heatmap"):
            _draw(adata, folder, Path(model).name, seed)
        with log.step("compute the baselines"):
            adata.obsm[PCA] = pca_embedding(adata.X, seed=seed)
            random = _random_embedding(adata, model, runtime, seed)
        with log.step("predict cell types"):
            quality = _compare(adata, Path(model).name, random, seed)
        with log.step("write the cells"):
            adata.write_h5ad(folder / "pbmc3k_geneformer.h5ad", compression="gzip")
        report = DemoReport(
            folder=Path(output),
            model=str(model),
            steps=tuple(log.steps),
            quality=tuple(quality),
            tokens=told.to_dict(),
            seed=seed,
            versions=installed_versions(),
        )
        _write_report(report, folder, loaded.vocabulary.fingerprint, runtime)
    return report


def _cells(n_cells: int | None, seed: int) -> "AnnData":
    """The bundled cells, or some of them, with a color for each kind."""
    adata = pbmc3k()
    if n_cells is not None:
        drawn = np.random.default_rng(seed).choice(adata.n_obs, min(n_cells, adata.n_obs), replace=False)
        adata = adata[np.sort(drawn)].copy()
    kinds = [kind for kind in adata.obs[LABEL].cat.categories if kind != UNASSIGNED]
    adata.obs[LABEL] = adata.obs[LABEL].cat.set_categories([*kinds, UNASSIGNED])
    adata.uns[f"{LABEL}_colors"] = np.array([*SAFE[: len(kinds)], FAINT], dtype=object)
    return adata


def _embed(adata: "AnnData", model: str | Path, runtime: RuntimeOptions, key: str = keys.EMBEDDING) -> None:
    tl.embed(
        adata,
        model=model,
        device=runtime.device,
        dtype=runtime.dtype,
        tokens_per_batch=runtime.tokens_per_batch,
        progress=runtime.progress,
        key_added=key,
    )


def _draw(adata: "AnnData", folder: Path, model: str, seed: int) -> None:
    """Pictures as files; nothing is shown and nothing stays open."""
    from matplotlib import pyplot

    title = f"{adata.n_obs:,} blood cells, Geneformer {model}"
    ax = pl.embedding(adata, color=LABEL, basis=UMAP, title=title, seed=seed, save=folder / "umap.png")
    grid = pl.heatmap(adata, groupby=LABEL, title=title, seed=seed, save=folder / "heatmap.png")
    for figure in (ax.figure, grid.figure):
        pyplot.close(figure)


def _random_embedding(adata: "AnnData", model: str | Path, runtime: RuntimeOptions, seed: int) -> NDArray[np.float32]:
    """Embedding by a model of the same shape that has learnt nothing."""
    with tempfile.TemporaryDirectory() as place:
        untrained = save_random_weights(model, Path(place) / "random", seed=seed)
        bare = adata.copy()
        _embed(bare, untrained, runtime)
    values: NDArray[np.float32] = bare.obsm[keys.EMBEDDING]
    return values


def _compare(adata: "AnnData", model: str, random: NDArray[np.float32], seed: int) -> list[Compared]:
    known = is_labeled(adata.obs[LABEL])
    embeddings: dict[str, NDArray[Any]] = {
        f"Geneformer {model}": adata.obsm[keys.EMBEDDING][known],
        "random weights, same shape": random[known],
        f"PCA({adata.obsm[PCA].shape[1]}) of variable genes": adata.obsm[PCA][known],
    }
    return compare(embeddings, adata.obs[LABEL].astype(str)[known], seed=seed)


def _write_report(report: DemoReport, folder: Path, fingerprint: str, runtime: RuntimeOptions) -> None:
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
