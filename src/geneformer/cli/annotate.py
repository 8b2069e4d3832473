"""`geneformer annotate`: labels of a reference for cells, from counts to a folder with map, table and report."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from geneformer.cli._options import CellsAndModel, Overwrite, flag, output_option, with_options
from geneformer.cli._output import Outcome, Rows, written
from geneformer.errors import OptionError, options_taken
from geneformer.files.progress import progress_bar
from geneformer.options import AnnotateOptions, EmbedOptions, RuntimeOptions

if TYPE_CHECKING:
    from geneformer.finetuning.annotation import Annotation

FILES = {
    "cells.h5ad": "all of the input, with labels, probabilities, distances, embedding and map",
    "cells.csv": "labels, probabilities and distances, a row per cell",
    "umap.png": "map of the cells by label and by how sure it is",
    "heatmap.png": "clustered heatmap of the embedding",
    "confusion.png": "labels of reference cells that were held out",
    "reference": "the report on these reference cells, for `gf.pl`",
    "report.md": "accuracy, composition and how it was done",
    "report.json": "the same for programs",
}
"""What is in the folder of an annotation."""

PERCENT = {
    "false_rejection": "held-out reference cells called unknown",
    "unknown": "cells called unknown",
    "unknown_of_the_reference": "unknown, of cells whose own label is in the reference",
    "unknown_of_no_class": "unknown, of cells whose own label is not",
    "right": "right, of cells whose own label is in the reference",
    "right_of_called": "right, of those that are called",
}
"""Shares in the report, by their key."""


@with_options(
    "annotate filtered_feature_bc_matrix --reference labeled.h5ad --label cell_type -o annotated",
    "annotate new.h5ad -r labeled.h5ad -l cell_type --groups donor --method probe -o annotated",
)
def annotate(
    cells: CellsAndModel,
    *,
    reference: Annotated[list[Path], flag("Labeled cells, raw counts in any format; several.", "--reference", "-r")],
    label: Annotated[str, flag("Column of the reference with the labels.", "--label", "-l")],
    groups: Annotated[str | None, flag("Column of the reference with donors or the like, held out whole.")] = None,
    reference_layer: Annotated[str | None, flag('Layer of the reference with raw counts, "raw" for its raw.')] = None,
    output: Annotated[Path, output_option("DIR", "Folder to make.")],
    options: AnnotateOptions,
    embedding: EmbedOptions,
    runtime: RuntimeOptions,
    overwrite: Overwrite = False,
) -> Outcome:
    """Label cells from a labeled reference, and draw them.

    One model embeds both. A cell gets the label of its nearest reference cells, and is "unknown" where they are far.
    """
    from geneformer.files.atomic import atomic_folder, check_output

    check_output(output, overwrite=overwrite)
    if embedding.pooling == "gene":
        msg = "--pooling gene embeds genes; labels are transferred between cells. Leave it out."
        raise OptionError(msg)
    from geneformer.finetuning.annotation import annotate as run  # not before the checks: it takes seconds
    from geneformer.inference.cells import OF_REFERENCE, Cells
    from geneformer.inference.slots import Origin
    from geneformer.models.loading import load_model
    from geneformer.pl._embedding import check_enough

    loaded = load_model(cells.model, vocabulary=cells.vocabulary, revision=cells.revision)
    known = replace(cells, inputs=reference, counts_layer=reference_layer)
    with progress_bar(shown=runtime.progress):
        opened = Cells.of(cells.tokens_for(loaded, runtime, counts=options.baseline))
        check_enough(len(opened.tokens))  # for the map
        with options_taken(**OF_REFERENCE):
            labeled = Cells.of(known.tokens_for(loaded, runtime, counts=options.baseline))
        chosen: dict[str, Any] = {"options": options, "embedding": embedding, "runtime": runtime}
        result = run(opened, labeled, loaded, label=label, groups=groups, **chosen)
    origin = Origin.of(cells.inputs, opened.tokens.input_rows, cells.counts_layer)
    sources = (*cells.sources(), *known.sources()[:-1])
    with atomic_folder(output, overwrite=overwrite) as folder:
        _write(folder, result, opened, origin, sources, chosen)
    figures = result.figures
    rows: Rows = [
        ("Cells", figures["cells"]),
        *figures["composition"].items(),
        *_accuracy_rows(result),
        *((str(output / name), text) for name, text in FILES.items()),
    ]
    return written("Annotation", output, rows, **figures)


def _write(
    folder: Path, result: "Annotation", opened: Any, origin: Any, sources: Any, chosen: Mapping[str, Any]
) -> None:
    """Fill the folder of an annotation."""
    from dataclasses import asdict

    from geneformer import keys, pl
    from geneformer.cli._pictures import Pictures
    from geneformer.files.manifest import Manifest
    from geneformer.finetuning.predictions import cell_table, save_cells
    from geneformer.options._fields import to_table

    label = str(result.report.settings["label"])
    key, table = keys.predicted(label), cell_table(opened)
    pictures = Pictures(umap=folder / "umap.png", heatmap=folder / "heatmap.png")
    provenance = result.slots.uns[key]
    save_cells(table, result.slots, folder / "cells.csv", provenance)
    slots = pictures.with_map(result.slots, keys.EMBEDDING, origin)
    save_cells(table, slots, folder / "cells.h5ad", provenance, origin=origin)
    drawn = opened.described()
    own = [label] if label in drawn.obs else []
    pictures.draw(drawn, slots, keys.EMBEDDING, origin, [*own, key], [f"{key}_probability"])
    result.report.save(folder / "reference")
    pl.confusion_matrix(result.report, title="Held-out reference cells", save=folder / "confusion.png")
    report = {
        "label": label,
        "model": provenance["model"],
        "options": {name: asdict(options) for name, options in chosen.items()},
        "held_out": {name: one.to_dict()["metrics"] for name, one in _evaluations(result).items()},
        **result.figures,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(result, label), encoding="utf-8")
    Manifest(
        task="annotate",
        vocabulary=provenance["vocabulary_fingerprint"],
        inputs=sources,
        options=to_table(*chosen.values()),
        results=result.figures,
    ).write(folder)


def _evaluations(result: "Annotation") -> dict[str, Any]:
    """Figures on held-out reference cells, of the embedding and of the baseline."""
    report = result.report
    return {next(iter(result.figures["by"])): report.evaluation, **report.baselines}


def _accuracy_rows(result: "Annotation") -> Rows:
    """Accuracy on held-out reference cells."""
    return [
        (f"Held-out reference, {name}", f"accuracy {one.metrics['accuracy']}, macro-F1 {one.metrics['macro_f1']}")
        for name, one in _evaluations(result).items()
    ]


def to_markdown(result: "Annotation", label: str) -> str:
    """The report for people."""
    from geneformer.finetuning.evaluations import markdown_table

    figures, settings = result.figures, result.report.settings
    by = figures["by"]
    share = figures["unknown"] / figures["cells"]
    held_out = [
        (name, *(str(one.metrics[metric]) for metric in ("accuracy", "macro_f1")))
        for name, one in _evaluations(result).items()
    ]
    shares = [
        (text, *(f"{row[key]:.1%}" if key in row else "" for row in by.values()))
        for key, text in PERCENT.items()
        if any(key in row for row in by.values())
    ]
    groups = f"whole groups of `{settings['groups']}`" if settings["groups"] else "cells"
    composition = [
        (name, f"{count:,}", f"{count / figures['cells']:.1%}") for name, count in figures["composition"].items()
    ]
    paragraphs = [
        f"# {figures['cells']:,} cells labeled by `{label}` of a reference",
        f'{figures["unknown"]:,} cells ({share:.1%}) are called "unknown": they lie farther from the reference than '
        f"{1 - settings['false_rejection']:.0%} of the held-out reference cells of the same label.",
        "![Map of the cells](umap.png)",
        "## Composition",
        markdown_table(("label", "cells", "share"), composition),
        "## The reference, held out",
        f"{result.report.evaluation.n:,} reference cells, {groups} held out in {settings['folds']} folds and labeled "
        "from the others; 95 % intervals.",
        markdown_table(("", "accuracy", "macro-F1"), held_out),
        "![Confusion matrix](confusion.png)",
        "## Unknown cells, and labels that the cells had",
        "The first line is measured with cut-offs from the other folds.",
        markdown_table(("", *by), shares),
        "## How",
        f"Model `{settings['model']}`, method `{settings['method']}`, {settings['n_neighbors']} neighbors. A cell's "
        "distance is the mean Euclidean distance to its nearest reference cells, in the dimensions of the embedding "
        "divided by their standard deviation over the reference. The cut-off of a label is that order statistic of "
        "the distances of held-out reference cells with this label, which at most the share "
        f"{settings['false_rejection']:g} of cells like them exceeds; labels with too few held-out cells take the "
        "cut-off of all.",
        "## Files",
        "\n".join(f"* `{name}`: {text}" for name, text in FILES.items()),
    ]
    return "\n\n".join(paragraphs) + "\n"
