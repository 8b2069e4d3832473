"""The demo: real blood cells to tokens, embeddings, pictures and figures."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from geneformer.demo.measuring import Step, StepLog
from geneformer.demo.report import DemoReport
from geneformer.options import RuntimeOptions
from geneformer.runs.files import atomic_folder, check_output
from geneformer.runs.manifest import installed_versions


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
    name = Path(model).name
    log = StepLog(tell)
    with log.step("load libraries"):
        stages = import_module("geneformer.demo.stages")
        stages.load_libraries()
    with log.step("load model and counts"):
        loaded = stages.load_model(model)
        adata = stages.load_cells(n_cells, seed)
    with atomic_folder(output, overwrite=overwrite) as folder:
        with log.step(f"tokenize {adata.n_obs:,} cells"):
            told = stages.tokenize(adata, loaded, folder / "pbmc3k.dataset")
        with log.step("embed them"):
            stages.embed(adata, model, runtime)
        with log.step("lay out the map"):
            stages.lay_out(adata, seed)
        with log.step("draw map and heatmap"):
            stages.draw(adata, folder, name, seed)
        with log.step("baseline: random weights"):
            random = stages.embed_at_random(adata, model, runtime, seed)
        with log.step("baseline: principal components"):
            stages.add_components(adata, seed)
        with log.step("predict cell types"):
            quality = stages.predict(adata, name, random, seed)
        with log.step("fine-tune a classifier"):
            classifier = stages.fit_classifier(adata, model, runtime, seed)
        with log.step("draw its confusion matrix"):
            stages.write_classifier(classifier, folder)
        with log.step("write the cells"):
            stages.write_cells(adata, folder / "pbmc3k_geneformer.h5ad")
        report = DemoReport(
            folder=Path(output),
            model=str(model),
            steps=tuple(log.steps),
            quality=tuple(quality),
            classified=stages.figures(classifier.report_),
            tokens=told.to_dict(),
            seed=seed,
            versions=installed_versions(),
        )
        stages.write_report(report, folder, loaded.vocabulary.fingerprint, runtime)
    return report
