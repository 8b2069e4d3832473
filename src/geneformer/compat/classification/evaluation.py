"""Evaluation of published classifiers: predictions, the published metrics, and the files they are kept in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.compat.classification.data import made_folder, opened
from geneformer.compat.loaded_models import adapter_base_folder, published_runtime
from geneformer.compat.model_folders import readable_folder
from geneformer.compat.pickle_writing import write_pickle
from geneformer.errors import CheckpointError, OptionError, UnknownClassError
from geneformer.models.adapter_folders import is_adapter_folder
from geneformer.models.bert_classifiers import (
    KINDS,
    BertClassifier,
    fill_bert_classifier,
    load_bert_classifier,
    packed_classifier,
)
from geneformer.tasks.class_figures import confusion
from geneformer.tasks.label_predictions import Told, tell
from geneformer.tasks.label_scores import accuracy_and_f1, mean_fpr, pool_rocs, roc_metrics

if TYPE_CHECKING:
    from geneformer.compat.classification.settings import ClassifierSettings


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Predictions and the published metrics of one evaluation.

    Attributes
    ----------
    told
        Scores beside the truth.
    metrics
        `conf_mat`, `macro_f1`, `acc` and `roc_metrics`.
    metadata
        Values of the columns asked for, one for each prediction, by column.
    """

    told: Told
    metrics: dict[str, Any]
    metadata: dict[str, list[Any]] | None


def predictions(
    model: Any,
    kind: Any,
    data: Any,
    *,
    forward_batch_size: int = 100,
    predict_metadata: Sequence[str] | None = None,
) -> tuple[Told, dict[str, list[Any]] | None]:
    """Scores of every labeled cell or token beside the truth, and the columns asked for.

    Parameters
    ----------
    model
        Trained classifier, of this package or of plain `transformers`.
    kind
        "cell" or "gene".
    data
        Labeled cells.
    forward_batch_size
        At most so many of the longest cells in one pass.
    predict_metadata
        Columns to hand on, one value for each prediction.

    Raises
    ------
    PairingError
        Cells that the model cannot read.
    """
    cells, network = opened(data), packed_classifier(model, kind)
    told = tell(network, cells, kind, published_runtime(network, forward_batch_size, progress=False))
    if predict_metadata is None:
        return told, None
    return told, {name: cells.column(name)[told.rows].tolist() for name in predict_metadata}


def evaluate(
    model: Any,
    kind: Any,
    data: Any,
    class_ids: Sequence[int],
    *,
    forward_batch_size: int = 100,
    predict_metadata: Sequence[str] | None = None,
) -> Outcome:
    """Predictions and their metrics; see `predictions`.

    Parameters
    ----------
    class_ids
        Ids of the classes, in the order of the confusion matrix.
    model, kind, data, forward_batch_size, predict_metadata
        As for `predictions`.

    Raises
    ------
    UnknownClassError
        Data, classes and model do not belong together.
    PairingError
        Cells that the model cannot read.
    """
    told, metadata = predictions(
        model, kind, data, forward_batch_size=forward_batch_size, predict_metadata=predict_metadata
    )
    ids, n_classes = list(class_ids), told.logits.shape[1]
    highest = max(told.truth.tolist(), default=0)
    if highest >= n_classes or sorted(ids) != list(range(n_classes)):
        msg = (
            f"The data has classes up to {highest}, the dictionary the classes {sorted(ids)}, the model {n_classes} "
            "classes. Use the data set, the dictionary and the model that belong together."
        )
        raise UnknownClassError(msg)
    table = confusion(told.truth, told.predicted, n_classes)
    accuracy, macro_f1 = accuracy_and_f1(table)
    metrics = {
        "conf_mat": table[ids][:, ids],
        "macro_f1": macro_f1,
        "acc": accuracy,
        "roc_metrics": roc_metrics(told.truth, told.logits) if n_classes == 2 else None,
    }
    return Outcome(told, metrics, metadata)


def write_outcome(outcome: Outcome, folder: str | Path | None, prefix: str | None) -> Path:
    """`<prefix>_pred_dict.pkl`.

    Raises
    ------
    OptionError
        No folder or no prefix.
    """
    if folder is None or prefix is None:
        msg = "predict=True writes <output_prefix>_pred_dict.pkl. Give output_directory and output_prefix."
        raise OptionError(msg)
    content: dict[str, Any] = {
        "pred_ids": outcome.told.predicted.tolist(),
        "label_ids": outcome.told.truth.tolist(),
        "predictions": outcome.told.logits.tolist(),
    }
    if outcome.metadata is not None:
        content["prediction_metadata"] = outcome.metadata
    return write_pickle(content, made_folder(folder) / f"{prefix}_pred_dict.pkl")


def split_metrics(results: Sequence[Mapping[str, Any]], labels: Sequence[Any]) -> dict[str, Any]:
    """Metrics of several splits under their published names.

    The mean curve, its area and its standard deviation are weighted by the number of corners of each split's ROC curve,
    as published; `all_roc_auc` has the areas themselves.
    """
    import pandas as pd

    total = sum(result["conf_mat"] for result in results)
    rocs = [result["roc_metrics"] for result in results]
    pooled: dict[str, Any] | None = None
    if all(roc is not None for roc in rocs):
        areas = [roc["auc"] for roc in rocs]
        mean_tpr, area, deviation = pool_rocs(
            [roc["interp_tpr"] for roc in rocs], areas, [roc["tpr_wt"] for roc in rocs]
        )
        pooled = {
            "mean_tpr": mean_tpr, "mean_fpr": mean_fpr(), "all_roc_auc": areas, "roc_auc": area,
            "roc_auc_sd": deviation,
        }  # fmt: skip
    return {
        "conf_matrix": pd.DataFrame(total, columns=list(labels), index=list(labels)),
        "macro_f1": [result["macro_f1"] for result in results],
        "acc": [result["acc"] for result in results],
        "all_roc_metrics": pooled,
    }


def test_metrics(result: Mapping[str, Any], labels: Sequence[Any]) -> dict[str, Any]:
    """Metrics of one test under their published names."""
    import pandas as pd

    roc = result["roc_metrics"]
    return {
        "conf_matrix": pd.DataFrame(result["conf_mat"], columns=list(labels), index=list(labels)),
        "macro_f1": result["macro_f1"],
        "acc": result["acc"],
        "all_roc_metrics": roc and {"mean_tpr": roc["interp_tpr"], "mean_fpr": mean_fpr(), "all_roc_auc": roc["auc"]},
    }


def saved_classifier(classifier: "ClassifierSettings", model_directory: str | Path, n_classes: int) -> BertClassifier:
    """A trained classifier from its folder: whole weights of this package or of `transformers`, or adapters of PEFT.

    Raises
    ------
    CheckpointError
        The folder holds no such classifier, or adapters without what belongs to them.
    """
    folder = Path(model_directory)
    if is_adapter_folder(folder):
        return _with_adapters(classifier, folder, n_classes)
    return load_bert_classifier(readable_folder(folder), classifier.classifier, n_classes)


def _with_adapters(classifier: "ClassifierSettings", folder: Path, n_classes: int) -> BertClassifier:
    """The network that adapters were saved from, with the adapters as part of its weights."""
    from geneformer.models.adapter_folders import adapter_entries
    from geneformer.models.checkpoint import read_config, read_weights
    from geneformer.models.given_adapters import read_adapters

    base, weights = adapter_base_folder(folder), adapter_entries(folder)
    config = read_config(base)
    config.num_labels = n_classes
    network = KINDS[classifier.classifier](config)
    heads = {name: value for name, value in _plain_entries(weights).items() if name in network.state_dict()}
    whole = dict(read_weights(base)) | heads
    drawn = [name for name in ("classifier.weight", "bert.pooler.dense.weight") if name in network.state_dict()]
    lost = [name for name in drawn if name not in (heads if name.startswith("classifier") else whole)]
    if lost:
        msg = (
            f"{folder} holds adapters, but not {lost[0]}, which was drawn at random before "
            "the training and is lost. Train the classifier again; this package writes whole models."
        )
        raise CheckpointError(msg)
    fill_bert_classifier(network, whole, str(base))
    rest = {name: value for name, value in weights.items() if name.removeprefix("base_model.model.") not in heads}
    read_adapters(network, folder, rest)
    return network


def _plain_entries(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("base_model.model."): value for name, value in weights.items()}
