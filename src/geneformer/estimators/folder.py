"""Folders of learnt objects: the network, what it was learnt for, and how it did."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geneformer.errors import CheckpointError, VocabularyMismatchError
from geneformer.models.checkpoint import CONFIG, read_config
from geneformer.models.encoder import GeneformerModel
from geneformer.models.finetuned import save_network
from geneformer.models.loading import recognize_vocabulary
from geneformer.runs.files import atomic_folder
from geneformer.runs.manifest import Manifest, installed_versions
from geneformer.vocab.vocabulary import BUNDLED, Vocabulary

TASK = "task.json"
"""What a network was learnt for: labels, classes, preprocessing, options."""

HISTORY = "training.json"
"""Log lines of the training."""

VOCABULARY = "vocabulary"
"""Folder of a vocabulary that is not one of those bundled."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a folder holds beside the network.

    Attributes
    ----------
    folder
        The folder.
    task
        Content of `task.json`.
    history
        Log lines.
    vocabulary
        Vocabulary of the network.
    """

    folder: Path
    task: Mapping[str, Any]
    history: list[dict[str, Any]]
    vocabulary: Vocabulary

    def told(self, name: str) -> Any:
        """An entry of `task.json`; lists as tuples.

        Raises
        ------
        CheckpointError
            There is no such entry.
        """
        if name not in self.task:
            msg = f"{self.folder} is damaged: {TASK} does not tell {name!r}. Copy or write it again."
            raise CheckpointError(msg)
        value = self.task[name]
        return tuple(value) if isinstance(value, list) else value


def write_folder(
    folder: str | Path,
    network: GeneformerModel,
    vocabulary: Vocabulary,
    task: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    *,
    report: Any = None,
    overwrite: bool = False,
) -> Path:
    """Write a learnt object; the folder appears whole or not at all.

    Parameters
    ----------
    folder
        To be made.
    network, vocabulary
        The network and the genes it knows.
    task
        All that is needed to use it, as JSON takes it; `kind` names the estimator.
    history
        Log lines of the training.
    report
        Evaluation with a `save` method, kept in `report`.
    overwrite
        Replace a folder this package made.
    """
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        save_network(network, temporary)
        if vocabulary.name not in BUNDLED:
            vocabulary.save(temporary / VOCABULARY)
        told = {
            **task,
            "vocabulary": {"name": vocabulary.name, "fingerprint": vocabulary.fingerprint},
            "versions": installed_versions(),
        }
        (temporary / TASK).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        (temporary / HISTORY).write_text(json.dumps({"history": list(history)}, indent=1) + "\n", encoding="utf-8")
        if report is not None:
            report.save(temporary / "report")
        Manifest(task=str(task["kind"]), vocabulary=vocabulary.fingerprint, options=task.get("options", {})).write(
            temporary
        )
    return Path(folder)


def read_folder(folder: str | Path, kinds: Sequence[str] = ()) -> Stored:
    """What `write_folder` wrote, without the network.

    Parameters
    ----------
    folder
        What to read.
    kinds
        Estimators that are accepted; any by default.

    Raises
    ------
    CheckpointError
        No learnt object there, a damaged one, or one of another kind.
    VocabularyMismatchError
        Network and vocabulary do not belong together.
    """
    folder = Path(folder)
    path = folder / TASK
    if not path.is_file():
        found = sorted(p.name for p in folder.iterdir())[:8] if folder.is_dir() else "no such folder"
        plain = (
            " It looks like a pretrained checkpoint; pass it as model= and fit." if (folder / CONFIG).is_file() else ""
        )
        msg = f"{folder} holds no fine-tuned model: there is no {TASK} in it ({found}).{plain}"
        raise CheckpointError(msg)
    try:
        task = json.loads(path.read_text(encoding="utf-8"))
        history = [dict(line) for line in json.loads((folder / HISTORY).read_text(encoding="utf-8"))["history"]]
        kind, told = task["kind"], str(task["vocabulary"]["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{folder} is damaged: {error!r} while its {TASK} and {HISTORY} were read. Copy or write it again."
        raise CheckpointError(msg) from error
    if kinds and kind not in kinds:
        msg = f"{folder} holds a {kind}, not a {' or '.join(kinds)}."
        raise CheckpointError(msg)
    own = folder / VOCABULARY if (folder / VOCABULARY).is_dir() else None
    vocabulary = recognize_vocabulary(read_config(folder), folder, own)
    if told != vocabulary.fingerprint:
        msg = (
            f"{folder} was written with vocabulary {told[:12]}, but its network belongs to "
            f"{vocabulary.fingerprint[:12]}. The folder is mixed; write it again."
        )
        raise VocabularyMismatchError(msg)
    return Stored(folder, task, history, vocabulary)
