"""`Classifier`: classes of cells and of genes, under the published names."""

import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.compat import classifier_training as cells
from geneformer.compat.cells import balanced_classes, blocks, cap_classes, fold_count, gene_folds, listed, without_rare
from geneformer.compat.classifier_training import (
    BATCH_SIZE,
    COLUMNS,
    Data,
    Told,
    TrainingPlan,
    accuracy_and_f1,
    made_folder,
    mean_fpr,
    opened,
    pool_rocs,
    published_arguments,
    read_classes,
    roc_metrics,
    runtime_of,
    tell,
)
from geneformer.compat.classifier_training import train_classifier as train_network
from geneformer.compat.dictionaries import published_vocabulary
from geneformer.compat.networks import (
    KINDS,
    BertClassifier,
    adapter_base_folder,
    checked_quantize,
    fill_bert_classifier,
    is_adapter_folder,
    load_bert_classifier,
    packed_classifier,
    published_runtime,
    readable_folder,
)
from geneformer.errors import (
    CheckpointError,
    GeneformerError,
    GeneformerWarning,
    GeneListError,
    OptionError,
    OutOfRangeError,
    OutputExistsError,
    TrainingError,
    UnknownClassError,
    UnknownVocabularyError,
    UnreadableInputError,
    UnsupportedArgumentError,
    VocabularyMismatchError,
)
from geneformer.files.pickles import read_pickle, write_pickle
from geneformer.finetuning.metrics import confusion
from geneformer.finetuning.reports import Evaluation
from geneformer.finetuning.search import import_optuna
from geneformer.finetuning.training import count_cells
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.loading import LoadedModel, load_model
from geneformer.options import RuntimeOptions
from geneformer.options._fields import check_choice, check_range, whole_number
from geneformer.pl._classification import confusion_matrix
from geneformer.pl._figures import INK, plotting_library, save_figure, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Predictions and the published metrics of one evaluation."""

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
    """Scores of every labeled cell or token beside the truth, and the columns asked for."""
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
    """Predictions and their metrics; see `predictions`."""
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
    """`<prefix>_pred_dict.pkl`."""
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
    """Metrics of several splits under their published names."""
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
    """A trained classifier from its folder: whole weights of this package or of `transformers`, or adapters of PEFT."""
    folder = Path(model_directory)
    if is_adapter_folder(folder):
        return _with_adapters(classifier, folder, n_classes)
    return load_bert_classifier(readable_folder(folder), classifier.classifier, n_classes)


def _with_adapters(classifier: "ClassifierSettings", folder: Path, n_classes: int) -> BertClassifier:
    """The network that adapters were saved from, with the adapters as part of its weights."""
    from geneformer.compat.networks import adapter_entries, read_adapters
    from geneformer.models.checkpoint import read_config, read_weights

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


WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
"""Files that tell that a folder holds a trained model."""


def run_folder(classifier: "ClassifierSettings", output_directory: str | Path, prefix: str) -> Path:
    """`<YYMMDD>_geneformer_<cell|gene>Classifier_<prefix>` in a folder, not made yet."""
    day = datetime.now().astimezone().strftime("%y%m%d")
    return Path(output_directory) / f"{day}_geneformer_{classifier.classifier}Classifier_{prefix}"


def base_model(classifier: "ClassifierSettings", model_directory: str | Path) -> LoadedModel:
    """The pretrained model, with its own vocabulary or, where it does not tell, that of the classifier."""
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
    """Refuse to train into a folder that holds a trained model."""
    found = [name for name in WEIGHT_FILES if (folder / name).exists()]
    if found:
        msg = f'"{folder}" holds a trained model already ({found[0]}). Choose another output_prefix, or move it away.'
        raise OutputExistsError(msg)


def check_vocabulary(data: Data, base: LoadedModel) -> None:
    """Refuse cells that were tokenized with another vocabulary, where they tell."""
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
    for opened_cells in (learnt, held):
        if opened_cells is not None:
            check_vocabulary(opened_cells, base)
    plan = plan_of(classifier, base, num_classes, len(learnt), evaluate=held is not None, changes=changes)
    trainer = train_network(base, plan, learnt, held, made_folder(folder), runtime_of(classifier.training_args))
    if predict and held is not None and classifier.classifier == "cell":
        write_predictions(classifier, trainer, held, folder)
    return trainer


def write_predictions(classifier: "ClassifierSettings", trainer: Any, cells: Data, folder: Path) -> None:
    """`predictions.pkl`, as the Trainer of `transformers` would hand it out, and `eval_results.json`."""
    from transformers.trainer_utils import PredictionOutput

    from geneformer.compat.classifier_training import tell

    told = tell(trainer.model, cells, classifier.classifier, classifier.runtime(trainer.model))
    metrics = {name.replace("eval_", "test_", 1): value for name, value in trainer.evaluate().items()}
    output = PredictionOutput(predictions=told.logits, label_ids=told.truth, metrics=metrics)
    write_pickle(output, folder / "predictions.pkl")
    trainer.save_metrics("eval", metrics)


LOGARITHMIC = ("learning_rate",)
"""Words whose pairs are drawn by their logarithm."""

WHOLE = ("warmup_steps", "seed", "data_seed", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps")
"""Words that take whole numbers."""

DEFAULT: dict[str, Any] = {
    "num_train_epochs": [1],
    "learning_rate": (1e-6, 1e-3),
    "weight_decay": (0.0, 0.3),
    "lr_scheduler_type": ["linear", "cosine", "polynomial"],
    "warmup_steps": (100, 2000),
    "seed": (0, 100),
    "per_device_train_batch_size": [BATCH_SIZE],
}
"""The published space."""


def checked_space(space: Any) -> dict[str, Any]:
    """The space as given, or the published one for None."""
    if space is None:
        return dict(DEFAULT)
    if not isinstance(space, Mapping) or not space:
        msg = f"ray_config={space!r} takes a dictionary: a list of choices, a pair (low, high), or a domain by name."
        raise OptionError(msg)
    for name, entry in space.items():
        _described(name, entry)
    return dict(space)


def draw(trial: Any, space: Mapping[str, Any]) -> dict[str, Any]:
    """One value of every entry, asked from a trial of Optuna."""
    return {name: _drawn(trial, name, *_described(name, entry)) for name, entry in space.items()}


def _described(name: str, entry: Any) -> tuple[list[Any] | None, dict[str, Any]]:
    """Choices, or a range."""
    if isinstance(entry, list):
        return _choices(name, entry), {}
    if isinstance(entry, Mapping) and set(entry) == {"grid_search"}:
        return _choices(name, list(entry["grid_search"])), {}
    if hasattr(entry, "categories"):
        return _choices(name, list(entry.categories)), {}
    if isinstance(entry, tuple) and len(entry) == 2:
        return None, _range(name, *entry, log=name in LOGARITHMIC)
    if hasattr(entry, "lower") and hasattr(entry, "upper"):
        return None, _domain(name, entry)
    if isinstance(entry, str | int | float | bool):
        return [entry], {}
    msg = (
        f"ray_config sets {name}={entry!r}, which is not supported. Give a list of choices, a pair (low, high), or "
        "tune.choice, tune.uniform, tune.loguniform, tune.randint or their quantized forms."
    )
    raise UnsupportedArgumentError(msg)


def _choices(name: str, choices: list[Any]) -> list[Any]:
    if not choices:
        msg = f"ray_config lists no choice for {name}."
        raise OptionError(msg)
    return choices


def _domain(name: str, entry: Any) -> dict[str, Any]:
    """Range of a numeric domain of Ray Tune."""
    sampler: Any = getattr(entry, "sampler", None)
    step = None
    if hasattr(sampler, "q"):
        sampler, step = getattr(sampler, "sampler", None), sampler.q
    kind = type(sampler).__name__.lower()
    if "normal" in kind:
        msg = f"ray_config sets {name} to a normal distribution, which is not supported. Use tune.uniform."
        raise UnsupportedArgumentError(msg)
    whole = type(entry).__name__ == "Integer"
    high = entry.upper - 1 if whole and step is None else entry.upper
    return _range(name, entry.lower, high, log="log" in kind, step=step, whole=whole)


def _range(name: str, low: Any, high: Any, *, log: bool, step: Any = None, whole: bool = False) -> dict[str, Any]:
    numbers = all(isinstance(end, int | float) and abs(end) != float("inf") for end in (low, high))
    if not numbers or low > high or (log and low <= 0):
        msg = f"ray_config sets {name} from {low!r} to {high!r}. It takes two finite numbers, the lower one first."
        raise OptionError(msg)
    return {"low": low, "high": high, "log": log, "step": step, "whole": whole or name in WHOLE}


def _drawn(trial: Any, name: str, choices: list[Any] | None, span: dict[str, Any]) -> Any:
    if choices is not None:
        return trial.suggest_categorical(name, choices)
    step = None if span["log"] else span["step"]  # Optuna takes one or the other
    if span["whole"]:
        by = 1 if step is None else max(round(step), 1)
        return trial.suggest_int(name, round(span["low"]), round(span["high"]), log=span["log"], step=by)
    return trial.suggest_float(name, span["low"], span["high"], log=span["log"], step=step)


METRIC = "macro_f1"
"""Figure of the evaluation cells that decides."""


def search(  # noqa: PLR0917  those of the published method
    classifier: "ClassifierSettings",
    model_directory: str | Path,
    num_classes: int,
    train_data: Any,
    eval_data: Any,
    output_directory: str | Path,
    n_trials: int = 100,
) -> Any:
    """Train once per trial, and keep the best model; returns its trainer. See `Classifier.hyperopt_classifier`."""
    optuna = import_optuna()
    n_trials = whole_number("n_trials", n_trials, low=1)
    space = checked_space(classifier.ray_config)
    folder = Path(output_directory)
    refuse_trained(folder)
    learnt, held = opened(train_data), None if eval_data is None else opened(eval_data)
    if held is None or not len(held):
        msg = "A search judges its trials by the cells of eval_data, but there are none. Construct with no_eval=False."
        raise OptionError(msg)
    made_folder(folder)
    sampler = optuna.samplers.TPESampler(seed=int((classifier.training_args or {}).get("seed", 42)))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    best: dict[str, Any] = {}
    last: list[GeneformerError] = []

    def objective(trial: Any) -> float:
        chosen = _always_evaluated(draw(trial, space))
        target = folder / f"run-{trial.number}"
        try:
            trainer = train(classifier, model_directory, num_classes, learnt, held, target, changes=chosen)
        except TrainingError as error:
            last.append(error)
            raise optuna.TrialPruned from error
        value = max(line[f"eval_{METRIC}"] for line in trainer.state.log_history if f"eval_{METRIC}" in line)
        if not best or value > best["value"]:
            best.update(value=value, trainer=trainer, folder=target)
        return float(value)

    study.optimize(objective, n_trials=n_trials)
    if not best:
        msg = f"All {n_trials} trials failed, the last one: {last[-1]}"
        raise TrainingError(msg)
    study.trials_dataframe().to_csv(folder / "trials.csv", index=False)
    for file in best["folder"].iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    return best["trainer"]


def _always_evaluated(chosen: dict[str, Any]) -> dict[str, Any]:
    """Options of a trial, under which every pass is evaluated and the last checkpoint kept, as published."""
    return {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1, **chosen}


Split = tuple[Data, Data | None, Data | None]
"""Cells to learn from, to evaluate on, and to test on."""


def cell_splits(
    classifier: "ClassifierSettings", data: Data, classes: dict[int, Any], way: cells.CellSplit, draws: Path
) -> Iterator[Split]:
    """Splits of cells: one, by ids, balanced or at random; or five blocks that cover every cell once."""
    data, share = cells.shuffled(data), classifier.eval_size
    if classifier.stratify_splits_col is not None and (classifier.num_crossval_splits > 1 or not way.is_at_random):
        msg = "stratify_splits_col is about one random split, and has no effect on this one."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    if classifier.num_crossval_splits > 1:
        if not way.is_at_random:
            msg = (
                f"num_crossval_splits={classifier.num_crossval_splits} deals out single cells, so split_id_dict and "
                "attr_to_split have no effect. Use num_crossval_splits=1 with them."
            )
            raise UnsupportedArgumentError(msg)
        for train_rows, eval_rows in blocks(len(data), classifier.num_crossval_splits):
            yield data.take(train_rows), data.take(eval_rows), None
    elif way.split_id_dict is not None:
        yield *cells.split_by_ids(data, way.split_id_dict, "eval"), None
    elif way.attr_to_split is not None:
        yield *balanced(classifier, data, classes, way, share, draws), None
    else:
        yield *cells.split_at_random(data, share, stratum(classifier)), None


def balanced(
    classifier: "ClassifierSettings",
    data: Data,
    classes: dict[int, Any],
    way: cells.CellSplit,
    share: float,
    draws: Path,
) -> tuple[Data, Data]:
    """Cells by ids that do not differ in attributes; the draws are kept in a file."""
    attributes = balanced_columns(data, classifier, classes, way.attr_to_balance)
    learnt, held, table = cells.split_balanced(data, attributes, way, share)
    cells.made_folder(draws.parent)
    table.to_csv(draws)
    return learnt, held


def stratum(classifier: "ClassifierSettings") -> str | None:
    """The column to keep the shares of; the state column is called `label` by now."""
    states, column = classifier.cell_state_dict, classifier.stratify_splits_col
    return COLUMNS["cell"] if states is not None and column == states["state_key"] else column


def balanced_columns(
    data: Data, classifier: "ClassifierSettings", classes: dict[int, Any], names: Any
) -> dict[str, Any]:
    """Values of the attributes to balance; the state column may have become `label`."""
    states = classifier.cell_state_dict or {}
    labels = COLUMNS["cell"]
    found: dict[str, Any] = {}
    for name in [names] if isinstance(names, str) else list(names):
        if name == states.get("state_key") and name not in data.columns:
            found[name] = [str(classes[code]) for code in data.column(labels).tolist()]
        else:
            found[name] = data.column(name)
    return found


def gene_splits(
    classifier: "ClassifierSettings", data: Data, classes: dict[int, Any], *, gene_balance: bool
) -> Iterator[Split]:
    """Folds of genes: cells with genes that are learnt from, that validate, and that are tested on."""
    data = cells.shuffled(data)
    tokens, codes = _targets(classifier, classes)
    shares = classifier.split_sizes
    held = classifier.eval_size + classifier.oos_test_size
    test_share = classifier.oos_test_size / held if held else 0.0
    names, wanted = list(classes.values()), classifier.num_crossval_splits
    for parts in gene_folds(codes, fold_count(shares["train"]), test_share, names, first=wanted):
        sides: list[Data | None] = []
        for number, rows in enumerate(parts):
            subset = {tokens[row]: codes[row] for row in rows.tolist()}
            balance = gene_balance and number == 0
            sides.append(gene_side(classifier, data, subset, balance=balance) if subset else None)
        yield sides[0] if sides[0] is not None else data, sides[1], sides[2]


def gene_side(classifier: "ClassifierSettings", data: Data, class_of: dict[int, int], *, balance: bool) -> Data:
    """Cells with any of the genes, drawn, with the labels of these genes only."""
    if balance:
        size, longest = max(class_of) + 1, int(data.lengths.max())
        counts = count_cells(data, max(size, classifier.vocabulary.size), longest)
        class_of = balanced_classes(dict(enumerate(counts.tolist())), class_of)
    return cells.shuffled(cells.label_genes(data, class_of), classifier.max_ncells)


def _targets(classifier: "ClassifierSettings", classes: dict[int, Any]) -> tuple[list[int], list[int]]:
    """Token and class id of every gene, class by class."""
    id_of = {label: number for number, label in classes.items()}
    genes = classifier.gene_class_dict or {}
    strange = [label for label in genes if label not in id_of]
    if strange:
        msg = f"The dictionary of classes has no {strange[0]!r}; it has {list(id_of)}. Use that of prepare_data."
        raise OptionError(msg)
    pairs = [(token, id_of[label]) for label, tokens in genes.items() for token in tokens]
    return [token for token, _ in pairs], [code for _, code in pairs]


def class_of_genes(classifier: "ClassifierSettings", classes: dict[int, Any]) -> dict[int, int]:
    """Class id by token id."""
    return dict(zip(*_targets(classifier, classes), strict=True))


def save_sides(run: Path, prefix: str, number: int, sides: Split) -> None:
    """`<prefix>_{train,valid,test}_gene_labeled_ksplit<i>.dataset` in the folder of a run."""
    for name, data in zip(("train", "valid", "test"), sides, strict=True):
        if data is not None:
            cells.saved(data, run / f"{prefix}_{name}_gene_labeled_ksplit{number}.dataset")


SPLIT_SIZES = {"train": 0.8, "valid": 0.1, "test": 0.1}
"""Published shares of cells or genes."""


def checked_states(classifier: str, states: Any) -> dict[str, Any] | None:
    """`cell_state_dict`, copied; None for genes."""
    if classifier == "gene":
        return None
    if not isinstance(states, Mapping) or set(states) != {"state_key", "states"}:
        msg = (
            'classifier="cell" takes cell_state_dict={"state_key": a column, "states": a list of values or "all"}; '
            f"got {states!r}."
        )
        raise OptionError(msg)
    wanted = listed(states["states"])
    if wanted == ["all"]:
        return {"state_key": states["state_key"], "states": "all"}
    if len(set(wanted)) < 2:
        msg = f'cell_state_dict["states"] is {states["states"]!r}. It takes "all", or a list of two values or more.'
        raise OptionError(msg)
    return {"state_key": states["state_key"], "states": wanted}


def checked_genes(classifier: str, genes: Any, vocabulary: Vocabulary) -> dict[Any, list[int]] | None:
    """Token ids by class, each id once."""
    if classifier == "cell":
        return None
    if not isinstance(genes, Mapping) or len(genes) < 2:
        msg = (
            f'classifier="gene" takes gene_class_dict={{label: [Ensembl ids]}} with two classes or more; got {genes!r}.'
        )
        raise OptionError(msg)
    tokens: dict[Any, list[int]] = {}
    unknown: list[str] = []
    for label, told in genes.items():
        names = [str(gene) for gene in listed(told)]
        unknown += [name for name in names if name not in vocabulary.token_of]
        tokens[label] = list({int(vocabulary.token_of[name]) for name in names if name in vocabulary.token_of})
        if not tokens[label]:
            msg = f"None of the {len(names)} genes of class {label!r} has a token in vocabulary {vocabulary.name}."
            raise GeneListError(msg)
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        msg = f"{len(unknown)} genes of gene_class_dict have no token and are left out: {shown}."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    _refuse_shared(tokens, vocabulary)
    return tokens


def _refuse_shared(tokens: Mapping[Any, Iterable[int]], vocabulary: Vocabulary) -> None:
    owner: dict[int, Any] = {}
    for label, numbers in tokens.items():
        for token in numbers:
            if token in owner:
                gene = vocabulary.gene_of[token]
                msg = f"Gene {gene} is in class {owner[token]!r} and in class {label!r}. Leave it in one of them."
                raise GeneListError(msg)
            owner[token] = label


def checked_filter(filter_data: Any, states: Mapping[str, Any] | None) -> dict[str, list[Any]] | None:
    """`filter_data` with lists of values, and with the states where they are listed; a copy."""
    if filter_data is not None and not isinstance(filter_data, Mapping):
        msg = f"filter_data={filter_data!r} takes a dictionary of columns and lists of values."
        raise OptionError(msg)
    wanted = {name: listed(value) for name, value in (filter_data or {}).items()}
    if states is not None and states["states"] != "all":
        wanted[states["state_key"]] = list(states["states"])
    return wanted or None


def checked_shares(split_sizes: Mapping[str, float] | None) -> dict[str, float]:
    """`split_sizes`, whose rounding errors do not count; None for the published shares."""
    shares = dict(SPLIT_SIZES if split_sizes is None else split_sizes)
    if set(shares) != set(SPLIT_SIZES):
        msg = f"split_sizes names {sorted(shares)}. It takes train, valid and test."
        raise OptionError(msg)
    for name, share in shares.items():
        check_range(f"split_sizes[{name!r}]", share, low=0.0, high=1.0)
    if abs(sum(shares.values()) - 1.0) > 1e-6:
        msg = f"split_sizes adds up to {sum(shares.values()):.6g}: {shares}. Make it 1."
        raise OptionError(msg)
    if shares["train"] == 0:
        msg = "split_sizes leaves nothing to learn from: train is 0."
        raise OutOfRangeError(msg)
    return shares


def checked_words(training_args: Any) -> dict[str, Any] | None:
    """`training_args`, copied."""
    if training_args is None or isinstance(training_args, Mapping):
        return None if training_args is None else dict(training_args)
    msg = f"training_args={training_args!r} takes a dictionary of words of transformers.TrainingArguments."
    raise OptionError(msg)


class ClassifierSettings:
    """Arguments of the constructor, checked; see `Classifier`."""

    def __init__(  # noqa: PLR0913, PLR0917  the published signature
        self,
        classifier: str | None = None,
        quantize: bool | dict[str, Any] = False,
        cell_state_dict: dict[str, Any] | None = None,
        gene_class_dict: dict[Any, list[str]] | None = None,
        filter_data: dict[str, Any] | None = None,
        rare_threshold: float = 0,
        max_ncells: int | None = None,
        max_ncells_per_class: int | None = None,
        training_args: dict[str, Any] | None = None,
        ray_config: dict[str, Any] | None = None,
        freeze_layers: int = 0,
        num_crossval_splits: int = 1,
        split_sizes: dict[str, float] | None = {"train": 0.8, "valid": 0.1, "test": 0.1},  # noqa: B006  never changed
        stratify_splits_col: str | None = None,
        no_eval: bool = False,
        forward_batch_size: int = 100,
        model_version: str = "V2",
        token_dictionary_file: str | Path | None = None,
        nproc: int = 4,
        ngpu: int = 1,
    ) -> None:
        check_choice("classifier", classifier, ("cell", "gene"))
        kind = str(classifier)
        check_choice("num_crossval_splits", num_crossval_splits, (0, 1, 5))
        check_range("rare_threshold", rare_threshold, low=0.0, high=1.0)
        self.max_ncells = whole_number("max_ncells", max_ncells, low=1)
        self.max_ncells_per_class = whole_number("max_ncells_per_class", max_ncells_per_class, low=1)
        self.forward_batch_size = whole_number("forward_batch_size", forward_batch_size, low=1)
        self.nproc, self.ngpu = whole_number("nproc", nproc, low=1), whole_number("ngpu", ngpu, low=0)
        self.freeze_layers = whole_number("freeze_layers", freeze_layers, low=0)
        self.num_crossval_splits = int(num_crossval_splits)
        if max_ncells_per_class is not None and classifier == "gene":
            msg = 'max_ncells_per_class is about states of cells; with classifier="gene" use max_ncells.'
            raise UnsupportedArgumentError(msg)
        if kind == "cell":
            warn_unused(kind, gene_class_dict=gene_class_dict)
        else:
            unused = {"rare_threshold": rare_threshold, "stratify_splits_col": stratify_splits_col}
            warn_unused(kind, cell_state_dict=cell_state_dict, **unused)
        self.classifier: Any = kind
        self.vocabulary = published_vocabulary(model_version, token_dictionary_file)
        self.quantize, self.ray_config = quantize, ray_config
        self.adapters, self.bits = checked_quantize(quantize)
        self.cell_state_dict = checked_states(kind, cell_state_dict)
        self.gene_class_dict = checked_genes(kind, gene_class_dict, self.vocabulary)
        self.filter_data = checked_filter(filter_data, self.cell_state_dict)
        self.rare_threshold = rare_threshold
        self.training_args = checked_words(training_args)
        self.split_sizes = checked_shares(split_sizes)
        self.train_size, self.oos_test_size = self.split_sizes["train"], self.split_sizes["test"]
        self.eval_size = self.split_sizes["valid"] / (self.split_sizes["train"] + self.split_sizes["valid"])
        self.stratify_splits_col, self.no_eval = stratify_splits_col, no_eval
        self.model_version, self.token_dictionary_file = model_version, token_dictionary_file
        self.gene_token_dict = dict(self.vocabulary.token_of)

    def runtime(self, network: Any) -> RuntimeOptions:
        """How evaluations run."""
        return published_runtime(network, self.forward_batch_size, progress=False)


def warn_unused(kind: str, **arguments: Any) -> None:
    """Say which of some arguments are given, but have no meaning for this kind of classifier."""
    given = [name for name, value in arguments.items() if value]
    if given:
        msg = f'{", ".join(given)} has no meaning for classifier="{kind}" and is left out.'
        warnings.warn(msg, GeneformerWarning, stacklevel=4)


class Preparation(ClassifierSettings):
    """`prepare_data` of the published `Classifier`."""

    def prepare_data(  # noqa: PLR0917  the published signature
        self,
        input_data_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        split_id_dict: dict[str, Any] | None = None,
        test_size: float | None = None,
        attr_to_split: str | None = None,
        attr_to_balance: list[str] | None = None,
        max_trials: int = 100,
        pval_threshold: float = 0.1,
        id_class_dict_path: str | Path | None = None,
    ) -> None:
        """Filter, draw, label and split tokenized cells.

        Writes `<prefix>_id_class_dict.pkl`, and `<prefix>_labeled_train.dataset` with `<prefix>_labeled_test.dataset`,
        or `<prefix>_labeled.dataset` where nothing is held out. Class ids count through the sorted states of cells, or
        the classes of genes as given.

        Parameters
        ----------
        input_data_file
            Tokenized cells.
        output_directory, output_prefix
            Where files go; the folder is made.
        split_id_dict
            `attr_key`, a column, and the ids of `train` and of `test`.
        test_size
            Share of the cells held out; that of `split_sizes` by default, 0 for none. For cells.
        attr_to_split, attr_to_balance
            Column of ids that are held out as a whole, and attributes in which both sides must not differ. Draws are
            kept in `<prefix>_train_test_balance_df.csv`.
        max_trials, pval_threshold
            Draws made at most, and the p-value all attributes must reach; the best draw is used if none does.
        id_class_dict_path
            Class ids made before.

        Raises
        ------
        CountsError, DatasetError
            The cells cannot be read, or none are left.
        LabelError
            States that cannot be used.
        OptionError
            Arguments that contradict each other.
        """
        way = cells.CellSplit(
            split_id_dict=split_id_dict, attr_to_split=attr_to_split, attr_to_balance=attr_to_balance,
            max_trials=max_trials, pval_threshold=pval_threshold,
        )  # fmt: skip
        data = cells.opened(input_data_file)
        cells.refuse_labels(data)
        data = cells.selected(data, self.filter_data)
        known = None if id_class_dict_path is None else cells.read_classes(id_class_dict_path)
        stem = made_folder(output_directory) / output_prefix
        if self.classifier == "gene":
            self._prepare_genes(data, stem, known, way, test_size)
        else:
            share = self.oos_test_size if test_size is None else test_size
            check_range("test_size", share, low=0.0, high=1.0)
            self._prepare_cells(data, stem, known, way, share)

    def _prepare_cells(
        self, data: cells.Data, stem: Path, known: dict[int, Any] | None, way: cells.CellSplit, share: float
    ) -> None:
        states = self.cell_state_dict or {}
        _warn_absent(states["states"], set(data.column(states["state_key"]).tolist()), states["state_key"])
        labeled, classes = cells.label_cells(self._drawn(data, states["state_key"]), states["state_key"], known)
        cells.write_classes(classes, stem)
        if way.split_id_dict is not None:
            _save_split(cells.split_by_ids(labeled, way.split_id_dict, "test"), stem)
        elif way.attr_to_split is not None:
            draws = stem.with_name(f"{stem.name}_train_test_balance_df.csv")
            _save_split(balanced(self, labeled, classes, way, share, draws), stem)
        elif 0 < share < 1:
            _save_split(cells.split_at_random(labeled, share, stratum(self)), stem)
        else:
            cells.saved(labeled, stem.with_name(f"{stem.name}_labeled.dataset"))

    def _drawn(self, data: cells.Data, state_key: str) -> cells.Data:
        """Cells without rare states, in the order of the published draw, at most so many in all and of each state."""
        if self.rare_threshold > 0:
            data = data.take(without_rare(data.column(state_key), self.rare_threshold))
        data = cells.shuffled(data, self.max_ncells)
        if self.max_ncells_per_class is not None:
            data = data.take(cap_classes(data.column(state_key).tolist(), self.max_ncells_per_class))
        return data

    def _prepare_genes(
        self, data: cells.Data, stem: Path, known: dict[int, Any] | None, way: cells.CellSplit, test_size: float | None
    ) -> None:
        if way.attr_to_split is not None or test_size:
            msg = (
                "Genes are split, not cells, when they are validated. Leave out attr_to_split and test_size; "
                "split_id_dict keeps cells apart."
            )
            raise UnsupportedArgumentError(msg)
        if data.vocabulary is not None and data.vocabulary != self.vocabulary.fingerprint:
            msg = (
                f"The cells were tokenized with another vocabulary than {self.vocabulary.name}, where the genes were "
                "looked up. Construct the Classifier with the model_version of the cells."
            )
            raise VocabularyMismatchError(msg)
        classes = dict(enumerate(self.gene_class_dict or {})) if known is None else known
        labeled = cells.label_genes(data, class_of_genes(self, classes))
        if not len(labeled):
            msg = "None of the cells has any of the genes of gene_class_dict."
            raise GeneListError(msg)
        cells.write_classes(classes, stem)
        if way.split_id_dict is not None:
            _save_split(cells.split_by_ids(labeled, way.split_id_dict, "test"), stem)
        else:
            cells.saved(labeled, stem.with_name(f"{stem.name}_labeled.dataset"))


def _warn_absent(states: Any, found: set[Any], column: str) -> None:
    absent = [] if states == "all" else [state for state in states if state not in found]
    if absent:
        msg = f"No cell has {column!r} among {absent}, which cell_state_dict lists; the classes are the other states."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)


def _save_split(parts: tuple[cells.Data, cells.Data], stem: Path) -> None:
    for data, name in zip(parts, ("train", "test"), strict=True):
        cells.saved(data, stem.with_name(f"{stem.name}_labeled_{name}.dataset"))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MeanRoc:
    """One curve."""

    label: str
    fpr: ArrayLike
    tpr: ArrayLike
    color: Any = None
    style: str | None = None


def draw_confusion(
    counts: ArrayLike, classes: Sequence[str], *, order: Sequence[str] | None, title: str, save: Path
) -> "Axes":
    """Confusion matrix from counts; colors and numbers are shares of the rows."""
    table = np.asarray(counts, dtype=np.int64)
    evaluation = Evaluation(
        n=int(table.sum()), n_unlabeled=0, n_groups=None, draws={}, seed=0, metrics={}, classes=tuple(classes),
        per_class=(), roc={}, pr={}, confusion=table,
    )  # fmt: skip
    return confusion_matrix(evaluation, order=order, title=title, save=save)


def draw_mean_rocs(curves: Sequence[MeanRoc], *, title: str, save: Path) -> "Axes":
    """Curves of several models beside each other, 10 by 8 inches."""
    pyplot = plotting_library("matplotlib.pyplot")
    ax: Axes = pyplot.subplots(figsize=(10, 8), layout="constrained")[1]
    ax.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color="#999999")
    for curve, color in zip(curves, spread(len(curves)), strict=True):
        ax.plot(
            np.asarray(curve.fpr), np.asarray(curve.tpr), label=curve.label, linewidth=2,
            color=color if curve.color is None else curve.color, linestyle=curve.style or "-",
        )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("false positive rate", color=INK, fontsize=12)
    ax.set_ylabel("true positive rate", color=INK, fontsize=12)
    ax.set_title(title, color=INK, fontsize=14, loc="left")
    ax.legend(loc="lower right", frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    save_figure(ax.figure, save)
    return ax


def draw_scores(
    scores: ArrayLike,
    truth: ArrayLike,
    classes: Sequence[str],
    *,
    order: Sequence[int],
    title: str,
    save: Path,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Heatmap of scores: cells as rows, by true class; classes as columns; nothing is clustered."""
    import pandas as pd

    taken = [name for name in ("data", "row_colors") if name in (settings or {})]
    if taken:
        msg = f"{taken} cannot be set: they follow from the predictions. Leave them out."
        raise UnsupportedArgumentError(msg)
    values, codes = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.int64)
    place_of = np.argsort(np.asarray(order))
    places: NDArray[np.int64] = place_of[codes]
    rows = np.argsort(places, kind="stable")
    colors = np.array(spread(len(order)))
    names = [classes[code] for code in order]
    table = pd.DataFrame(values[rows][:, list(order)], columns=names)
    whole: dict[str, Any] = {
        "cmap": "vlag", "center": 0, "figsize": (8, 10), "row_cluster": False, "col_cluster": False,
        "yticklabels": False, "rasterized": True,
    }  # fmt: skip
    sns, patches = plotting_library("seaborn"), plotting_library("matplotlib.patches")
    beside = pd.Series(colors[places[rows]], name="truth")
    grid = sns.clustermap(table, row_colors=beside, **{**whole, **(settings or {})})
    keys = [patches.Patch(color=color, label=name) for name, color in zip(names, colors, strict=True)]
    grid.ax_col_dendrogram.legend(handles=keys, title=title, loc="center", ncols=min(len(names), 4), frameon=False)
    save_figure(grid.figure, save)


SILENT = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")
"""Back-ends of matplotlib without a screen."""


def show() -> None:
    """Show the figures that are open, where there is a screen to show them on."""
    if str(plotting_library("matplotlib").get_backend()).lower() not in SILENT:
        plotting_library("matplotlib.pyplot").show()


def plot_confusions(
    tables: Mapping[str, Any], folder: str | Path, prefix: str, order: Sequence[Any] | None
) -> list[Path]:
    """One file per model: `<prefix>_conf_mat.pdf` for a single one, else `<prefix>_<model>_conf_mat.pdf`."""
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
    """`<prefix>_roc.pdf` with one curve per model."""
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
    """`<prefix>_pred.pdf`."""
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
    found = read_pickle(path)
    if isinstance(found, dict) and {"predictions", "label_ids"} <= set(found):
        return found["predictions"], found["label_ids"]
    if isinstance(found, list | tuple) and len(found) == 3:
        return found[0], found[1]
    msg = f'"{path}" holds no predictions. Give the _pred_dict.pkl of an evaluation, or predictions.pkl.'
    raise UnreadableInputError(msg)


class Reports(ClassifierSettings):
    """`evaluate_model`, `evaluate_saved_model` and the figures of the published `Classifier`."""

    def evaluate_model(  # noqa: PLR0917  the published signature
        self,
        model: Any,
        num_classes: int,
        id_class_dict: Mapping[int, Any],
        eval_data: Any,
        predict: bool = False,
        output_directory: str | Path | None = None,
        output_prefix: str | None = None,
        predict_metadata: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Evaluate a trained network on labeled cells; none of them is left out.

        Parameters
        ----------
        model
            Of a trainer of this class, or of plain `transformers`.
        num_classes
            Classes; as many as the model has.
        id_class_dict
            Labels by class id, in the order of the confusion matrix.
        eval_data
            Labeled cells.
        predict, output_directory, output_prefix
            Write `<prefix>_pred_dict.pkl`.
        predict_metadata
            Columns to keep beside the predictions.

        Returns
        -------
        `conf_mat`, `macro_f1`, `acc`, and `roc_metrics` for two classes, else None. Figures of genes are over single
        occurrences.

        Raises
        ------
        PairingError, LabelError, OptionError
            What was given does not belong together.
        """
        if num_classes != len(set(id_class_dict.values())):
            msg = f"num_classes={num_classes}, but id_class_dict has {len(set(id_class_dict.values()))} labels."
            raise OptionError(msg)
        outcome = evaluate(
            model, self.classifier, eval_data, list(id_class_dict),
            forward_batch_size=self.forward_batch_size, predict_metadata=predict_metadata,
        )  # fmt: skip
        if predict:
            write_outcome(outcome, output_directory, output_prefix)
        return outcome.metrics

    def evaluate_saved_model(  # noqa: PLR0917  the published signature
        self,
        model_directory: str | Path,
        id_class_dict_file: str | Path,
        test_data_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        predict: bool = True,
        predict_metadata: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Evaluate a trained model from its folder; writes `<prefix>_test_metrics_dict.pkl`.

        Parameters
        ----------
        model_directory
            Folder of a trained classifier of this package, of `transformers`, or of adapters of PEFT.
        id_class_dict_file, test_data_file
            What `prepare_data` wrote.
        output_directory, output_prefix
            Where files go.
        predict
            Write `<prefix>_pred_dict.pkl`.
        predict_metadata
            Columns to keep beside the predictions.

        Returns
        -------
        `conf_matrix`, a table with the truth in rows; `macro_f1`, `acc`; and for two classes `all_roc_metrics`.

        Raises
        ------
        PairingError, LabelError
            Model, classes and cells do not belong together.
        """
        classes = cells.read_classes(id_class_dict_file)
        network = saved_classifier(self, model_directory, len(classes))
        result = self.evaluate_model(
            network, len(set(classes.values())), classes, test_data_file, predict, output_directory, output_prefix,
            predict_metadata,
        )  # fmt: skip
        metrics = test_metrics(result, list(classes.values()))
        write_pickle(metrics, Path(output_directory) / f"{output_prefix}_test_metrics_dict.pkl")
        return metrics

    def plot_conf_mat(
        self,
        conf_mat_dict: Mapping[str, Any],
        output_directory: str | Path,
        output_prefix: str,
        custom_class_order: Sequence[Any] | None = None,
    ) -> None:
        """Confusion matrices as shares of the rows: `<prefix>_conf_mat.pdf`, or one file per model with its name.

        Parameters
        ----------
        conf_mat_dict
            Confusion matrices, as `validate` returns them, by the name of the model.
        output_directory, output_prefix
            Where files go.
        custom_class_order
            Classes in the order to draw them.
        """
        plot_confusions(conf_mat_dict, output_directory, output_prefix, custom_class_order)

    def plot_roc(
        self,
        roc_metric_dict: Mapping[str, Any],
        model_style_dict: Mapping[str, Mapping[str, Any]],
        title: str,
        output_directory: str | Path,
        output_prefix: str,
    ) -> None:
        """Mean ROC curves of several models: `<prefix>_roc.pdf`.

        Parameters
        ----------
        roc_metric_dict
            `all_roc_metrics`, as `validate` returns them, by the name of the model.
        model_style_dict
            `color` and `linestyle` by the name of the model.
        title
            Heading.
        output_directory, output_prefix
            Where the file goes.
        """
        plot_rocs(roc_metric_dict, model_style_dict, title, output_directory, output_prefix)

    def plot_predictions(  # noqa: PLR0917  the published signature
        self,
        predictions_file: str | Path,
        id_class_dict_file: str | Path,
        title: str,
        output_directory: str | Path,
        output_prefix: str,
        custom_class_order: Sequence[Any] | None = None,
        kwargs_dict: Mapping[str, Any] | None = None,
    ) -> None:
        """Heatmap of the scores of all classes, cells by true class: `<prefix>_pred.pdf`.

        Parameters
        ----------
        predictions_file
            `<prefix>_pred_dict.pkl`, or `predictions.pkl` of the Trainer.
        id_class_dict_file
            Labels by class id.
        title
            Heading.
        output_directory, output_prefix
            Where the file goes.
        custom_class_order
            Classes in the order to draw them.
        kwargs_dict
            Settings of `seaborn.clustermap`.
        """
        plot_scores(
            predictions_file,
            id_class_dict_file,
            title,
            output_directory,
            output_prefix,
            custom_class_order,
            kwargs_dict,
        )


class Classifier(Preparation, Reports):
    """Cell or gene classes, learnt by fine-tuning BERT's classifiers on a pretrained encoder.

    Cells are told by the first position, `<cls>` or the top ranked gene; genes by every occurrence. Model folders are
    opened by `transformers.BertForSequenceClassification` and `BertForTokenClassification`, and by this package.

    Parameters
    ----------
    classifier
        "cell" or "gene".
    quantize
        True for low-rank updates over frozen weights of four bits; a dictionary with `peft_config` and, if wanted,
        `bnb_config`. Updates become part of the weights that are written.
    cell_state_dict
        For cells: `state_key`, a column, and `states`, a list of its values or "all".
    gene_class_dict
        For genes: lists of Ensembl ids by label. Unknown genes are left out, with a warning.
    filter_data
        Values to keep, by column.
    rare_threshold
        States of this share of the cells or less are left out.
    max_ncells, max_ncells_per_class
        Most cells in all, and of each state; drawn with seed 42.
    training_args
        Words of `transformers.TrainingArguments`, over the published defaults. All are honored or refused by name.
    ray_config
        What a search draws from: lists of choices, pairs (low, high), or domains of `ray.tune`. Optuna draws.
    freeze_layers
        Lowest encoder layers kept as they are; the token embeddings go on learning.
    num_crossval_splits
        0 for `train_all_data` only, 1, or 5.
    split_sizes
        Shares of `train`, `valid` and `test`; they add up to 1.
    stratify_splits_col
        Column whose shares are kept in random splits.
    no_eval
        Train without evaluation.
    forward_batch_size
        At most so many of the longest cells in one pass of an evaluation; how, not what.
    model_version
        "V1" or "V2", for the dictionary that genes are looked up in.
    token_dictionary_file
        A dictionary of the user's own instead.
    nproc, ngpu
        Checked, with nothing to do: reading is memory mapped, and a search runs its trials one after another.

    Attributes
    ----------
    gene_class_dict
        For genes: token ids by label.
    train_size, eval_size, oos_test_size
        Share learnt from, share of the rest of `train` and `valid` that is evaluated on, share tested on.

    Raises
    ------
    OptionError
        Arguments that are out of range, contradict each other, or cannot be honored.
    GeneListError
        Classes of genes that cannot be used.
    """

    def train_all_data(  # noqa: PLR0917  the published signature
        self,
        model_directory: str | Path,
        prepared_input_data_file: str | Path,
        id_class_dict_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        save_eval_output: bool = True,
        gene_balance: bool = False,
    ) -> Any:
        """Train on all prepared cells, without evaluation; returns the trainer.

        The model goes to `<output_directory>/<YYMMDD>_geneformer_<cell|gene>Classifier_<prefix>/`.

        Parameters
        ----------
        model_directory
            Pretrained model: a folder, or a name that `geneformer.load_model` knows.
        prepared_input_data_file, id_class_dict_file
            What `prepare_data` wrote.
        output_directory, output_prefix
            Where the model goes.
        save_eval_output
            Checked, with nothing to do: nothing is evaluated.
        gene_balance
            Leave out genes of the more frequent of two classes until both occur about equally often. For genes.

        Raises
        ------
        OutputExistsError
            The folder holds a trained model.
        PairingError
            Model and cells do not belong together.
        OptionError
            Arguments that cannot be honored.
        """
        self._check_balance(gene_balance)
        run = run_folder(self, output_directory, output_prefix)
        refuse_trained(run)
        classes = cells.read_classes(id_class_dict_file)
        data = cells.opened(prepared_input_data_file)
        if self.classifier == "gene":
            genes = class_of_genes(self, classes)
            data = gene_side(self, data, genes, balance=gene_balance)
        else:
            data = cells.shuffled(data)
        return self.train_classifier(model_directory, len(classes), data, None, run)

    def _check_balance(self, gene_balance: bool) -> None:
        if gene_balance and self.classifier == "cell":
            msg = 'gene_balance is about classes of genes; with classifier="cell" use max_ncells_per_class.'
            raise UnsupportedArgumentError(msg)
        if gene_balance and len(self.gene_class_dict or {}) != 2:
            msg = f"gene_balance takes two classes of genes; there are {len(self.gene_class_dict or {})}."
            raise OptionError(msg)

    def validate(  # noqa: PLR0913, PLR0917  the published signature
        self,
        model_directory: str | Path,
        prepared_input_data_file: str | Path,
        id_class_dict_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        split_id_dict: dict[str, Any] | None = None,
        attr_to_split: str | None = None,
        attr_to_balance: list[str] | None = None,
        gene_balance: bool = False,
        max_trials: int = 100,
        pval_threshold: float = 0.1,
        save_eval_output: bool = True,
        predict_eval: bool = True,
        predict_trainer: bool = False,
        n_hyperopt_trials: int = 0,
        save_gene_split_datasets: bool = True,
        debug_gene_split_datasets: bool = False,
    ) -> dict[str, Any] | None:
        """Train and evaluate on one or five splits of the prepared cells.

        Cells are split once, by ids, by balanced attributes or at random; or into five blocks that together cover all
        of them. Genes are split into folds with the classes evenly spread; the held-out genes validate and test. Each
        split goes to `<output_directory>/<YYMMDD>_geneformer_<cell|gene>Classifier_<prefix>/ksplit<i>/`.

        Parameters
        ----------
        model_directory
            Pretrained model: a folder, or a name that `geneformer.load_model` knows.
        prepared_input_data_file, id_class_dict_file
            What `prepare_data` wrote.
        output_directory, output_prefix
            Where files go.
        split_id_dict
            `attr_key`, a column, and the ids of `train` and of `eval`.
        attr_to_split, attr_to_balance, max_trials, pval_threshold
            As in `prepare_data`; draws are kept in `<prefix>_train_valid_balance_df.csv`.
        gene_balance
            See `train_all_data`; for the genes learnt from.
        save_eval_output
            Write `<prefix>_eval_metrics_dict.pkl`.
        predict_eval
            Write `<prefix>_pred_dict.pkl` of every split into its folder.
        predict_trainer
            For cells: write the Trainer's `predictions.pkl` and `eval_results.json` as well.
        n_hyperopt_trials
            Search for training arguments in each split with so many trials. Cells are then evaluated on the cells that
            chose among the trials, genes on the test genes.
        save_gene_split_datasets
            For genes: write `<prefix>_{train,valid,test}_gene_labeled_ksplit<i>.dataset`.
        debug_gene_split_datasets
            For genes: write the data sets of the first split, train nothing, and return None.

        Returns
        -------
        `conf_matrix`, a table with the truth in rows, summed over splits; `macro_f1` and `acc` of each split; and for
        two classes `all_roc_metrics`, else None. None with `no_eval`.

        Raises
        ------
        OutputExistsError
            The folder holds a trained model.
        PairingError
            Model and cells do not belong together.
        LabelError
            Cells or genes that cannot be split so.
        OptionError
            Arguments that cannot be honored.
        """
        way = cells.CellSplit(
            split_id_dict=split_id_dict, attr_to_split=attr_to_split, attr_to_balance=attr_to_balance,
            max_trials=max_trials, pval_threshold=pval_threshold,
        )  # fmt: skip
        self._check_balance(gene_balance)
        if self.classifier == "cell":
            warn_unused("cell", debug_gene_split_datasets=debug_gene_split_datasets)
        else:
            warn_unused("gene", predict_trainer=predict_trainer)
        n_hyperopt_trials = whole_number("n_hyperopt_trials", n_hyperopt_trials, low=0)
        run = run_folder(self, output_directory, output_prefix)
        classes = cells.read_classes(id_class_dict_file)
        data = cells.opened(prepared_input_data_file)
        results = []
        for number, sides in enumerate(self._splits(data, classes, way, run, output_prefix, gene_balance), start=1):
            if self.classifier == "gene" and (save_gene_split_datasets or debug_gene_split_datasets):
                save_sides(run, output_prefix, number, sides)
                if debug_gene_split_datasets:
                    return None
            trainer, judged = self._learn_split(
                (model_directory, len(classes)), sides, run / f"ksplit{number}", n_hyperopt_trials, predict_trainer
            )
            if not self.no_eval:
                told = (predict_eval, run / f"ksplit{number}", output_prefix)
                results.append(self.evaluate_model(trainer.model, len(classes), classes, judged, *told))
        if self.no_eval:
            return None
        metrics = split_metrics(results, list(classes.values()))
        if save_eval_output:
            write_pickle(metrics, Path(output_directory) / f"{output_prefix}_eval_metrics_dict.pkl")
        return metrics

    def _learn_split(
        self,
        model: tuple[str | Path, int],
        sides: Split,
        folder: Path,
        trials: int,
        predict: bool,
    ) -> tuple[Any, cells.Data | None]:
        """The trainer of a split, and the cells it is judged by."""
        learnt, held, test = sides
        shown = None if self.no_eval else held
        if trials == 0:
            return self.train_classifier(*model, learnt, shown, folder, predict=predict), held
        trainer = self.hyperopt_classifier(*model, learnt, shown, folder, n_trials=trials)
        if predict and held is not None and self.classifier == "cell":
            write_predictions(self, trainer, held, folder)
        return trainer, held if test is None else test

    def _splits(
        self, data: cells.Data, classes: dict[int, Any], way: cells.CellSplit, run: Path, prefix: str, balance: bool
    ) -> Iterator[Split]:
        if self.num_crossval_splits == 0:
            msg = "num_crossval_splits=0 is for train_all_data. Construct the Classifier with 1 or 5 to validate."
            raise OptionError(msg)
        if self.classifier == "cell":
            draws = run / f"{prefix}_train_valid_balance_df.csv"
            return cell_splits(self, data, classes, way, draws)
        if not way.is_at_random:
            msg = "Genes are split, not cells. Leave out split_id_dict and attr_to_split, or split in prepare_data."
            raise UnsupportedArgumentError(msg)
        return gene_splits(self, data, classes, gene_balance=balance)

    def hyperopt_classifier(
        self,
        model_directory: str | Path,
        num_classes: int,
        train_data: Any,
        eval_data: Any,
        output_directory: str | Path,
        n_trials: int = 100,
    ) -> Any:
        """Train once per trial of Optuna, and keep the model with the best macro-F1; returns its trainer.

        Trials go to `run-<i>/`, the best model to the folder itself, beside `trials.csv`.

        Parameters
        ----------
        model_directory, num_classes, train_data, eval_data, output_directory
            As in `train_classifier`; the cells of `eval_data` choose among the trials.
        n_trials
            Trials.

        Raises
        ------
        TrainingError
            Every trial failed.
        MissingExtraError
            Optuna is not installed.
        OptionError
            A search space that cannot be drawn from.
        """
        return search(self, model_directory, num_classes, train_data, eval_data, output_directory, n_trials)

    def train_classifier(
        self,
        model_directory: str | Path,
        num_classes: int,
        train_data: Any,
        eval_data: Any,
        output_directory: str | Path,
        predict: bool = False,
    ) -> Any:
        """Train on labeled cells; returns the trainer, whose `model` is the trained network.

        Parameters
        ----------
        model_directory
            Pretrained model.
        num_classes
            Classes.
        train_data, eval_data
            Cells with a column `label`, or `labels` for genes: a folder, or a `datasets.Dataset`. None for `eval_data`
            trains without evaluation.
        output_directory
            Gets the model and its checkpoints.
        predict
            For cells: also write `predictions.pkl` and `eval_results.json`.

        Raises
        ------
        OutputExistsError
            The folder holds a trained model.
        PairingError, OptionError, TrainingError
            Model, cells and arguments do not belong together, or training failed.
        """
        return train(self, model_directory, num_classes, train_data, eval_data, output_directory, predict)


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
    told, metadata = predictions(
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
