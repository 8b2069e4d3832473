"""The published hyper-parameter search, run by Optuna in this process."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.compat.classification import training as classifier_training
from geneformer.compat.classification.data import made_folder, opened
from geneformer.compat.classification.search_spaces import checked_space, draw
from geneformer.errors import GeneformerError, OptionError, TrainingError
from geneformer.estimators.study import import_optuna
from geneformer.options._check import whole_number

if TYPE_CHECKING:
    from geneformer.compat.classification.settings import ClassifierSettings

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
    classifier_training.refuse_trained(folder)
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
            trainer = classifier_training.train(
                classifier, model_directory, num_classes, learnt, held, target, changes=chosen
            )
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
