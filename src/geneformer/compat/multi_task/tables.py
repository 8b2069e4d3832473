"""Files that the multi-task classifier writes beside its network: predictions, label mappings, figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.compat.pickle_writing import write_pickle
from geneformer.errors import CheckpointError
from geneformer.runs.files import atomic_file, output_errors
from geneformer.tasks.task_values import Classes, Told
from geneformer.vocab.pickles import read_pickle

if TYPE_CHECKING:
    import pandas as pd

CELL = "Cell ID"


def task_names(columns: Sequence[str]) -> list[str]:
    """What the tasks are called in files: `task1`, `task2` and so on."""
    return [f"task{number}" for number in range(1, len(columns) + 1)]


def validation_table(told: Told, cells: Sequence[str]) -> "pd.DataFrame":
    """Predictions on labeled cells, in the order of the dataset.

    Columns are `Cell ID` and, by task, `<task>_true_idx`, `_pred_idx`, `_true_label`, `_pred_label`, `_all_probs`
    (separated by commas) and `<task>_prob_<label>`.

    Parameters
    ----------
    told
        What the network says.
    cells
        Names of the cells.
    """
    import pandas as pd

    columns: dict[str, Any] = {CELL: list(cells)}
    for task, (name, labels) in zip(task_names(list(told.classes)), told.classes.items(), strict=True):
        proba, truth = told.proba[name], told.truth[name]
        said = proba.argmax(axis=1)
        columns[f"{task}_true_idx"], columns[f"{task}_pred_idx"] = truth, said
        columns[f"{task}_true_label"] = [labels[code] for code in truth]
        columns[f"{task}_pred_label"] = [labels[code] for code in said]
        columns[f"{task}_all_probs"] = _joined(proba)
        columns |= {f"{task}_prob_{label}": proba[:, code] for code, label in enumerate(labels)}
    return pd.DataFrame(columns)


def test_table(told: Told, cells: Sequence[str]) -> "pd.DataFrame":
    """Predictions, in the order of the dataset.

    Columns are `Cell ID` and, by task, `<task> Prediction` (number of the class) and `<task> Probabilities` (separated
    by commas).

    Parameters
    ----------
    told
        What the network says.
    cells
        Names of the cells.
    """
    import pandas as pd

    columns: dict[str, Any] = {CELL: list(cells)}
    for task, proba in zip(task_names(list(told.classes)), told.proba.values(), strict=True):
        columns[f"{task} Prediction"] = proba.argmax(axis=1)
        columns[f"{task} Probabilities"] = _joined(proba)
    return pd.DataFrame(columns)


def write_table(table: "pd.DataFrame", path: Path, *, separator: str = ",") -> Path:
    """Write a table without its index; returns where it is.

    Parameters
    ----------
    table
        What to write.
    path
        File to make or replace; its folder is made.
    separator
        Between columns.

    Raises
    ------
    OutputError
        The place cannot be written to.
    """
    with output_errors(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, overwrite=True) as temporary:
        table.to_csv(temporary, index=False, sep=separator)
    return path


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Write figures as JSON; returns where they are.

    Parameters
    ----------
    content
        What to write.
    path
        File to make or replace; its folder is made.
    """
    with output_errors(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return path


def write_mappings(classes: Classes, path: Path) -> Path:
    """Write which number each label has: `{"task1": {label: number}, …}`; returns where it is.

    Parameters
    ----------
    classes
        Labels by task.
    path
        Pickle to make or replace.
    """
    names = task_names(list(classes))
    numbers = [{label: code for code, label in enumerate(labels)} for labels in classes.values()]
    return write_pickle(dict(zip(names, numbers, strict=True)), path)


def read_mappings(path: Path, columns: Sequence[str]) -> Classes:
    """Labels by task in the order of their numbers, as `write_mappings` or the published package wrote them.

    Parameters
    ----------
    path
        The pickle; it is read as data, nothing in it is run.
    columns
        Columns of the tasks.

    Raises
    ------
    CheckpointError
        It holds something else, or another number of tasks.
    """
    content, names = read_pickle(path), task_names(columns)
    fits = isinstance(content, dict) and list(content) == names and all(isinstance(m, dict) for m in content.values())
    if not fits or any(sorted(numbers.values()) != list(range(len(numbers))) for numbers in content.values()):
        found = list(content) if isinstance(content, dict) else type(content).__name__
        msg = f"{path} holds {found}, not the label mappings of the {len(columns)} tasks {list(columns)}."
        raise CheckpointError(msg)
    return {
        column: tuple(sorted(content[name], key=content[name].get)) for column, name in zip(columns, names, strict=True)
    }


def _joined(proba: Any) -> list[str]:
    return [",".join(map(str, row)) for row in proba.tolist()]
