"""Learn two columns of labels with one encoder: a study of hyperparameters, and a manual run.

    python examples/published/multitask_cell_classification.py DATA OUT

DATA is what `make_inputs.py` wrote. OUT/study and OUT/manual get a network, label mappings, predictions on validation
and test cells, their figures, and logs for TensorBoard.
"""

import argparse
from pathlib import Path
from typing import Any

from datasets import load_from_disk

from geneformer import MTLClassifier

TASKS = ["cell_type", "depth"]
SPACE = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
    "warmup_ratio": {"type": "float", "low": 0.005, "high": 0.01},
    "weight_decay": {"type": "float", "low": 0.01, "high": 0.1},
    "dropout_rate": {"type": "float", "low": 0.0, "high": 0.7},
    "lr_scheduler_type": {"type": "categorical", "choices": ["cosine"]},
    "task_weights": {"type": "float", "low": 0.1, "high": 2.0},
}
MANUAL = {
    "learning_rate": 0.001,
    "warmup_ratio": 0.01,
    "weight_decay": 0.1,
    "dropout_rate": 0.1,
    "lr_scheduler_type": "cosine",
    "use_attention_pooling": False,
    "task_weights": [1, 1],
    "max_layers_to_freeze": 2,
}


def split(data: Path, out: Path, max_ncells: int) -> dict[str, str]:
    """Three datasets of different cells: to learn from, to choose by, to test on."""
    cells = load_from_disk(str(data / "V2.dataset")).shuffle(seed=42)
    cells = cells.select(range(min(max_ncells, len(cells))))
    first, second = round(0.6 * len(cells)), round(0.8 * len(cells))
    ends = {"train": (0, first), "val": (first, second), "test": (second, len(cells))}
    for name, (start, stop) in ends.items():
        cells.select(range(start, stop)).save_to_disk(str(out / f"{name}.dataset"))
    return {f"{name}_path": str(out / f"{name}.dataset") for name in ends}


def classifier(data: Path, out: Path, paths: dict[str, str], **options: Any) -> MTLClassifier:
    """A classifier that writes into a folder of its own."""
    return MTLClassifier(
        task_columns=TASKS,
        pretrained_path=str(data / "V2"),
        model_save_path=str(out / "model"),
        results_dir=str(out / "results"),
        tensorboard_log_dir=str(out / "logs"),
        seed=42,
        **paths,
        **options,
    )


def main(data: Path, out: Path, max_ncells: int = 100) -> dict[str, Any]:
    """Run both; returns the figures on the test cells."""
    paths = split(data, out, max_ncells)
    study = classifier(
        data, out / "study", paths, study_name="two_tasks", hyperparameters=SPACE, n_trials=2, epochs=1, batch_size=8
    )
    study.run_optuna_study()
    manual = classifier(
        data,
        out / "manual",
        paths,
        manual_hyperparameters=MANUAL,
        use_manual_hyperparameters=True,
        epochs=1,
        batch_size=16,
    )
    manual.run_manual_tuning()
    return {"study": study.load_and_evaluate_test_model(), "manual": manual.load_and_evaluate_test_model()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    main(arguments.data, arguments.out)
