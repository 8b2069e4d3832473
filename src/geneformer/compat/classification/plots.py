"""Figures of the published `Classifier`: saved first, and shown after that where there is a screen."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from geneformer.compat.classification.data import made_folder, read_classes
from geneformer.errors import OptionError, UnreadableInputError, UnsupportedArgumentError
from geneformer.models.tensor_pickles import TENSORS
from geneformer.options._check import check_choice
from geneformer.pl._figures import plotting_library
from geneformer.pl._published_classifier import MeanRoc, draw_confusion, draw_mean_rocs, draw_scores
from geneformer.vocab.pickles import read_pickle

SILENT = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")
"""Back-ends of matplotlib without a screen."""


_TRAINER_OUTPUT = replace(
    TENSORS,
    globals={**TENSORS.globals, ("transformers.trainer_utils", "PredictionOutput"): lambda *parts: parts},
)
"""What the pickle reader needs to know to read predictions of the Trainer."""


def show() -> None:
    """Show the figures that are open, where there is a screen to show them on."""
    if str(plotting_library("matplotlib").get_backend()).lower() not in SILENT:
        plotting_library("matplotlib.pyplot").show()


def plot_confusions(
    tables: Mapping[str, Any], folder: str | Path, prefix: str, order: Sequence[Any] | None
) -> list[Path]:
    """One file per model: `<prefix>_conf_mat.pdf` for a single one, else `<prefix>_<model>_conf_mat.pdf`.

    Raises
    ------
    OptionError
        No table, or an order that does not name every class once.
    """
    if not tables:
        msg = "conf_mat_dict is empty. Give a confusion matrix by the name of its model."
        raise OptionError(msg)
    paths = []
    for model, table in tables.items():
        stem = prefix if len(tables) == 1 else f"{prefix}_{model}"
        path = made_folder(folder) / f"{stem}_conf_mat.pdf"
        names = [str(name) for name in table.columns]
        wanted = None if order is None else [str(name) for name in order]
        draw_confusion(table.to_numpy(), names, order=wanted, title=str(model), save=path)
        paths.append(path)
    show()
    return paths


def plot_rocs(
    metrics: Mapping[str, Any], styles: Mapping[str, Mapping[str, Any]], title: str, folder: str | Path, prefix: str
) -> Path:
    """`<prefix>_roc.pdf` with one curve per model.

    Raises
    ------
    OptionError
        No model, one without a curve, or one without a style.
    """
    curves = []
    for model, found in metrics.items():
        if found is None:
            msg = f"Model {model!r} has no ROC curve: there is one for two classes only."
            raise OptionError(msg)
        check_choice("The model in model_style_dict", model, list(styles))
        style = dict(styles[model])
        unknown = [name for name in style if name not in ("color", "linestyle")]
        if unknown:
            msg = f"model_style_dict sets {unknown[0]!r} for {model!r}. It takes color and linestyle."
            raise UnsupportedArgumentError(msg)
        areas = found["all_roc_auc"]
        told = f"AUC {float(areas if isinstance(areas, float) else areas[0]):.2f}"
        if "roc_auc" in found and len(areas) > 1:
            told = f"AUC {found['roc_auc']:.2f} ± {found['roc_auc_sd']:.2f}"
        curves.append(
            MeanRoc(
                label=f"{model} ({told})",
                fpr=found["mean_fpr"],
                tpr=found["mean_tpr"],
                color=style.get("color"),
                style=style.get("linestyle"),
            )
        )
    if not curves:
        msg = "roc_metric_dict is empty. Give all_roc_metrics by the name of its model."
        raise OptionError(msg)
    path = made_folder(folder) / f"{prefix}_roc.pdf"
    draw_mean_rocs(curves, title=title, save=path)
    show()
    return path


def plot_scores(  # noqa: PLR0917
    predictions_file: str | Path, id_class_dict_file: str | Path, title: str, folder: str | Path, prefix: str,
    order: Sequence[Any] | None, kwargs_dict: Mapping[str, Any] | None,
) -> Path:  # fmt: skip
    """`<prefix>_pred.pdf`.

    Raises
    ------
    UnsupportedArgumentError
        Settings of `seaborn.clustermap` that follow from the predictions.
    UnreadableInputError
        The file holds no predictions.
    OptionError
        An order with a class that does not exist, or twice.
    """
    classes = read_classes(id_class_dict_file)
    names = [str(classes[number]) for number in range(len(classes))]
    wanted = names if order is None else [str(name) for name in order]
    for name in wanted:
        check_choice("custom_class_order", name, names)
    if len(set(wanted)) != len(names) or len(wanted) != len(names):
        msg = f"custom_class_order={list(order or [])} must name every class once: {', '.join(names)}."
        raise OptionError(msg)
    scores, truth = _read_predictions(predictions_file)
    path = made_folder(folder) / f"{prefix}_pred.pdf"
    draw_scores(
        scores, truth, names, order=[names.index(name) for name in wanted], title=title, save=path, settings=kwargs_dict
    )
    show()
    return path


def _read_predictions(path: str | Path) -> tuple[Any, Any]:
    """Scores and true classes of `_pred_dict.pkl`, or of the Trainer's `predictions.pkl`."""
    found = read_pickle(path, known=_TRAINER_OUTPUT)
    if isinstance(found, dict) and {"predictions", "label_ids"} <= set(found):
        return found["predictions"], found["label_ids"]
    if isinstance(found, list | tuple) and len(found) == 3:
        return found[0], found[1]
    msg = f'"{path}" holds no predictions. Give the _pred_dict.pkl of an evaluation, or predictions.pkl.'
    raise UnreadableInputError(msg)
