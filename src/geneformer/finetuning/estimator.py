"""What all estimators share: open cells, split, fit, calibrate, predict, evaluate, save and load."""

import base64
import functools
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from inspect import Parameter, signature
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.display import Summarized, Summary, names_text
from geneformer.engine.device import resolve_device
from geneformer.engine.run_folder import has_checkpoints
from geneformer.errors import (
    CheckpointError,
    GeneformerWarning,
    NoCellsError,
    NotFittedError,
    OptionError,
    OutputError,
    VocabularyMismatchError,
)
from geneformer.files import read_json
from geneformer.files.atomic import atomic_folder
from geneformer.files.manifest import InputFile, Manifest, describe_inputs, hash_unchanged, installed_versions
from geneformer.files.progress import Progress, inform, progress_bar
from geneformer.finetuning.baselines import LIBRARY
from geneformer.finetuning.evaluations import absent_text, metric_name, number_text
from geneformer.finetuning.reports import MODEL, RANDOM, ReportSet, by_task, compared, load_report, plot_first
from geneformer.finetuning.splits import Split, draw_rows, given_rows
from geneformer.finetuning.targets import CellTarget, Encoded
from geneformer.finetuning.training import (
    FinetuneResult,
    cell_vectors,
    embed_cells,
    learn_cells,
    predict_cells,
    read_cells,
)
from geneformer.genes.vocabulary import BUNDLED, Vocabulary
from geneformer.inference.cells import CellInput, Cells, cell_fingerprints, describe_run, open_cells
from geneformer.models.encoder import GeneformerModel
from geneformer.models.finetuned import PUBLISHED_CELLS, TASK, load_network, save_network
from geneformer.models.heads import GeneformerForCells, HeadSpec
from geneformer.models.hub import first_names, fitted_folder
from geneformer.models.loading import (
    OWN_VOCABULARY,
    LoadedModel,
    class_names,
    load_model,
    read_config,
    recognize_vocabulary,
)
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SplitOptions
from geneformer.options._fields import as_path, spread_options, whole_number
from geneformer.options._signatures import takes_options
from geneformer.options.finetuning import PROBE_CELLS, resolved

if TYPE_CHECKING:
    import pandas as pd

Values = NDArray[Any]
Ints = NDArray[np.int64]

PLAIN = (str, int, float, tuple, type(None))
"""Values that are shown as they are; of others, such as a vocabulary, the name is."""

PARTS_FOR = {"train": "learnt from", "valid": "to choose the best step", "test": "held out"}
"""What the parts of a split are for."""

TRAINED_WITH = {"task_weights", "learn_task_weights"}
"""Options of tasks that say how a network is trained."""

NO_ROWS = np.empty(0, dtype=np.int64)
NOT_SPLIT = Split(NO_ROWS, NO_ROWS, NO_ROWS, method="none")


@dataclass(frozen=True, slots=True)
class Pairing:
    """What tokens for a fine-tuned network depend on."""

    name: str
    vocabulary: Vocabulary
    max_length: int


@dataclass(slots=True, eq=False)
class Examples:
    """Cells, what is to be learnt about them or their genes, and how those are split."""

    cells: Cells
    encoded: Any
    split: Split = NOT_SPLIT
    groups: Values | None = None
    deleted_genes: Values | None = None
    features: Any = None
    """What the baselines see, once they are asked."""


Method = TypeVar("Method", bound=Callable[..., Any])


def shown_as(title: str) -> Callable[[Method], Method]:
    """Decorator of an estimator's method: what it shows of its progress are lines below this title."""

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def run(self: "Estimator", *given: Any, **options: Any) -> Any:
            with self._bar(title):
                return method(self, *given, **options)

        return cast("Method", run)

    return decorate


class Estimator(Summarized):
    """Base of the estimators: options come as objects by the names in `option_kinds`, or field by field."""

    kind: ClassVar[str]
    """Name of the estimator in the folders it writes."""

    option_kinds: ClassVar[dict[str, type]] = {}
    """Options it takes, by keyword; the second group is about its targets."""

    task_fields: ClassVar[tuple[str, ...]] = ()
    """Attributes kept in the folder with the network."""

    network_kind: ClassVar[type[GeneformerModel]] = GeneformerForCells
    """Class of the network."""

    needs_counts: ClassVar[bool] = False
    """Whether it reads the counts behind the tokens."""

    network_: Any = None
    """Fine-tuned network."""

    strategy_: str = ""
    """What was trained: the strategy, or that which "auto" came to."""

    result_: FinetuneResult | None = None
    """Steps, metrics and history of the training; None for an estimator that was loaded."""

    report_: Any = None
    """Evaluation on the test part of the split, if there was one."""

    matched_: Mapping[str, Any] = MappingProxyType({})
    """Which cells and genes were read to learn from, as `geneformer.keys.MATCHED` says; empty if not known."""

    metrics_: dict[str, float]
    """Figures of the validation part at the best weights."""

    finetuning: FinetuneOptions
    runtime: RuntimeOptions
    _base: LoadedModel | None = None
    _pairing: Pairing | None = None
    _history: list[dict[str, Any]]
    _options: Mapping[str, Any]
    _inputs: tuple[InputFile, ...] = ()
    _training: Any = None
    _random_network: Any = None
    _tells: bool = True
    """Whether it says what "auto" came to; of many folds, one is enough."""
    _learnt_cells: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
    """Fingerprints of cells that were learnt from, ascending."""

    def __init__(
        self, model: str | Path = "mini", *, vocabulary: "str | Path | Vocabulary | None" = None, **changes: Any
    ) -> None:
        self.model = model
        self.vocabulary = vocabulary
        groups = {name: changes.pop(name, None) or kind() for name, kind in self.option_kinds.items()}
        for name, group in spread_options(groups, changes).items():
            setattr(self, name, group)

    def __init_subclass__(cls) -> None:
        """`help` and editors show the options objects by name, and every option that they have."""
        super().__init_subclass__()
        if "__init__" in vars(cls):
            return
        given = signature(Estimator)
        *named, changes = given.parameters.values()
        options = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind | None)
            for name, kind in cls.option_kinds.items()
        ]
        cls.__signature__ = given.replace(parameters=[*named, *options, changes])  # type: ignore[attr-defined]
        takes_options(*cls.option_kinds.values())(cls)

    def base(self) -> LoadedModel:
        """The pretrained model, loaded once."""
        if self._base is None:
            self._base = load_model(self.model, vocabulary=self.vocabulary)
        return self._base

    @property
    def _base_name(self) -> str:
        """Name or folder of the model it starts from."""
        return str(self.model) if isinstance(self.model, str | Path) else self.base().name

    @property
    def provenance(self) -> dict[str, Any]:
        """Where predictions come from: for `uns`, for files."""
        return describe_run(self.pairing) | {"model": self._base_name}

    @property
    def pairing(self) -> Pairing:
        """Vocabulary and longest cell of the fitted network."""
        pairing: Pairing = self._fitted("_pairing")
        return pairing

    @property
    def task_options(self) -> Any:
        """The options about what is learnt: which cells, which baselines."""
        return getattr(self, list(self.option_kinds)[1])

    @property
    def history_(self) -> "pd.DataFrame":
        """What the training logged, a row per step: `step`, `epoch`, `loss`, `eval_loss` and other figures."""
        import pandas as pd

        lines: dict[int, dict[str, Any]] = {}
        for line in self._fitted("_history"):
            if "step" in line:
                lines.setdefault(line["step"], {}).update(line)
        frame = pd.DataFrame(list(lines.values()))
        # Not what is known of the run as a whole, or how fast it was.
        kept = [name for name in map(str, frame) if not re.match("train_|total_|.*_(runtime|per_second)$", name)]
        return frame[["step", *(name for name in kept if name != "step")]]

    def plot(self, kind: str | None = None, **options: Any) -> Any:
        """Draw its report by `gf.pl.<kind>`, such as "confusion_matrix", or its `training_curve`.

        Parameters
        ----------
        kind
            Function of `gf.pl`; by default the first that there is for the report.
        **options
            Its options, such as `title` and `save`.

        Raises
        ------
        UnknownChoiceError
            No such picture.
        NotFittedError
            It has learnt nothing yet.
        """
        self._fitted("network_")
        of_report = [name for report in by_task(self.report_).values() for name in report.pictures]
        return plot_first(self, [*dict.fromkeys(of_report), "training_curve"], kind, **options)

    def loaded_model(self) -> LoadedModel:
        """The fine-tuned encoder, as `gf.load_model` gives those that are pretrained; without a vocabulary head."""
        network, pairing = self._fitted("network_"), self.pairing
        return LoadedModel(type(self).__name__, Path(pairing.name), network, pairing.vocabulary, has_head=False)

    def __repr__(self) -> str:
        return self._call() if self.network_ is None else super().__repr__()

    def _repr_html_(self) -> str | None:
        return None if self.network_ is None else super()._repr_html_()

    def _call(self) -> str:
        """How it was made: what was set to something else than the default."""
        given = {name: getattr(self, name) for name in ("model", "vocabulary")}
        usual = {name: parameter.default for name, parameter in signature(Estimator).parameters.items()}
        for group in option_groups(self).values():
            given |= {entry.name: getattr(group, entry.name) for entry in fields(group)}
            usual |= {entry.name: entry.default for entry in fields(group)}
        if self.strategy_ == "probe":
            given["strategy"] = self.strategy_
        given = {name: value if isinstance(value, PLAIN) else str(value) for name, value in given.items()}
        named = [f"{name}={value!r}" for name, value in given.items() if value != usual[name]]
        return f"{type(self).__name__}({', '.join(named)})"

    def summary_of(self) -> Summary:
        """What was learnt from what, and the figures that count most on what was held out."""
        measured = compared(by_task(self.report_), "")
        validated = [
            f"{metric_name(name)} {number_text(value)}"
            for name, value in dict(self.metrics_).items()
            if isinstance(value, float) and "/" not in name
        ]
        how = ", a linear probe of its embeddings" if self.strategy_ == "probe" else ""
        facts = [("fitted from", f"{self._base_name}{how}"), *self._facts(), ("validation", ", ".join(validated[:4]))]
        return measured._replace(title=self._call(), facts=[fact for fact in facts if fact[1]])

    def _facts(self) -> list[tuple[str, str]]:
        """What was learnt, by name."""
        raise NotImplementedError

    def open(
        self,
        cells: CellInput,
        *,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> Cells:
        """Tokens for this estimator; see `open_cells`."""
        with self._bar():
            return open_cells(
                cells,
                self._pairing or self._pair(),
                counts_layer=counts_layer,
                gene_ids=gene_ids,
                accept_normalized=accept_normalized,
                counts=self.needs_counts,
            )

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write network, task, vocabulary, preprocessing, options, history and report to a folder.

        Parameters
        ----------
        folder
            To be made.
        overwrite
            Replace one that is there.
        """
        network, vocabulary = self._fitted("network_"), self.pairing.vocabulary
        task = {
            "kind": self.kind,
            **{name: getattr(self, name) for name in self.task_fields},
            "base_model": self._base_name,
            "strategy": self.strategy_,
            "preprocessing": {"max_length": self.pairing.max_length, "normalize_to": 10_000},
            "options": self._options,
            "vocabulary": {"name": vocabulary.name, "fingerprint": vocabulary.fingerprint},
            "versions": installed_versions(),
        }
        cells = base64.b64encode(self._learnt_cells.astype("<u8").tobytes()).decode()
        history = {"history": self._history, **({LEARNT: cells} if cells else {})}
        with atomic_folder(folder, overwrite=overwrite) as temporary:
            save_network(network, temporary)
            if vocabulary.name not in BUNDLED:
                vocabulary.save(temporary / OWN_VOCABULARY)
            for name, content in ((TASK, task), (HISTORY, history)):
                (temporary / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            if self.report_ is not None:
                self.report_.save(temporary / "report")
            Manifest(
                task=self.kind,
                vocabulary=vocabulary.fingerprint,
                inputs=hash_unchanged(self._inputs),
                options=self._options,
            ).write(temporary)
        return Path(folder)

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
        folder = as_path("folder", folder, f"the folder of a saved {cls.__name__}")
        stored = read_folder(folder, cls.kind)
        needed = ("base_model", "preprocessing", "options", *cls.task_fields)
        if absent := [name for name in needed if name not in stored.task]:
            msg = f"{folder} is damaged: {TASK} lacks {absent[0]!r}. Copy or write it again."
            raise CheckpointError(msg)
        model, preprocessing, options, *attributes = (_with_tuples(stored.task[name]) for name in needed)
        estimator = cls(model, vocabulary=stored.vocabulary)
        with _damage_named(folder):
            for name, group in option_groups(estimator).items():
                names = {entry.name for entry in fields(group)}
                values = {key: _with_tuples(value) for key, value in options.get(name, {}).items() if key in names}
                setattr(estimator, name, replace(group, **values))
            max_length = whole_number("max_length", preprocessing["max_length"], low=1)
        estimator.runtime = runtime or estimator.runtime
        with suppress(OutputError):  # of a damaged manifest, without which cells are predicted as well
            estimator._inputs = getattr(Manifest.read(folder), "inputs", ())
        for name, value in zip(cls.task_fields, attributes, strict=True):
            setattr(estimator, name, value)
        estimator.network_ = load_network(folder, cls.network_kind)
        with _damage_named(folder):
            estimator._check_loaded()
        estimator._pairing = Pairing(str(folder), stored.vocabulary, max_length)
        estimator._history, estimator._options = stored.history, options
        estimator.strategy_ = str(stored.task.get("strategy", estimator.finetuning.strategy))
        estimator._learnt_cells = stored.learnt_cells
        with _damage_named(folder):
            estimator.summary_of()  # what was noted about the training can be shown
        estimator.report_ = load_report(folder / "report") if (folder / "report").is_dir() else None
        return estimator

    # What is learnt differs from estimator to estimator in these

    def _check_loaded(self) -> None:
        """Refuse attributes that contradict the network they were stored with."""

    def _learn(self, options: FinetuneOptions, **run: Any) -> tuple[Any, FinetuneResult]:
        """One network from the training part."""
        raise NotImplementedError

    def _calibrate(self) -> None:
        """Adjust predictions to the validation part."""

    def _describe(self) -> None:
        """Set the attributes that describe what was learnt."""

    def _evaluate(self, tested: Examples, rows: Ints) -> Any:
        """The report on some of the examples."""
        raise NotImplementedError

    def _make_features(self, examples: Examples) -> Any:
        """What the baselines see of some examples; None if that is nothing they could learn from."""
        raise NotImplementedError

    # Fitting

    def _fit(self, examples: Examples, *, output: str | Path | None, **run: Any) -> Self:
        """Learn from the training part of the examples, and evaluate on the test part."""
        self._training = examples
        self.matched_ = examples.cells.tokens.matched
        self._inputs = (*examples.cells.inputs, *describe_inputs([self.base().folder], hash_limit=0))
        self._train(output=None if output is None else Path(output), **run)
        self._calibrate()
        self._describe()
        if len(examples.split.test):
            with self._bar("Evaluation"):
                self.report_ = self._evaluate(examples, examples.split.test)
        return self

    def _train(self, **run: Any) -> None:
        """Train on `_training`, and keep what came of it."""
        self.network_ = self._random_network = self.report_ = None
        begun = run.get("output") is not None and has_checkpoints(run["output"])
        options = self._resolved(trains=begun or bool(run.get("callbacks")))
        self.strategy_ = options.strategy
        shown = ("Linear probe", "cells") if options.strategy == "probe" else ("Training", "steps")
        with self._bar(shown[0], unit=shown[1]) as update:
            self.network_, self.result_ = self._learn(options, progress=update, **run)
        self._pairing, self._history, self.metrics_ = self._pair(), self.result_.history, dict(self.result_.metrics)
        self._options = {name: asdict(getattr(self, name)) for name in self.option_kinds if name != "runtime"}

    def _resolved(self, *, trains: bool = False) -> FinetuneOptions:
        """The options of the training with the strategy that "auto" comes to."""
        has_probe, n_cells = self._has_probe(), len(self._training.cells.tokens)
        if self.finetuning.strategy == "probe" and not has_probe:
            msg = f'strategy="probe", but no linear model gives what {type(self).__name__} learns here. Use "head".'
            raise OptionError(msg)
        trains = trains or bool(self.task_options.asked & TRAINED_WITH)
        suits = has_probe and not trains and n_cells <= PROBE_CELLS
        options = resolved(self.finetuning, probe=suits and resolve_device(self.runtime.device).type == "cpu")
        if self._tells and options is not self.finetuning and options.strategy == "probe":
            inform(
                f"No option of the training is set, and {n_cells:,} cells are few on a CPU: the head is a linear probe "
                "of the frozen embeddings. strategy='full' trains the network."
            )
        return options

    def _has_probe(self) -> bool:
        """Whether a linear model of the frozen embeddings can stand in for the training."""
        return False

    def _networks(self) -> dict[str, Any]:
        """The fitted network, and that from random weights if it is to be compared."""
        networks = {MODEL: self._fitted("network_")}
        if self._training is not None and self.task_options.baselines == "all":
            networks[RANDOM] = self._random_initialisation()
        return networks

    def _random_initialisation(self) -> Any:
        """The same network with the same training, but without the pretrained weights."""
        if self._random_network is None:
            # All weights move, as none are worth keeping, unless nothing is trained.
            strategy: Literal["probe", "full"] = "probe" if self.strategy_ == "probe" else "full"
            options = replace(self.finetuning, strategy=strategy, weights="random", freeze_layers=0, bits="full")
            with self._bar("Random initialisation", unit="steps") as update:
                self._random_network = self._learn(options, progress=update)[0]
        return self._random_network

    def _features(self, examples: Examples) -> Any:
        """What the baselines see, made once; None where there are none to compare with."""
        if self._training is None or self.task_options.baselines == "none":
            return None
        if examples.features is None:
            examples.features = self._make_features(examples)
        return examples.features

    def _fitted(self, name: str) -> Any:
        """An attribute that `fit` sets."""
        value = getattr(self, name, None)
        if value is None:
            msg = f"This {type(self).__name__} has learnt nothing yet. Call fit first, or load a saved one."
            raise NotFittedError(msg)
        return value

    def _open_fitted(
        self, cells: CellInput, counts_layer: str | None, gene_ids: str | None, accept_normalized: bool
    ) -> Cells:
        """Tokens for the fitted network; refused before any work where there is none."""
        self._fitted("network_")
        return self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized)

    def _pair(self) -> Pairing:
        """What tokens for a network that is to be trained depend on."""
        base = self.base()
        return Pairing(base.name, base.vocabulary, min(self.finetuning.max_length or base.max_length, base.max_length))

    def _bar(self, label: str = "", *, unit: str = "") -> AbstractContextManager[Progress]:
        return progress_bar(label, shown=self.runtime.progress, unit=unit)


class CellEstimator(Estimator):
    """Base of the estimators whose network predicts something of every cell."""

    split: SplitOptions
    split_: dict[str, Any]
    """How the cells were split."""

    several: ClassVar[bool] = False
    """Whether it has several targets, and returns what it does by target."""

    _evaluated: Any = None

    def targets(self, cells: Cells, label: Any, *, by_cell: bool = True) -> Encoded:
        """What is to be learnt about opened cells, for what `fit` takes as labels, and the codes to split them by.

        With `by_cell` the split is drawn cell by cell, so that bins of numbers are worth keeping even.
        """
        raise NotImplementedError

    @shown_as("Fitting")
    def fit(  # noqa: PLR0913
        self,
        cells: CellInput,
        label: Any,
        *,
        groups: str | None = None,
        ids: str | None = None,
        split_rows: Split | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
        deleted_genes: Values | None = None,
        output: str | Path | None = None,
        resume: bool = False,
        callbacks: Any = (),
    ) -> Self:
        """Learn a column of `obs`, and evaluate on the test part of the split.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        label
            Column with the classes or numbers; cells without one are left out with a warning.
        groups
            Column of donors, batches or the like; no group is on two sides of the split. Without it, the parts have
            the same shares of the classes, or about the same numbers.
        ids
            Column of the ids that `split.train_ids` and the others list, or that a balanced split draws; `groups` by
            default.
        split_rows
            Split of the tokenized cells to use instead of drawing one.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
        deleted_genes
            Token ids deleted in the second views of the contrastive term, instead of a random share.
        output
            Folder for training checkpoints, from which a killed run can go on.
        resume
            Go on from there.
        callbacks
            Further callbacks of `transformers.Trainer`.

        Raises
        ------
        LabelError
            Labels or split cannot be used: missing, constant, unknown, leaking, not numbers.
        OptionError
            Genes to delete, but no contrastive term.
        CountsError, PairingError
            The cells cannot be used with the model.
        """
        if deleted_genes is not None and not self.finetuning.contrastive_weight:
            msg = "deleted_genes has no effect without a contrastive term. Pass contrastive_weight, or leave it out."
            raise OptionError(msg)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized)
        encoded = self.targets(opened, label, by_cell=groups is None and ids is None)
        donors = groups_of(opened, groups)
        if split_rows is None:
            split = draw_rows(
                opened,
                encoded,
                self.split_options(groups),
                groups=groups,
                ids=ids or groups,
            )
        else:
            split = given_rows(split_rows, encoded.codes, donors, self.split)
        encoded.prepare(split)
        self.split_ = {
            "method": split.method,
            **{part: len(getattr(split, part)) for part in ("train", "valid", "test")},
            "groups": groups,
            "shared_groups": {pair: list(names) for pair, names in split.shared_groups.items()},
        }
        examples = Examples(opened, encoded, split, donors, deleted_genes)
        self._learnt_cells = np.unique(cell_fingerprints(opened.tokens, split.learnt))[:MOST_KEPT]
        return self._fit(examples, output=output, resume=resume, callbacks=callbacks)

    @shown_as("Evaluation")
    def evaluate(
        self,
        cells: CellInput,
        label: str | None = None,
        *,
        groups: str | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> Any:
        """Figures of the predictions on labeled cells, and of the baselines if this was just fitted.

        Cells whose class was never learnt are left out with a warning.

        Parameters
        ----------
        cells
            Cells that were not learnt from.
        label
            Column with the classes or numbers; the one learnt from by default.
        groups
            Column of donors or the like, to resample whole groups for the intervals.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.

        Returns
        -------
        ClassificationReport, LabelSetReport or NumberReport
            Figures and every prediction.
        """
        opened = self._open_fitted(cells, counts_layer, gene_ids, accept_normalized)
        (target,) = self._targets()
        return self._evaluate_columns(opened, {target.name: target.name if label is None else label}, groups)

    def _facts(self) -> list[tuple[str, str]]:
        classes: Any = getattr(self, "classes_", None)
        label = getattr(self, "label_", None)
        learnt = classes if isinstance(classes, Mapping) else {label: classes or ()} if label else {}
        parts = [f"{self.split_[part]:,} {use}" for part, use in PARTS_FOR.items() if self.split_.get(part)]
        by = f", by {self.split_['groups']}" if self.split_.get("groups") else ""
        facts = [(name, names_text(names) if names else "a number") for name, names in learnt.items()]
        return [*facts, ("cells", ", ".join(parts) + by)]

    def split_options(self, groups: str | None) -> SplitOptions:
        """How `fit` splits the cells."""
        return self.split

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        """Figures of the validation cells that a search can go by, the default last."""
        return ("loss",)

    @property
    def specs(self) -> tuple[HeadSpec, ...]:
        """The heads."""
        network: GeneformerForCells = self._fitted("network_")
        return network.specs

    def outputs(
        self,
        cells: Cells,
        *,
        rows: Ints | None = None,
        network: GeneformerForCells | None = None,
        progress: bool | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Outputs of every head for the tokenized cells, or for some rows of them, ``(n, …)``."""
        network = network or self._fitted("network_")
        shown = self.runtime.progress if progress is None else progress
        tokens, max_length = cells.tokens, self.pairing.max_length
        with progress_bar("Predicting", shown=shown, unit="cells") as update:
            if self.strategy_ == "probe" and rows is not None:
                kept: dict[str, Any] = {"max_length": max_length, "kept": cells.vectors, "progress": update}
                return read_cells(network, cell_vectors(network, tokens, rows, self.runtime, **kept))
            some = tokens if rows is None else tokens.take(rows)
            return predict_cells(network, some, self.runtime, max_length=max_length, progress=update)

    def embed(
        self,
        cells: CellInput,
        *,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> NDArray[np.float32]:
        """The vector of each cell that the heads see, ``(n_cells, hidden_size)``; NaN for cells left out.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
        """
        opened = self._open_fitted(cells, counts_layer, gene_ids, accept_normalized)
        values = embed_cells(self.network_, opened.tokens, self.runtime, max_length=self.pairing.max_length)
        return opened.spread(values, np.nan)

    def _targets(self) -> tuple[Any, ...]:
        """The targets of the fitted network, from the attributes."""
        raise NotImplementedError

    def _one(self, by_target: Any) -> Any:
        """The result for the one target, or results by target where there are several."""
        return by_target if self.several else next(iter(by_target.values()))

    def _check_loaded(self) -> None:
        if not isinstance(self.network_, GeneformerForCells):
            return
        told = {target.name: tuple(target.head.classes) for target in self._targets()}
        learnt = {spec.name: tuple(spec.classes) for spec in self.specs}
        temperatures = [getattr(target, "temperature", 1.0) for target in self._targets()]
        if told != learnt or not all(0 < temperature < math.inf for temperature in temperatures):
            msg = f"the network has learnt {learnt}, not {told}" if told != learnt else f"temperatures {temperatures}"
            raise ValueError(msg)

    def _loss_options(self) -> dict[str, Any]:
        """How the losses of the heads are weighed."""
        return {}

    def _shared_settings(self) -> dict[str, Any]:
        """Further settings in every report."""
        return {}

    def _learn(self, options: FinetuneOptions, **run: Any) -> tuple[Any, FinetuneResult]:
        training: Examples = self._fitted("_training")
        targets, values, train = training.encoded.targets, training.encoded.values, training.split.train
        weights = {name: target.weights(values[name][train]) for name, target in targets.items()}
        return learn_cells(
            self.base(),
            training.cells.tokens,
            [target.head for target in targets.values()],
            {name: target.to_network(values[name]) for name, target in targets.items()},
            train_rows=train,
            valid_rows=training.split.valid,
            options=options,
            runtime=self.runtime,
            class_weights={name: weight for name, weight in weights.items() if weight is not None}
            if options.class_weights == "balanced"
            else None,
            deleted_genes=training.deleted_genes,
            groups=training.groups,
            kept=training.cells.vectors,
            **self._loss_options(),
            **run,
        )

    def _has_probe(self) -> bool:
        return all(target.head.activation == "linear" for target in self._training.encoded.targets.values())

    def _calibrate(self) -> None:
        training: Examples = self._training
        valid, targets = training.split.valid, training.encoded.targets
        if not len(valid) or not getattr(self.task_options, "calibrate", False):
            return
        outputs = self.outputs(training.cells, rows=valid, progress=False)
        for name, target in targets.items():
            truth = training.encoded.values[name][valid]
            has_value = target.has_value(truth)
            if has_value.any():
                changed = target.calibrate(outputs[name][has_value], truth[has_value])
                self.metrics_ |= {f"{name}/{key}" if len(targets) > 1 else key: v for key, v in changed.items()}

    def _warn_of_learnt(self, tested: Cells) -> None:
        """Say how many of some cells were learnt from, whatever their names."""
        learnt = self._learnt_cells
        if not len(learnt):
            return
        of_cell = cell_fingerprints(tested.tokens, np.arange(len(tested.tokens)))
        if n_learnt := int(np.isin(of_cell, learnt).sum()):
            at_least = "At least " if len(learnt) == MOST_KEPT else ""
            msg = (
                f"{at_least}{n_learnt:,} of the {len(of_cell):,} cells were learnt from, so that figures come out too "
                "high. Evaluate cells that fit has not seen; report_ has the figures of those that it held out."
            )
            warnings.warn(msg, GeneformerWarning, stacklevel=4)

    def _evaluate_columns(self, opened: Cells, columns: Mapping[str, str], groups: str | None) -> Any:
        """The report on opened cells with labels in some columns, by target."""
        targets = {target.name: target for target in self._targets() if target.name in columns}
        values = {name: target.encode(opened.column(columns[name]), columns[name]) for name, target in targets.items()}
        tested = Examples(opened, Encoded(targets, values, NO_ROWS), groups=groups_of(opened, groups))
        self._warn_of_learnt(opened)
        evaluated = self._evaluate(tested, np.arange(len(opened.tokens)))
        for name, report in by_task(evaluated).items():
            if absent := getattr(report.evaluation, "absent", ()):
                what = f"Labels {name!r}: " if name else ""
                warnings.warn(what + absent_text(absent, report.evaluation.n), GeneformerWarning, stacklevel=3)
        return evaluated

    def _evaluate(self, tested: Examples, rows: Ints) -> Any:
        targets, values = tested.encoded.targets, tested.encoded.values
        rows = rows[np.any([target.has_value(values[name][rows]) for name, target in targets.items()], axis=0)]
        if not len(rows):
            msg = "No labeled cell to evaluate on. Check the labels and the split."
            raise NoCellsError(msg)
        networks = self._networks().items()
        outputs = {name: self.outputs(tested.cells, rows=rows, network=network) for name, network in networks}
        reports = ReportSet()
        for name, target in targets.items():
            labeled = np.flatnonzero(target.has_value(values[name][rows]))  # tasks differ in the cells with a label
            if not len(labeled):
                continue
            truth, of_model = values[name][rows[labeled]], outputs[MODEL][name][labeled]
            predictions = {label: target.decode(out[name][labeled]) for label, out in outputs.items()}
            settings = {"model": self._base_name, "label": name, "split": self.split_, **self._options}
            settings["strategy"] = self.strategy_
            settings |= matched_in(tested.cells)
            reports[name] = target.report(
                truth,
                predictions.pop(MODEL),
                predictions | self._by_baselines(target, tested, rows[labeled]),
                cell_ids=tested.cells.tokens.cell_ids[rows[labeled]],
                groups=None if tested.groups is None else tested.groups[rows[labeled]],
                seed=self.finetuning.seed,
                settings=settings | self._shared_settings() | target.fold_settings(truth, of_model),
            )
        self._evaluated = self._one(reports)
        return self._evaluated

    @shown_as("Reading counts")
    def _make_features(self, examples: Examples) -> Any:
        # Counts kept with tokens are scaled ones, which say nothing about raw ones.
        alike = (examples.cells.adata is None) == (self._training.cells.adata is None)
        return examples.cells.counts(self.base()) if alike else None

    @shown_as("Baselines")
    def _by_baselines(self, target: CellTarget, tested: Examples, rows: Ints) -> dict[str, Values]:
        """Predictions of what the model has to beat, by name; none for counts unlike those learnt from."""
        training, counts, tested_counts = self._training, self._features(self._training), self._features(tested)
        if counts is None or tested_counts is None:
            return {}
        values, train = training.encoded.values[target.name], training.split.train
        learnt = train[target.has_value(values[train])]
        predictions = target.baselines(
            counts[learnt],
            values[learnt],
            tested_counts[rows],
            groups=None if training.groups is None else training.groups[learnt],
            n_top_genes=self.task_options.n_top_genes,
            seed=self.finetuning.seed,
        )
        if tested.cells.adata is None:
            del predictions[LIBRARY]  # scaled counts have no library size
        return predictions


def matched_in(cells: Cells) -> dict[str, Any]:
    """Which cells and genes were read, as an entry of settings or provenance; none if not known."""
    return {keys.MATCHED: cells.tokens.matched} if cells.tokens.matched else {}


def groups_of(cells: Cells, column: str | None) -> Values | None:
    """Donors or the like, in the order of the tokenized cells; None without a column of them."""
    return None if column is None else np.asarray(cells.column(column))


AnyEstimator = TypeVar("AnyEstimator", bound=Estimator)

NOT_TRAINED_WITH = (ClassifyOptions, SplitOptions, RuntimeOptions)
"""Options that decide which cells are measured, and on which machine, not how a network learns."""

MEASURED_BY = frozenset(entry.name for entry in fields(ClassifyOptions))
"""Fields of such options; those of other tasks have the same names."""


def option_groups(estimator: Estimator) -> dict[str, Any]:
    """Options objects of an estimator by the names it takes them by."""
    return {name: getattr(estimator, name) for name in estimator.option_kinds}


def clone(estimator: AnyEstimator, **changes: Any) -> AnyEstimator:
    """An estimator made with the same arguments that has learnt nothing; the pretrained model is shared."""
    copy = type(estimator)(
        **{"model": estimator.model, "vocabulary": estimator.vocabulary} | option_groups(estimator) | changes
    )
    copy._base = estimator._base
    return copy


def training_groups(estimator: Estimator) -> dict[str, Any]:
    """Options with fields that decide how its network learns."""
    return {name: group for name, group in option_groups(estimator).items() if not isinstance(group, NOT_TRAINED_WITH)}


def with_training_options(estimator: AnyEstimator, options: dict[str, Any]) -> AnyEstimator:
    """A copy that learns with other options; its split and its cells stay those of the estimator."""
    return clone(estimator, **spread_options(training_groups(estimator), options))


HISTORY = "training.json"
"""Log lines of the training."""

LEARNT = "learnt_cells"
"""Entry next to them: fingerprints of the cells learnt from, in base64. Folders written before lack it."""

MOST_KEPT = 100_000
"""Fingerprints that are kept, the smallest ones."""


class StoredTask(NamedTuple):
    """What a folder of a fitted estimator holds, without the network."""

    task: Mapping[str, Any]
    history: list[dict[str, Any]]
    vocabulary: Vocabulary
    learnt_cells: NDArray[np.uint64]


def _with_tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@contextmanager
def _damage_named(folder: Path) -> Iterator[None]:
    """Turn what a damaged `task.json` causes into an error that names the folder."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        msg = f"{folder} is damaged: {TASK} does not hold what its kind has ({error!s:.300}). Copy or write it again."
        raise CheckpointError(msg) from error


def read_folder(folder: str | Path, expected: str | None = None) -> StoredTask:
    """What `Estimator.save` wrote, without the network."""
    folder = fitted_folder(as_path("folder", folder, "the folder of a saved model"))
    path = folder / TASK
    if not path.is_file() and expected in (None, "cell_classifier") and (published := published_task(folder)):
        return published
    if not path.is_file():
        msg = (
            f"{folder} holds no fine-tuned model: there is no {TASK} in it ({first_names(folder)}). It looks like a "
            "pretrained checkpoint; pass it as model= and fit."
        )
        raise CheckpointError(msg)
    task, told = read_json(path, CheckpointError), read_json(folder / HISTORY, CheckpointError)
    try:
        history = [dict(line) for line in told["history"]]
        learnt = np.frombuffer(base64.b64decode(told.get(LEARNT, ""), validate=True), dtype="<u8")
        kind, fingerprint = task["kind"], str(task["vocabulary"]["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{folder} is damaged: {error!r} while its {TASK} and {HISTORY} were read. Copy or write it again."
        raise CheckpointError(msg) from error
    if expected not in (None, kind):
        msg = f"{folder} holds a {kind}, not a {expected}."
        raise CheckpointError(msg)
    vocabulary = recognize_vocabulary(read_config(folder), folder)
    if fingerprint != vocabulary.fingerprint:
        msg = (
            f"{folder} was written with vocabulary {fingerprint[:12]}, but its network belongs to "
            f"{vocabulary.fingerprint[:12]}. The folder is mixed; write it again."
        )
        raise VocabularyMismatchError(msg)
    return StoredTask(task, history, vocabulary, learnt)


def published_task(folder: Path) -> StoredTask | None:
    """What a classifier of cells in the published form was learnt for, as far as its `config.json` says."""
    config = read_config(folder)
    if (config.architectures or [""])[0] != PUBLISHED_CELLS:
        return None
    task = {
        "kind": "cell_classifier",
        "label_": "class",
        "classes_": list(class_names(config)),
        "multi_label_": False,
        "temperature_": 1.0,
        "unknown_below_": 0.0,
        "metrics_": {},
        "split_": {},
        "base_model": str(folder),
        "preprocessing": {"max_length": config.max_position_embeddings},
        "options": {},
    }
    return StoredTask(task, [], recognize_vocabulary(config, folder), np.empty(0, dtype=np.uint64))
