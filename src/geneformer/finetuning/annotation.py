"""Cells annotated from a labeled reference: both embedded by one model, labels transferred, held-out cells measured."""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import GeneformerWarning, NoCellsError, OptionError
from geneformer.files.progress import progress_bar
from geneformer.finetuning.baselines import pca_embedding
from geneformer.finetuning.labels import is_labeled
from geneformer.finetuning.metrics import evaluate_classes
from geneformer.finetuning.predictions import class_slots
from geneformer.finetuning.reports import ClassificationReport
from geneformer.inference.cells import Cells, describe_run
from geneformer.inference.embedding import embed
from geneformer.inference.slots import Slots
from geneformer.inference.transfer import LabelTransfer, Transferred
from geneformer.models.loading import LoadedModel
from geneformer.options import AnnotateOptions, EmbedOptions, RuntimeOptions

if TYPE_CHECKING:
    from geneformer.tokens.dataset import TokenizedDataset

COMPONENTS = "principal components"
"""Name of the baseline in tables."""

FEWEST = 5
"""Reference cells that make a class."""

MANY_UNKNOWN = 0.5
"""Share of unknown cells from which on the reference is in doubt rather than the cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What came of an annotation.

    Attributes
    ----------
    slots
        Labels, probabilities, distances and embeddings of the annotated cells.
    report
        The reference cells, each labeled while it was held out, with the baseline.
    figures
        Cells by label, how many are unknown, the cut-offs, and what the labels that the cells have already say.
    """

    slots: Slots
    report: ClassificationReport
    figures: Mapping[str, Any]


def annotate(
    cells: Cells,
    reference: Cells,
    model: LoadedModel,
    *,
    label: str,
    groups: str | None = None,
    options: AnnotateOptions,
    embedding: EmbedOptions,
    runtime: RuntimeOptions,
    key: str | None = None,
) -> Annotation:
    """Labels of a reference for cells, both tokenized for one model."""
    if embedding.pooling == "gene":
        msg = 'pooling="gene" embeds genes; labels are transferred between cells. Use "mean" or "cls".'
        raise OptionError(msg)
    rows, names = _labeled(reference, label)
    classes, codes = np.unique(names, return_inverse=True)
    parts = None if groups is None else np.asarray(reference.column(groups), dtype=object)[rows].astype(str)
    values = {
        name: _embedded(tokens, model, embedding, runtime, name)
        for name, tokens in (("reference", reference.tokens.take(rows)), ("cells", cells.tokens))
    }
    fitted = LabelTransfer.fit(values["reference"], codes, len(classes), options, groups=parts)
    found = fitted.predict(values["cells"])
    evaluated = {"": fitted.held_out}
    labeled_by = {Path(model.name).name: (fitted, found)}
    if options.baseline:
        components = _components(reference, rows, cells, model, options.seed)
        if components is not None:
            # Principal components come by their weight; standardized, the noise in the last ones would count as much.
            of_components = LabelTransfer.fit(
                components[: len(rows)], codes, len(classes), options, groups=parts, standardize=False
            )
            evaluated[COMPONENTS] = of_components.held_out
            labeled_by[COMPONENTS] = (of_components, of_components.predict(components[len(rows) :]))
    figures = {
        name: evaluate_classes(codes, held_out.proba, classes.tolist(), groups=parts, seed=options.seed)
        for name, held_out in evaluated.items()
    }
    report = ClassificationReport(
        evaluation=figures.pop(""),
        baselines=figures,
        truth=codes,
        predicted=fitted.held_out.proba.argmax(axis=1),
        proba=fitted.held_out.proba,
        cell_ids=reference.tokens.cell_ids[rows],
        settings={"model": model.name, "label": label, "groups": groups, **asdict(options)},
    )
    named = _named(found, classes, options)
    key = key or keys.predicted(label)
    chosen = {"label": label, **asdict(options), "embedding": asdict(embedding)}
    measured: dict[str, Any] = {"cutoffs": fitted.cutoffs, "rejected": fitted.rejected}
    for name, one in (("held_out_accuracy", report.evaluation), ("baseline_accuracy", figures.get(COMPONENTS))):
        measured |= {} if one is None else {name: one.metrics["accuracy"].mean}
    noted = describe_run(model, cells.tokens, **chosen, **measured)
    slots = class_slots(
        label=label, classes=classes.tolist(), predicted=named, proba=found.proba, provenance=noted, key_added=key
    )
    import pandas as pd

    nearest = pd.Categorical(classes[found.proba.argmax(axis=1)].astype(str), categories=classes.astype(str))
    slots = Slots(
        obs={**slots.obs, f"{key}_nearest": nearest, f"{key}_distance": found.relative},
        obsm={**slots.obsm, keys.EMBEDDING: values["cells"]},
        uns={**slots.uns, keys.EMBEDDING: describe_run(model, cells.tokens, embedding=asdict(embedding))},
    )
    own = np.asarray(cells.column(label), dtype=object).astype(str) if label in cells.columns else None
    described = _described(own, classes, labeled_by, options)
    _warn_of_many_unknown(described)
    return Annotation(slots=slots, report=report, figures=described)


def _labeled(reference: Cells, label: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Rows of reference cells whose label counts, and these labels; rare classes are left out with a warning."""
    column = np.asarray(reference.column(label), dtype=object)
    known = is_labeled(column) & (np.asarray(column).astype(str) != keys.UNKNOWN)
    names = column.astype(str)
    sizes = Counter(names[known].tolist())
    rare = sorted(name for name, size in sizes.items() if size < FEWEST)
    if rare:
        msg = f"Classes with fewer than {FEWEST} reference cells are left out: {', '.join(rare)}."
        warnings.warn(msg, GeneformerWarning, stacklevel=3)
    rows = np.flatnonzero(known & ~np.isin(names, rare))
    if not len(rows):
        msg = f"No reference cell has a label in {label!r} that {FEWEST} cells share. Name the column with the labels."
        raise NoCellsError(msg)
    return rows, names[rows]


def _embedded(
    tokens: "TokenizedDataset", model: LoadedModel, options: EmbedOptions, runtime: RuntimeOptions, what: str
) -> NDArray[np.float32]:
    with progress_bar(f"Embedding the {what}", shown=runtime.progress, unit="cells") as update:
        result = embed(tokens, model, options, runtime, progress=update)
    return result.values


def _components(
    reference: Cells, rows: NDArray[np.int64], cells: Cells, model: LoadedModel, seed: int
) -> NDArray[np.float32] | None:
    """Principal components of reference cells and cells together; None where there are tokens without counts."""
    from scipy import sparse

    counts = [opened.counts(model) for opened in (reference, cells)]
    if counts[0] is None or counts[1] is None:
        return None
    return pca_embedding(sparse.vstack([counts[0][rows], counts[1]]).tocsr(), seed=seed)


def _named(found: Transferred, classes: NDArray[Any], options: AnnotateOptions) -> NDArray[Any]:
    named: NDArray[Any] = classes[found.proba.argmax(axis=1)].astype(object)
    named[found.is_far | (found.proba.max(axis=1) < options.unknown_below)] = keys.UNKNOWN
    return named


def _described(
    own: NDArray[Any] | None,
    classes: NDArray[Any],
    labeled_by: Mapping[str, tuple[LabelTransfer, Transferred]],
    options: AnnotateOptions,
) -> dict[str, Any]:
    """Figures of the cells, and how their own labels agree where they have some under the same name."""
    fitted, found = next(iter(labeled_by.values()))
    named = _named(found, classes, options)
    figures: dict[str, Any] = {
        "cells": len(named),
        "unknown": int((named == keys.UNKNOWN).sum()),
        "composition": {str(name): int(count) for name, count in Counter(named.tolist()).most_common()},
        "cutoffs": dict(zip(classes.tolist(), fitted.cutoffs.tolist(), strict=True)),
        "false_rejection": fitted.rejected,
        "by": {},
    }
    for name, (transfer, transferred) in labeled_by.items():
        called = _named(transferred, classes, options)
        row = {"false_rejection": transfer.rejected, "unknown": float((called == keys.UNKNOWN).mean())}
        if own is not None:
            has_label, in_reference = is_labeled(own), np.isin(own, classes)
            for what, part in (("of_the_reference", in_reference), ("of_no_class", has_label & ~in_reference)):
                if part.any():
                    row[f"cells_{what}"] = int(part.sum())
                    row[f"unknown_{what}"] = float((called[part] == keys.UNKNOWN).mean())
            if in_reference.any():
                row["right"] = float((called == own)[in_reference].mean())
                row["right_of_called"] = float((called == own)[in_reference & (called != keys.UNKNOWN)].mean())
        figures["by"][name] = row
    return figures


def _warn_of_many_unknown(figures: Mapping[str, Any]) -> None:
    share = figures["unknown"] / max(figures["cells"], 1)
    if share > MANY_UNKNOWN:
        msg = (
            f'{share:.0%} of the cells are called "unknown". Either the reference lacks their types, or the data sets '
            "differ as a whole, by chemistry, tissue or processing. For the second, use a reference made as the cells "
            'were, or false_rejection=0 (--false-rejection 0), and look at the slots "_nearest" and "_distance".'
        )
        warnings.warn(msg, GeneformerWarning, stacklevel=3)
