"""Evaluation by published functions, for scripts that call them one by one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geneformer.compat.classification import evaluation
from geneformer.compat.classification.plots import plot_confusions, plot_rocs, plot_scores
from geneformer.errors import OptionError, UnknownClassError
from geneformer.options._check import check_choice
from geneformer.tasks.class_figures import confusion
from geneformer.tasks.label_scores import accuracy_and_f1, pool_rocs, roc_metrics


def vote(logit_list: Sequence[float]) -> int:
    """Class of the highest score; of equal ones, the first."""
    scores = list(logit_list)
    return scores.index(max(scores))


def py_softmax(vector: Sequence[float]) -> list[float]:
    """Probabilities from scores; large scores do not overflow."""
    import torch

    shares: list[float] = torch.tensor([float(score) for score in vector], dtype=torch.float64).softmax(0).tolist()
    return shares


def classifier_predict(
    model: Any,
    classifier_type: str,
    evalset: Any,
    forward_batch_size: int,
    gene_token_dict: Mapping[str, int] | None = None,
    predict_metadata: Sequence[str] | None = None,
) -> tuple[list[int], list[int], list[list[float]], dict[str, list[Any]] | None]:
    """Predictions of every labeled cell or labeled gene; none is left out.

    Parameters
    ----------
    model
        Trained classifier, of this package or of plain `transformers`.
    classifier_type
        "cell" or "gene".
    evalset
        Cells with a column `label`, or `labels` for genes.
    forward_batch_size
        At most so many of the longest cells in one pass; how, not what.
    gene_token_dict
        Has nothing to do: cells are not padded.
    predict_metadata
        Columns to hand on, one value for each prediction.

    Returns
    -------
    Classes predicted, true classes, scores of all classes, and the columns asked for.

    Raises
    ------
    PairingError
        Cells that the model cannot read.
    """
    check_choice("classifier_type", classifier_type, ("cell", "gene"))
    told, metadata = evaluation.predictions(
        model, classifier_type, evalset, forward_batch_size=forward_batch_size, predict_metadata=predict_metadata
    )
    return told.predicted.tolist(), told.truth.tolist(), told.logits.tolist(), metadata


def get_metrics(
    y_pred: Sequence[int], y_true: Sequence[int], logits_list: Any, num_classes: int, labels: Sequence[int]
) -> tuple[Any, float, float, dict[str, Any] | None]:
    """Confusion matrix, macro-F1, accuracy and, for two classes, the ROC curve of the second.

    Parameters
    ----------
    y_pred, y_true
        Classes predicted and true ones, ``(n,)``.
    logits_list
        Scores, ``(n, C)``.
    num_classes
        Classes, C.
    labels
        Class ids in the order of the matrix.

    Raises
    ------
    UnknownClassError
        A class that is not among the labels.
    OptionError
        Different numbers of predictions and labels.
    """
    said, true, ids = [int(code) for code in y_pred], [int(code) for code in y_true], [int(code) for code in labels]
    if len(said) != len(true):
        msg = f"There are {len(said):,} predictions for {len(true):,} labels."
        raise OptionError(msg)
    strange = sorted({*said, *true} - set(ids))
    if strange:
        msg = f"Classes {strange} are not among the labels {ids}."
        raise UnknownClassError(msg)
    table = confusion(true, said, max(ids) + 1)
    accuracy, macro_f1 = accuracy_and_f1(table)
    roc = roc_metrics(true, logits_list) if num_classes == 2 else None
    return table[ids][:, ids], macro_f1, accuracy, roc


def get_cross_valid_roc_metrics(
    all_tpr: Sequence[Any], all_roc_auc: Sequence[float], all_tpr_wt: Sequence[float]
) -> tuple[Any, float, float]:
    """Mean curve, mean area and its standard deviation over splits, weighted.

    Parameters
    ----------
    all_tpr
        True positive rates of each split on the common grid.
    all_roc_auc
        Area of each split.
    all_tpr_wt
        Weight of each split; published is the number of corners of its curve.
    """
    return pool_rocs(all_tpr, all_roc_auc, all_tpr_wt)


def plot_confusion_matrix(
    conf_mat_df: Any,
    title: str,
    output_dir: str | Path,
    output_prefix: str,
    custom_class_order: Sequence[Any] | None = None,
) -> None:
    """Confusion matrix as shares of the rows: `<prefix>_conf_mat.pdf`.

    Parameters
    ----------
    conf_mat_df
        Table with the truth in rows.
    title
        Heading.
    output_dir, output_prefix
        Where the file goes.
    custom_class_order
        Classes in the order to draw them.
    """
    plot_confusions({title: conf_mat_df}, output_dir, output_prefix, custom_class_order)


def plot_ROC(  # noqa: N802  the published name
    roc_metric_dict: Mapping[str, Any],
    model_style_dict: Mapping[str, Mapping[str, Any]],
    title: str,
    output_dir: str | Path,
    output_prefix: str,
) -> None:
    """Mean ROC curves of several models: `<prefix>_roc.pdf`; see `Classifier.plot_roc`."""
    plot_rocs(roc_metric_dict, model_style_dict, title, output_dir, output_prefix)


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
    plot_scores(
        predictions_file, id_class_dict_file, title, output_directory, output_prefix, custom_class_order, kwargs_dict
    )
