"""What all estimators share: a pretrained model to start from, options by keyword, and the machine to run on."""

import dataclasses
import inspect
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer._version import __version__
from geneformer.errors import (
    CheckpointError,
    NoCellsError,
    NotFittedError,
    OptionError,
    UnknownOptionError,
    VocabularyMismatchError,
)
from geneformer.files.atomic import atomic_folder
from geneformer.files.manifest import Manifest, installed_versions
from geneformer.files.progress import Progress, progress_bar
from geneformer.finetuning.baselines import LIBRARY, classify_by_baselines
from geneformer.finetuning.gene_targets import GenePrediction, predict_genes
from geneformer.finetuning.metrics import evaluate_classes, expected_calibration_error
from geneformer.finetuning.reports import (
    GENE,
    N_CELLS,
    PROBABILITY,
    SYMBOL,
    ClassificationReport,
    GeneReport,
    ReportSet,
    load_report,
)
from geneformer.finetuning.splits import Split
from geneformer.finetuning.targets import TaskLabels
from geneformer.finetuning.training import FinetuneResult, embed_cells, predict_cells
from geneformer.genes.vocabulary import BUNDLED, Vocabulary
from geneformer.inference.cells import CellInput, Cells, PairedModel, open_cells
from geneformer.models.checkpoint import CONFIG, read_config
from geneformer.models.encoder import GeneformerModel
from geneformer.models.finetuned import load_network, save_network
from geneformer.models.heads import GeneformerForCells, GeneformerForGenes, HeadSpec
from geneformer.models.loading import LoadedModel, load_model, recognize_vocabulary
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SplitOptions
from geneformer.options._fields import nearest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from scipy import sparse


@dataclasses.dataclass(frozen=True, slots=True)
class Pairing:
    """What tokens for a fine-tuned network depend on."""

    name: str
    vocabulary: Vocabulary
    max_length: int


class Estimator:
    """Base of the estimators: options come as objects or field by field, by keyword.

    Parameters
    ----------
    model
        Name, checkpoint folder or hub repository of the pretrained model.
    vocabulary
        Needed only where the checkpoint does not tell its own.
    *groups
        Options objects to start from.
    **changes
        Single fields of any of them.

    Raises
    ------
    UnknownOptionError
        A keyword that is a field of none of them.
    """

    kind: str
    """Name of the estimator in the folders it writes."""

    def __init__(self, model: str | Path, vocabulary: Any, groups: dict[str, Any], changes: dict[str, Any]) -> None:
        self.model = model
        self.vocabulary = vocabulary
        for name, options in spread_options(groups, changes).items():
            setattr(self, name, options)
        self._base: LoadedModel | None = None

    finetuning: FinetuneOptions
    runtime: RuntimeOptions

    def base(self) -> LoadedModel:
        """The pretrained model, loaded once."""
        if self._base is None:
            self._base = load_model(self.model, vocabulary=self.vocabulary)
        return self._base

    @property
    def provenance(self) -> dict[str, Any]:
        """Where predictions come from: for `uns`, for files."""
        pairing: Pairing = self._fitted("_pairing")
        return {
            "model": str(self.model),
            "vocabulary": pairing.vocabulary.name,
            "vocabulary_fingerprint": pairing.vocabulary.fingerprint,
            "geneformer_version": __version__,
        }

    def _fitted(self, name: str) -> Any:
        """An attribute that `fit` sets."""
        value = getattr(self, name, None)
        if value is None:
            msg = f"This {type(self).__name__} has learnt nothing yet. Call fit first, or load a saved one."
            raise NotFittedError(msg)
        return value


def spread_options(groups: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Options objects with single fields changed; one that several have, such as the seed, in all of them."""
    fields = {name: {field.name for field in dataclasses.fields(options)} for name, options in groups.items()}
    known = sorted(set().union(*fields.values()))
    unknown = [name for name in changes if name not in known]
    if unknown:
        msg = f"{unknown[0]!r} is not an option. Options are {', '.join(known)}.{nearest(unknown[0], known)}"
        raise UnknownOptionError(msg)
    return {
        name: dataclasses.replace(options, **{key: value for key, value in changes.items() if key in fields[name]})
        for name, options in groups.items()
    }


AnyEstimator = TypeVar("AnyEstimator", bound=Estimator)

NOT_TRAINED_WITH = (ClassifyOptions, SplitOptions, RuntimeOptions)
"""Options that decide which cells are measured, and on which machine, not how a network learns."""

MEASURED_BY = frozenset(field.name for field in dataclasses.fields(ClassifyOptions))
"""Fields of such options; those of other tasks have the same names."""


def clone(estimator: AnyEstimator, **changes: Any) -> AnyEstimator:
    """An estimator made with the same arguments that has learnt nothing; the pretrained model is shared."""
    kind = type(estimator)
    taken = [
        parameter.name
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    arguments = {name: getattr(estimator, name) for name in taken} | changes
    copy = kind(arguments.pop("model"), **arguments)
    copy._base = estimator._base
    return copy


def option_groups(estimator: Estimator) -> dict[str, Any]:
    """Options objects of an estimator by the names it takes them by."""
    taken = inspect.signature(type(estimator)).parameters
    found = {name: getattr(estimator, name, None) for name in taken}
    return {name: value for name, value in found.items() if dataclasses.is_dataclass(value)}


def restore_options(
    estimator: Estimator, told: Mapping[str, Mapping[str, Any]], runtime: RuntimeOptions | None
) -> None:
    """Give an estimator the options it was fitted with, and the machine it is to run on."""
    for name, group in option_groups(estimator).items():
        fields = {field.name for field in dataclasses.fields(group)}
        values = {key: value for key, value in told.get(name, {}).items() if key in fields}
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        setattr(estimator, name, dataclasses.replace(group, **values))
    estimator.runtime = runtime or estimator.runtime


def training_groups(estimator: Estimator) -> dict[str, Any]:
    """Those with fields that decide how its network learns."""
    groups = option_groups(estimator)
    return {name: value for name, value in groups.items() if not isinstance(value, NOT_TRAINED_WITH)}


def with_training_options(estimator: AnyEstimator, options: dict[str, Any]) -> AnyEstimator:
    """A copy that learns with other options; its split and its cells stay those of the estimator."""
    groups = {}
    for name, group in training_groups(estimator).items():
        fields = {field.name for field in dataclasses.fields(group)}
        groups[name] = dataclasses.replace(group, **{key: value for key, value in options.items() if key in fields})
    return clone(estimator, **groups)


TASK = "task.json"
"""What a network was learnt for: labels, classes, preprocessing, options."""

HISTORY = "training.json"
"""Log lines of the training."""

VOCABULARY = "vocabulary"
"""Folder of a vocabulary that is not one of those bundled."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a folder holds beside the network."""

    folder: Path
    task: Mapping[str, Any]
    history: list[dict[str, Any]]
    vocabulary: Vocabulary

    def told(self, name: str) -> Any:
        """An entry of `task.json`; lists as tuples."""
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
    """Write a learnt object; the folder appears whole or not at all."""
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
    """What `write_folder` wrote, without the network."""
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


class CellEstimator(Estimator):
    """Base of the estimators whose network says something about every cell."""

    task_fields: ClassVar[tuple[str, ...]] = ()
    """Attributes kept in the folder beside the network."""

    network_kind: ClassVar[type[GeneformerModel]] = GeneformerForCells
    """Class of the network."""

    network_: Any = None
    """Fine-tuned network."""

    result_: FinetuneResult | None = None
    """What the training came to; None for an estimator that was loaded."""

    report_: Any = None
    """Evaluation on the test part of the split, if there was one."""

    split: SplitOptions
    _pairing: Pairing | None = None
    _history: list[dict[str, Any]]
    _options: Mapping[str, Any]

    def open(self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None) -> Cells:
        """Tokens for this estimator; see `open_cells`."""
        pairing = self._pairing if self._pairing is not None else self._pair(self.base())
        return open_cells(cells, pairing, counts_layer=counts_layer, gene_ids=gene_ids)

    def split_options(self, groups: str | None) -> SplitOptions:
        """How `fit` splits the cells."""
        return self.split

    def _pair(self, base: LoadedModel) -> Pairing:
        length = min(self.finetuning.max_length or base.max_length, base.max_length)
        return Pairing(base.name, base.vocabulary, length)

    def _learnt(self, network: GeneformerModel, result: FinetuneResult, base: LoadedModel) -> None:
        """Keep what training gave."""
        self.network_, self.result_ = network, result
        self._pairing, self._history = self._pair(base), result.history

    @property
    def specs(self) -> tuple[HeadSpec, ...]:
        """The heads."""
        network: GeneformerForCells = self._fitted("network_")
        return network.specs

    @property
    def pairing(self) -> Pairing:
        """Vocabulary and longest cell of the fitted network."""
        pairing: Pairing = self._fitted("_pairing")
        return pairing

    def outputs(
        self, cells: Cells, *, network: GeneformerForCells | None = None, progress: bool | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Outputs of every head for the tokenized cells, ``(n, …)``."""
        network = network or self._fitted("network_")
        pairing: Pairing = self._fitted("_pairing")
        shown = self.runtime.progress if progress is None else progress
        with progress_bar("Predicting", shown=shown) as update:
            return predict_cells(network, cells.tokens, self.runtime, max_length=pairing.max_length, progress=update)

    def embed(
        self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None
    ) -> NDArray[np.float32]:
        """The vector of each cell that the heads see, ``(n_cells, hidden_size)``; not a number for cells left out.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        network, pairing = self._fitted("network_"), self._fitted("_pairing")
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        values = embed_cells(network, opened.tokens, self.runtime, max_length=pairing.max_length)
        return opened.spread(values, np.nan)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write network, labels, vocabulary, preprocessing, options, history and report to a folder.

        Parameters
        ----------
        folder
            To be made.
        overwrite
            Replace one that is there.
        """
        network, pairing = self._fitted("network_"), self._fitted("_pairing")
        task = {
            "kind": self.kind,
            **{name: getattr(self, name) for name in self.task_fields},
            "base_model": str(self.model),
            "preprocessing": {"max_length": pairing.max_length, "normalize_to": 10_000},
            "options": self._options,
        }
        return write_folder(
            folder, network, pairing.vocabulary, task, self._history, report=self.report_, overwrite=overwrite
        )

    @classmethod
    def load(cls, folder: str | Path, *, runtime: RuntimeOptions | None = None) -> Self:
        """An estimator as `save` wrote it, ready to predict.

        Parameters
        ----------
        folder
            Folder of a saved estimator.
        runtime
            Where and how it runs.

        Raises
        ------
        CheckpointError
            Not such a folder, or a damaged one.
        VocabularyMismatchError
            Network and vocabulary do not belong together.
        """
        stored = read_folder(folder, [cls.kind])
        estimator = cls(stored.told("base_model"), vocabulary=stored.vocabulary)  # type: ignore[call-arg]
        restore_options(estimator, stored.told("options"), runtime)
        for name in cls.task_fields:
            setattr(estimator, name, stored.told(name))
        estimator.network_ = load_network(Path(folder), cls.network_kind)
        estimator._pairing = Pairing(str(folder), stored.vocabulary, stored.told("preprocessing")["max_length"])
        estimator._history, estimator._options = stored.history, stored.told("options")
        estimator.report_ = load_report(Path(folder) / "report") if (Path(folder) / "report").is_dir() else None
        return estimator


LEARNT = "learnt"
"""Column of predictions with the class a gene was learnt with."""


class GeneEstimator(Estimator):
    """Base of the estimators whose network says something about the genes of cells."""

    task_fields: ClassVar[tuple[str, ...]] = ("classes_", "gene_classes_", "parts_", "left_out_", "metrics_")
    """Attributes kept in the folder beside the network."""

    classes_: tuple[str, ...] | None = None
    """Names of the classes, in the order of the probabilities."""

    gene_classes_: dict[str, list[str]]
    """Ensembl ids of the labeled genes that occur in the cells, by class."""

    parts_: dict[str, list[str]]
    """Which of them were learnt from ("train"), chose the best step ("valid") and were held out ("test")."""

    left_out_: dict[str, dict[str, Sequence[str]]]
    """Genes left out, by class: "unknown" to the vocabulary, "absent" from the cells."""

    metrics_: dict[str, float]
    """Metrics of the validation genes at the weights that were kept."""

    network_: GeneformerForGenes | None = None
    """Fine-tuned network."""

    result_: FinetuneResult | None = None
    """What the training came to; None for an estimator that was loaded."""

    report_: GeneReport | None = None
    """The last report on genes that were not learnt from."""

    _pairing: Pairing | None = None
    _history: list[dict[str, Any]]
    _options: Mapping[str, Any]

    def predict(
        self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None
    ) -> "pd.DataFrame":
        """Classes of all genes of the vocabulary, one row each.

        Columns are `gene` (Ensembl id), `symbol`, `n_cells` (cells it occurs in), `learnt` (the class it was learnt
        with, None for a gene that is new to the classifier), `probability_<class>` averaged over these cells, and
        `predicted`. Genes that occur in no cell have no probabilities (NaN) and no class (None).

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        import pandas as pd

        said, vocabulary = self._say(cells, counts_layer, gene_ids), self._vocabulary
        proba, n_cells = said.proba[vocabulary.token_ids], said.n_cells[vocabulary.token_ids]
        classes: tuple[str, ...] = self._fitted("classes_")
        known = self._known_genes()
        class_of = {gene: name for name, genes in self.gene_classes_.items() for gene in genes if gene in known}
        best = np.where(n_cells > 0, np.nan_to_num(proba).argmax(axis=1), -1)
        columns = {
            GENE: vocabulary.genes,
            SYMBOL: [vocabulary.symbol_of(gene) for gene in vocabulary.genes],
            N_CELLS: n_cells,
            LEARNT: [class_of.get(gene) for gene in vocabulary.genes],
            **{f"{PROBABILITY}{name}": proba[:, code] for code, name in enumerate(classes)},
            "predicted": np.array([*classes, None], dtype=object)[best],
        }
        return pd.DataFrame(columns)

    def predict_proba(
        self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None
    ) -> NDArray[np.float64]:
        """Probability of every class, averaged over cells, by gene of the vocabulary, ``(n_genes, C)``; NaN for others.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        return self._say(cells, counts_layer, gene_ids).proba[self._vocabulary.token_ids]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write network, genes, vocabulary, preprocessing, options, history and report to a folder.

        Parameters
        ----------
        folder
            To be made.
        overwrite
            Replace one that is there.
        """
        network, pairing = self._fitted("network_"), self._fitted("_pairing")
        task = {
            "kind": self.kind,
            **{name: getattr(self, name) for name in self.task_fields},
            "base_model": str(self.model),
            "preprocessing": {"max_length": pairing.max_length, "normalize_to": 10_000},
            "options": self._options,
        }
        return write_folder(
            folder, network, pairing.vocabulary, task, self._history, report=self.report_, overwrite=overwrite
        )

    @classmethod
    def load(cls, folder: str | Path, *, runtime: RuntimeOptions | None = None) -> Self:
        """A classifier as `save` wrote it, ready to predict.

        Parameters
        ----------
        folder
            Folder of a saved classifier.
        runtime
            Where and how it runs.

        Raises
        ------
        CheckpointError
            Not such a folder, or a damaged one.
        VocabularyMismatchError
            Network and vocabulary do not belong together.
        """
        stored = read_folder(folder, [cls.kind])
        classifier = cls(stored.told("base_model"), vocabulary=stored.vocabulary)  # type: ignore[call-arg]
        restore_options(classifier, stored.told("options"), runtime)
        for name in cls.task_fields:
            setattr(classifier, name, stored.told(name))
        classifier.network_ = load_network(Path(folder), GeneformerForGenes)
        classifier._pairing = Pairing(str(folder), stored.vocabulary, stored.told("preprocessing")["max_length"])
        classifier._history, classifier._options = stored.history, stored.told("options")
        return classifier

    @property
    def _vocabulary(self) -> Vocabulary:
        pairing: Pairing = self._fitted("_pairing")
        return pairing.vocabulary

    def _pair(self) -> Pairing:
        """What tokens for a network that is to be trained depend on."""
        base = self.base()
        return Pairing(base.name, base.vocabulary, min(self.finetuning.max_length or base.max_length, base.max_length))

    def _bar(self, label: str) -> AbstractContextManager[Progress]:
        return progress_bar(label, shown=self.runtime.progress)

    def _known_genes(self) -> set[str]:
        """Genes whose class the training knew."""
        return {*self.parts_["train"], *self.parts_["valid"]}

    def _say(self, cells: CellInput, counts_layer: str | None, gene_ids: str | None) -> GenePrediction:
        network, pairing = self._fitted("network_"), self._fitted("_pairing")
        opened = open_cells(cells, pairing, counts_layer=counts_layer, gene_ids=gene_ids)
        size = pairing.vocabulary.size
        with self._bar("Predicting") as update:
            return predict_genes(
                network, opened.tokens, self.runtime, size=size, max_length=pairing.max_length, progress=update
            )


TWIN = "random weights, same network"
"""The network without its pretraining, in tables."""

UNKNOWN = "unknown"
"""What a cell is called whose best class is too improbable."""


def part_of(cells: Cells, rows: NDArray[np.int64]) -> Cells:
    """Some of the tokenized cells, by themselves."""
    if not len(rows):
        msg = "No labeled cell to evaluate on. Check the labels and the split."
        raise NoCellsError(msg)
    return Cells(cells.tokens.take(rows), np.arange(len(rows)), len(rows))


def name_classes(
    proba: NDArray[np.float64], classes: Sequence[str], *, least: float, separator: str | None = None
) -> NDArray[Any]:
    """Most probable classes, ``(n,)``; "unknown" for cells without probabilities."""
    names = np.array(classes, dtype=object)
    missing = np.asarray(np.isnan(proba).any(axis=1))
    filled = np.where(missing[:, None], 0.0, proba)
    if separator is not None:
        predicted = np.array([separator.join(names[row >= 0.5]) for row in filled], dtype=object)
    else:
        predicted = names[filled.argmax(axis=1)]
        missing = missing | (filled.max(axis=1) < least)
    predicted[missing] = UNKNOWN
    return predicted


def counts_like(learnt: Cells, counts: "sparse.csr_matrix | None", tested: Cells, model: PairedModel) -> Any:
    """Counts of cells to test baselines on, ``(n, g)``, None where they are not like those the baselines learn from."""
    if counts is None or tested is learnt:
        return counts
    # Counts kept with tokens are scaled ones.
    return tested.counts(model) if (learnt.adata is None) == (tested.adata is None) else None


def cell_names(cells: Cells) -> NDArray[Any]:
    """Names of all cells of the input, ``(n_input,)``."""
    if cells.adata is not None:
        return np.asarray(cells.adata.obs_names, dtype=object)
    return cells.spread(cells.tokens.cell_ids.astype(object), None)


def cell_table(cells: Cells) -> "pa.Table":
    """What the tokens tell of every cell of the input, in its order; of cells that were left out, only the name."""
    import pyarrow as pa
    from pyarrow import compute

    rows = cells.spread(np.arange(len(cells.tokens)), -1)
    table = cells.tokens.table.select(cells.tokens.columns).take(pa.array(rows, mask=rows < 0))
    told = {name: table[name] for name in table.column_names if name != keys.CELL_ID}
    if keys.LENGTH in told:
        told[keys.LENGTH] = compute.fill_null(told[keys.LENGTH], 0)
    return pa.table({keys.CELL_ID: pa.array(cell_names(cells).astype(str)), **told})


def describe_parts(parts: Split, groups: str | None) -> dict[str, Any]:
    """What reports and folders tell of a split."""
    return {
        "method": parts.method,
        "train": len(parts.train),
        "valid": len(parts.valid),
        "test": len(parts.test),
        "groups": groups,
        "shared_groups": {pair: list(names) for pair, names in parts.shared_groups.items()},
    }


def check_deleted(genes: NDArray[Any] | None, options: FinetuneOptions) -> None:
    """Refuse genes to delete in second views where there are no second views."""
    if genes is not None and not options.contrastive_weight:
        msg = "deleted_genes has no effect without a contrastive term. Pass contrastive_weight, or leave it out."
        raise OptionError(msg)


def without_pretraining(options: FinetuneOptions) -> FinetuneOptions:
    """Options under which the same network learns from random weights; all of them move, as none are worth keeping."""
    return replace(options, weights="random", strategy="full", freeze_layers=0, bits="full")


Proba = dict[str, NDArray[np.float64]]
"""Probabilities by task, or by baseline, ``(n, C)`` each."""


@dataclass(frozen=True, slots=True, eq=False)
class TaskTraining:
    """What was learnt from."""

    cells: Cells
    split: Split
    labels: TaskLabels
    groups: NDArray[Any] | None
    counts: "sparse.csr_matrix | None"
    deleted_genes: NDArray[Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class TestedCells:
    """Cells to report on."""

    cells: Cells
    rows: NDArray[np.int64]
    codes: Mapping[str, NDArray[np.int64]]
    names: NDArray[Any]
    groups: NDArray[Any] | None


def report_tasks(
    tested: TestedCells,
    proba: Proba,
    twins: Mapping[str, Proba],
    training: TaskTraining | None,
    model: PairedModel,
    *,
    classes: Mapping[str, tuple[str, ...]],
    n_top_genes: int,
    seed: int,
    settings: Mapping[str, Mapping[str, Any]],
) -> ReportSet:
    """A report for every task that a cell reported on has a label of."""
    found = ReportSet()
    for name, codes in tested.codes.items():
        known = np.flatnonzero(codes[tested.rows] >= 0)
        if not len(known):
            continue
        truth, said = codes[tested.rows][known], proba[name][known]
        beside = {label: other[name][known] for label, other in twins.items()}
        beside |= _baselines(
            tested.cells, tested.rows[known], name, training, model, n_top_genes=n_top_genes, seed=seed
        )
        groups = None if tested.groups is None else tested.groups[known]
        judged = partial(evaluate_classes, truth, classes=classes[name], groups=groups, seed=seed)
        found[name] = ClassificationReport(
            evaluation=judged(said),
            baselines={label: judged(values) for label, values in beside.items()},
            cell_ids=tested.names[known],
            truth=truth,
            predicted=said.argmax(axis=1),
            proba=said,
            settings={**settings[name], "expected_calibration_error": expected_calibration_error(said, truth)},
        )
    return found


def _baselines(
    cells: Cells,
    rows: NDArray[np.int64],
    task: str,
    training: TaskTraining | None,
    model: PairedModel,
    *,
    n_top_genes: int,
    seed: int,
) -> Proba:
    """Probabilities of what the model has to beat in one task, by name."""
    if training is None or training.counts is None:
        return {}
    counts = counts_like(training.cells, training.counts, cells, model)
    if counts is None:
        return {}
    codes = training.labels.by_task[task]
    learnt = training.split.train[codes[training.split.train] >= 0]
    found = classify_by_baselines(
        training.counts[learnt],
        codes[learnt],
        counts[rows],
        n_classes=len(training.labels.classes[task]),
        groups=None if training.groups is None else training.groups[learnt],
        n_top_genes=n_top_genes,
        seed=seed,
    )
    if cells.adata is None:
        del found[LIBRARY]  # scaled counts have no library size
    return found
