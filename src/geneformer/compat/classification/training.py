"""Training of the published `Classifier`: its defaults, its folders, and the trainer it hands back."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.compat.classification.data import Data, made_folder, opened
from geneformer.compat.classification.training_arguments import published_arguments, runtime_of
from geneformer.compat.model_folders import readable_folder
from geneformer.compat.pickle_writing import write_pickle
from geneformer.errors import OutputExistsError, UnknownVocabularyError, VocabularyMismatchError
from geneformer.models.loading import LoadedModel, load_model
from geneformer.tasks.argument_training import TrainingPlan
from geneformer.tasks.argument_training import train_classifier as train_network

if TYPE_CHECKING:
    from geneformer.compat.classification.settings import ClassifierSettings

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
"""Files that tell that a folder holds a trained model."""


def run_folder(classifier: "ClassifierSettings", output_directory: str | Path, prefix: str) -> Path:
    """`<YYMMDD>_geneformer_<cell|gene>Classifier_<prefix>` in a folder, not made yet."""
    day = datetime.now().astimezone().strftime("%y%m%d")
    return Path(output_directory) / f"{day}_geneformer_{classifier.classifier}Classifier_{prefix}"


def base_model(classifier: "ClassifierSettings", model_directory: str | Path) -> LoadedModel:
    """The pretrained model, with its own vocabulary or, where it does not tell, that of the classifier.

    Raises
    ------
    VocabularyMismatchError
        Classes of genes were given as ids of another vocabulary than the model's.
    PairingError
        No such model, or a damaged one.
    """
    folder = readable_folder(model_directory)
    try:
        base = load_model(folder)
    except UnknownVocabularyError:
        base = load_model(folder, vocabulary=classifier.vocabulary)
    own = classifier.vocabulary
    if classifier.classifier == "gene" and dict(own.token_of) != dict(base.vocabulary.token_of):
        msg = (
            f"The classes of genes were looked up in vocabulary {own.name}, but the model has "
            f'{base.vocabulary.name}. Construct the Classifier with model_version="{base.vocabulary.name}".'
        )
        raise VocabularyMismatchError(msg)
    return base


def refuse_trained(folder: Path) -> None:
    """Refuse to train into a folder that holds a trained model.

    Raises
    ------
    OutputExistsError
        There is one.
    """
    found = [name for name in WEIGHT_FILES if (folder / name).exists()]
    if found:
        msg = f'"{folder}" holds a trained model already ({found[0]}). Choose another output_prefix, or move it away.'
        raise OutputExistsError(msg)


def check_vocabulary(data: Data, base: LoadedModel) -> None:
    """Refuse cells that were tokenized with another vocabulary, where they tell.

    Raises
    ------
    VocabularyMismatchError
        They were.
    """
    if data.vocabulary is not None and data.vocabulary != base.vocabulary.fingerprint:
        msg = (
            f"The cells were tokenized with another vocabulary than {base.vocabulary.name}, that of the model. "
            "Tokenize them with the vocabulary of the model."
        )
        raise VocabularyMismatchError(msg)


def plan_of(
    classifier: "ClassifierSettings", base: LoadedModel, num_classes: int, n_train: int, *, evaluate: bool,
    changes: Mapping[str, Any] | None = None,
) -> TrainingPlan:  # fmt: skip
    """What the arguments of the classifier come to for one training."""
    given = {**(classifier.training_args or {}), **(changes or {})}
    return TrainingPlan(
        kind=classifier.classifier,
        n_classes=num_classes,
        arguments=published_arguments(
            given, kind=classifier.classifier, n_layers=base.n_layers, n_train=n_train, evaluate=evaluate
        ),
        freeze_layers=classifier.freeze_layers,
        adapters=classifier.adapters,
        bits=classifier.bits,
    )


def train(  # noqa: PLR0917  those of the published method
    classifier: "ClassifierSettings",
    model_directory: str | Path,
    num_classes: int,
    train_data: Any,
    eval_data: Any,
    output_directory: str | Path,
    predict: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Any:
    """Train into a folder; returns the trainer. See `Classifier.train_classifier`."""
    folder = Path(output_directory)
    refuse_trained(folder)
    learnt, held = opened(train_data), None if eval_data is None else opened(eval_data)
    base = base_model(classifier, model_directory)
    for cells in (learnt, held):
        if cells is not None:
            check_vocabulary(cells, base)
    plan = plan_of(classifier, base, num_classes, len(learnt), evaluate=held is not None, changes=changes)
    trainer = train_network(base, plan, learnt, held, made_folder(folder), runtime_of(classifier.training_args))
    if predict and held is not None and classifier.classifier == "cell":
        write_predictions(classifier, trainer, held, folder)
    return trainer


def write_predictions(classifier: "ClassifierSettings", trainer: Any, cells: Data, folder: Path) -> None:
    """`predictions.pkl`, as the Trainer of `transformers` would hand it out, and `eval_results.json`."""
    from transformers.trainer_utils import PredictionOutput

    from geneformer.tasks.label_predictions import tell

    told = tell(trainer.model, cells, classifier.classifier, classifier.runtime(trainer.model))
    metrics = {name.replace("eval_", "test_", 1): value for name, value in trainer.evaluate().items()}
    output = PredictionOutput(predictions=told.logits, label_ids=told.truth, metrics=metrics)
    write_pickle(output, folder / "predictions.pkl")
    trainer.save_metrics("eval", metrics)
