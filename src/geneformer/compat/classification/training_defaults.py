"""What published scripts take from the classifier before they train by themselves: defaults, classes, metrics."""

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

from geneformer.compat.classification.training_arguments import published_arguments
from geneformer.compat.plain_models import quant_layers
from geneformer.models.losses import MISSING
from geneformer.options._check import check_choice
from geneformer.tasks.class_figures import confusion
from geneformer.tasks.label_scores import accuracy_and_f1


def get_num_classes(id_class_dict: Mapping[int, Any]) -> int:
    """How many different labels there are."""
    return len(set(id_class_dict.values()))


def compute_metrics(pred: Any) -> dict[str, float]:
    """Accuracy and macro-F1 over everything that has a label, for `transformers.Trainer`.

    Parameters
    ----------
    pred
        Has `label_ids`, ``(n,)`` or ``(n, L)`` with -100 for no label, and `predictions`, logits of the same shape and
        classes.

    Returns
    -------
    `accuracy` and `macro_f1`, the unweighted mean over classes that occur in labels or predictions.

    Raises
    ------
    NoCellsError
        Nothing has a label.
    """
    logits = pred.predictions[0] if isinstance(pred.predictions, tuple) else pred.predictions
    labels, told = pred.label_ids.reshape(-1), logits.argmax(-1).reshape(-1)
    known = labels != MISSING
    n_classes = max(logits.shape[-1], int(labels.max(initial=0)) + 1)
    accuracy, macro_f1 = accuracy_and_f1(confusion(labels[known], told[known], n_classes))
    return {"accuracy": accuracy, "macro_f1": macro_f1}


def get_default_train_args(
    model: Any, classifier: str, data: Sized, output_dir: str | Path
) -> tuple[dict[str, Any], int]:
    """Published settings of `transformers.TrainingArguments`, and how many layers stay as they are.

    Parameters
    ----------
    model
        Network to train; there is a warm-up for those of six layers.
    classifier
        "cell" or "gene".
    data
        Cells to learn from.
    output_dir
        Where checkpoints go.

    Raises
    ------
    UnknownChoiceError
        Another classifier.
    """
    check_choice("classifier", classifier, ("cell", "gene"))
    arguments = published_arguments(
        None, kind=classifier, n_layers=quant_layers(model), n_train=len(data), evaluate=classifier == "cell"
    )
    return {**arguments, "output_dir": str(output_dir)}, 0
