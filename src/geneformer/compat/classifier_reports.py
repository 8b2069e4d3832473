"""Metrics and figures of classifiers, under the names of the published `evaluation_utils`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from geneformer import errors
from geneformer.compat.classifier_data import as_tokens, read_classes
from geneformer.compat.classifier_training import LabelPredictions, accuracy_and_f1, predict
from geneformer.compat.embedding_plots import show_figures
from geneformer.compat.networks import packed_classifier, published_runtime
from geneformer.files.atomic import make_folder
from geneformer.files.pickles import read_pickle
from geneformer.finetuning.evaluations import Evaluation
from geneformer.options._fields import check_choice
from geneformer.pl._classification import confusion_matrix, order_of
from geneformer.pl._figures import figure_axes, label_axes, open_frame, plotting_library, save_figure, spread

MEAN_FPR = np.linspace(0, 1, 100)
"""False positive rates at which curves are averaged over splits."""


def classifier_predict(
    model: Any,
    classifier_type: str,
    evalset: Any,
    forward_batch_size: int,
    gene_token_dict: Mapping[str, int] | None = None,
    predict_metadata: Sequence[str] | None = None,
) -> tuple[list[int], list[int], list[list[float]], dict[str, list[Any]] | None]:
    """Classes predicted, true classes, scores of all classes, and metadata, of every labeled cell or gene.

    Parameters
    ----------
    model, classifier_type : Trained classifier, of this package or of plain `transformers`, of "cell" or "gene".
    evalset : Cells with a column `label`, or `labels` for genes; none is left out.
    forward_batch_size : At most so many of the longest cells in one pass.
    gene_token_dict : Has nothing to do: cells are not padded.
    predict_metadata : Columns to hand on, one value for each prediction.
    """
    check_choice("classifier_type", classifier_type, ("cell", "gene"))
    predictions, metadata = predict_labels(model, classifier_type, evalset, forward_batch_size, predict_metadata)
    return predictions.predicted.tolist(), predictions.truth.tolist(), predictions.logits.tolist(), metadata


def predict_labels(
    model: Any, kind: str, data: Any, forward_batch_size: int, predict_metadata: Sequence[str] | None = None
) -> tuple[LabelPredictions, dict[str, list[Any]] | None]:
    """Predictions for every labeled cell or token, and the columns asked for."""
    cells, network = as_tokens(data), packed_classifier(model, kind)
    predictions = predict(network, cells, published_runtime(network, forward_batch_size, progress=False))
    if predict_metadata is None:
        return predictions, None
    return predictions, {name: cells.column(name)[predictions.rows].tolist() for name in predict_metadata}


def vote(logit_list: Sequence[float]) -> int:
    """Class of the highest score; of equal ones, the first."""
    return int(np.argmax(logit_list))


def py_softmax(vector: Sequence[float]) -> list[float]:
    """Probabilities from scores; large scores do not overflow."""
    from scipy.special import softmax

    probabilities: list[float] = softmax(np.asarray(vector, dtype=np.float64)).tolist()
    return probabilities


def get_metrics(
    y_pred: ArrayLike, y_true: ArrayLike, logits_list: ArrayLike, num_classes: int, labels: Sequence[int]
) -> tuple[Any, float, float, dict[str, Any] | None]:
    """Confusion matrix, macro-F1, accuracy and, for two classes, the ROC curve of the second.

    Parameters
    ----------
    y_pred, y_true : Classes predicted and true ones, ``(n,)``.
    logits_list, num_classes : Scores, ``(n, C)``, and the number of classes, C.
    labels : Class ids in the order of the matrix.
    """
    import sklearn.metrics
    from scipy.special import softmax

    predicted, truth = np.asarray(y_pred, dtype=np.int64), np.asarray(y_true, dtype=np.int64)
    ids = [int(code) for code in labels]
    if len(predicted) != len(truth):
        msg = f"There are {len(predicted):,} predictions for {len(truth):,} labels."
        raise errors.OptionError(msg)
    unknown = sorted({*predicted.tolist(), *truth.tolist()} - set(ids))
    if unknown:
        msg = f"Classes {unknown} are not among the labels {ids}."
        raise errors.UnknownClassError(msg)
    accuracy, macro_f1 = accuracy_and_f1(truth, predicted)
    table = sklearn.metrics.confusion_matrix(truth, predicted, labels=ids)
    if num_classes != 2:
        return table, macro_f1, accuracy, None
    if len(np.unique(truth)) < 2:
        nothing = np.full(len(MEAN_FPR), np.nan)
        roc = {"fpr": nothing, "tpr": nothing, "interp_tpr": nothing, "auc": float("nan"), "tpr_wt": 0}
        return table, macro_f1, accuracy, roc
    scores = softmax(np.asarray(logits_list, dtype=np.float64), axis=1)[:, 1]
    fpr, tpr, _ = sklearn.metrics.roc_curve(truth, scores)
    interpolated = np.interp(MEAN_FPR, fpr, tpr)
    interpolated[0] = 0.0
    area = float(sklearn.metrics.auc(fpr, tpr))
    roc = {"fpr": fpr, "tpr": tpr, "interp_tpr": interpolated, "auc": area, "tpr_wt": len(tpr)}
    return table, macro_f1, accuracy, roc


def get_cross_valid_roc_metrics(
    all_tpr: Sequence[Any], all_roc_auc: Sequence[float], all_tpr_wt: Sequence[float]
) -> tuple[Any, float, float]:
    """Mean curve, mean area and its standard deviation over splits, weighted; splits of weight 0 do not count.

    Parameters
    ----------
    all_tpr, all_roc_auc : True positive rates on the common grid, and area, of each split.
    all_tpr_wt : Weight of each split; published is the number of corners of its curve.
    """
    weights = np.asarray(all_tpr_wt, dtype=np.float64)
    used = weights > 0
    if not used.any():
        return np.full(len(MEAN_FPR), np.nan), float("nan"), float("nan")
    shares = weights[used] / weights[used].sum()
    curves, areas = np.asarray(all_tpr, dtype=np.float64)[used], np.asarray(all_roc_auc, dtype=np.float64)[used]
    mean_tpr = shares @ curves
    mean_tpr[-1] = 1.0
    area = float(shares @ areas)
    return mean_tpr, area, float(np.sqrt(shares @ (areas - area) ** 2))


def metrics_of_splits(results: Sequence[Mapping[str, Any]], labels: Sequence[Any]) -> dict[str, Any]:
    """What `evaluate_model` returned for several splits, under the names that `validate` has for them."""
    rocs, pooled = [result["roc_metrics"] for result in results], None
    if all(roc is not None for roc in rocs):
        areas = [roc["auc"] for roc in rocs]
        curve = get_cross_valid_roc_metrics([roc["interp_tpr"] for roc in rocs], areas, [roc["tpr_wt"] for roc in rocs])
        pooled = {"mean_tpr": curve[0], "mean_fpr": MEAN_FPR.copy(), "all_roc_auc": areas}
        pooled |= {"roc_auc": curve[1], "roc_auc_sd": curve[2]}
    counts = sum(result["conf_mat"] for result in results)
    return _published_metrics(
        counts, labels, [result["macro_f1"] for result in results], [result["acc"] for result in results], pooled
    )


def metrics_of_test(result: Mapping[str, Any], labels: Sequence[Any]) -> dict[str, Any]:
    """What `evaluate_model` returned, under the names that `evaluate_saved_model` has for it."""
    roc = result["roc_metrics"]
    roc = roc and {"mean_tpr": roc["interp_tpr"], "mean_fpr": MEAN_FPR.copy(), "all_roc_auc": roc["auc"]}
    return _published_metrics(result["conf_mat"], labels, result["macro_f1"], result["acc"], roc)


def _published_metrics(counts: Any, labels: Sequence[Any], macro_f1: Any, acc: Any, roc: Any) -> dict[str, Any]:
    import pandas as pd

    table = pd.DataFrame(counts, columns=list(labels), index=list(labels))
    return {"conf_matrix": table, "macro_f1": macro_f1, "acc": acc, "all_roc_metrics": roc}


def plot_confusion_matrix(
    conf_mat_df: Any,
    title: str,
    output_dir: str | Path,
    output_prefix: str,
    custom_class_order: Sequence[Any] | None = None,
) -> None:
    """Confusion matrix as shares of the rows: `<prefix>_conf_mat.pdf`; see `Classifier.plot_conf_mat`."""
    plot_confusion_matrices({title: conf_mat_df}, output_dir, output_prefix, custom_class_order)


def plot_confusion_matrices(
    tables: Mapping[str, Any], output_dir: str | Path, output_prefix: str, order: Sequence[Any] | None
) -> None:
    """One file per model: `<prefix>_conf_mat.pdf` for a single one, else `<prefix>_<model>_conf_mat.pdf`."""
    if not tables:
        msg = "conf_mat_dict is empty. Give a confusion matrix by the name of its model."
        raise errors.OptionError(msg)
    order = None if order is None else [str(name) for name in order]
    for model, table in tables.items():
        stem = output_prefix if len(tables) == 1 else f"{output_prefix}_{model}"
        counts = np.asarray(table.to_numpy(), dtype=np.int64)
        evaluation = Evaluation(
            n=int(counts.sum()), n_unlabeled=0, n_groups=None, draws={}, seed=0, metrics={},
            classes=tuple(str(name) for name in table.columns), per_class=(), roc={}, pr={}, confusion=counts,
        )  # fmt: skip
        file = make_folder(output_dir) / f"{stem}_conf_mat.pdf"
        confusion_matrix(evaluation, order=order, title=str(model), save=file)
    show_figures()


def plot_ROC(  # noqa: N802  the published name
    roc_metric_dict: Mapping[str, Any],
    model_style_dict: Mapping[str, Mapping[str, Any]],
    title: str,
    output_dir: str | Path,
    output_prefix: str,
) -> None:
    """Mean ROC curves of several models: `<prefix>_roc.pdf`; see `Classifier.plot_roc`."""
    if not roc_metric_dict:
        msg = "roc_metric_dict is empty. Give all_roc_metrics by the name of its model."
        raise errors.OptionError(msg)
    for model, metrics in roc_metric_dict.items():
        if metrics is None:
            msg = f"Model {model!r} has no ROC curve: there is one for two classes only."
            raise errors.OptionError(msg)
        check_choice("The model in model_style_dict", model, list(model_style_dict))
        if not set(model_style_dict[model]) <= {"color", "linestyle"}:
            msg = f"model_style_dict sets {list(model_style_dict[model])} for {model!r}. It takes color and linestyle."
            raise errors.UnsupportedArgumentError(msg)
    ax = figure_axes(None, (10, 8))
    ax.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color="#999999")
    for (model, metrics), color in zip(roc_metric_dict.items(), spread(len(roc_metric_dict)), strict=True):
        areas = metrics["all_roc_auc"]
        label = f"AUC {areas if isinstance(areas, float) else areas[0]:.2f}"
        if "roc_auc" in metrics and len(areas) > 1:
            label = f"AUC {metrics['roc_auc']:.2f} ± {metrics['roc_auc_sd']:.2f}"
        style = {"color": color, "linestyle": "-", **model_style_dict[model]}
        ax.plot(metrics["mean_fpr"], metrics["mean_tpr"], label=f"{model} ({label})", linewidth=2, **style)
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    label_axes(ax, "false positive rate", "true positive rate", title)
    ax.legend(loc="lower right", frameon=False)
    open_frame(ax)
    save_figure(ax.figure, make_folder(output_dir) / f"{output_prefix}_roc.pdf")
    show_figures()


def plot_predictions(  # noqa: PLR0917  those of the method
    predictions_file: str | Path,
    id_class_dict_file: str | Path,
    title: str,
    output_directory: str | Path,
    output_prefix: str,
    custom_class_order: Sequence[Any] | None = None,
    kwargs_dict: Mapping[str, Any] | None = None,
) -> None:
    """Heatmap of the scores of all classes: `<prefix>_pred.pdf`; see `Classifier.plot_predictions`."""
    import pandas as pd

    classes = read_classes(id_class_dict_file)
    names = [str(classes[number]) for number in range(len(classes))]
    order = order_of(names, None if custom_class_order is None else [str(name) for name in custom_class_order])
    drawn = [names[code] for code in order]
    taken = [name for name in ("data", "row_colors") if name in (kwargs_dict or {})]
    if taken:
        msg = f"{taken} cannot be set: they follow from the predictions. Leave them out."
        raise errors.UnsupportedArgumentError(msg)
    scores, truth = _read_predictions(predictions_file)
    # Cells are rows, by the place of their true class in the order; nothing is clustered.
    place_of_cell = np.argsort(order)[np.asarray(truth, dtype=np.int64)]
    rows = np.argsort(place_of_cell, kind="stable")
    colors = np.array(spread(len(order)))
    settings: dict[str, Any] = {
        "cmap": "vlag", "center": 0, "figsize": (8, 10), "row_cluster": False, "col_cluster": False,
        "yticklabels": False, "rasterized": True, **(kwargs_dict or {}),
    }  # fmt: skip
    sns, patches = plotting_library("seaborn"), plotting_library("matplotlib.patches")
    grid = sns.clustermap(
        pd.DataFrame(np.asarray(scores, dtype=np.float64)[rows][:, order], columns=drawn),
        row_colors=pd.Series(colors[place_of_cell[rows]], name="truth"),
        **settings,
    )
    keys = [patches.Patch(color=color, label=name) for name, color in zip(drawn, colors, strict=True)]
    grid.ax_col_dendrogram.legend(handles=keys, title=title, loc="center", ncols=min(len(drawn), 4), frameon=False)
    save_figure(grid.figure, make_folder(output_directory) / f"{output_prefix}_pred.pdf")
    show_figures()


def _read_predictions(path: str | Path) -> tuple[Any, Any]:
    """Scores and true classes of `_pred_dict.pkl`, or of the Trainer's `predictions.pkl`."""
    content = read_pickle(path)
    if isinstance(content, dict) and {"predictions", "label_ids"} <= set(content):
        return content["predictions"], content["label_ids"]
    if isinstance(content, list | tuple) and len(content) == 3:
        return content[0], content[1]
    msg = f'"{path}" holds no predictions. Give the _pred_dict.pkl of an evaluation, or predictions.pkl.'
    raise errors.UnreadableInputError(msg)
