"""Classes of genes: lists as users have them, what is learnt from occurrences, baselines, and figures over folds."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.engine.training import Key, Scored
from geneformer.errors import GeneformerWarning, GeneListError, OptionError, UnknownClassError
from geneformer.finetuning.baselines import MAJORITY, log_normalized, logistic_regression_on, majority
from geneformer.finetuning.evaluations import (
    Estimate,
    Evaluation,
    FoldedEvaluation,
    GeneEvaluation,
    RocCurve,
    TokenEvaluation,
)
from geneformer.finetuning.metrics import (
    AREAS,
    Bootstrap,
    ClassRanking,
    class_rows,
    confusion,
    estimate,
    evaluate_classes,
    mean_defined,
    shares,
    softmax,
)
from geneformer.finetuning.reports import MODEL, GeneReport
from geneformer.finetuning.splits import Split
from geneformer.finetuning.training import (
    Batches,
    FinetuneResult,
    cells_with_labeled_genes,
    count_cells,
    finetune,
    length_read,
    mean_ranks,
    packed_tensors,
)
from geneformer.genes.lookup import MISSING as MISSING_NAME
from geneformer.genes.lookup import GeneMatch, known_names, look_up
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.cells import CellInput, Cells, PairedModel, open_cells
from geneformer.inference.embedding import embed
from geneformer.inference.tables import GeneEmbeddings
from geneformer.models.finetuned import build_network
from geneformer.models.heads import GeneformerForGenes
from geneformer.models.loading import LoadedModel
from geneformer.models.losses import MISSING
from geneformer.options import EmbedOptions, FinetuneOptions, GeneClassifyOptions, RuntimeOptions
from geneformer.options._fields import check_choice, nearest
from geneformer.tokens.dataset import Packed, TokenizedDataset

Floats = NDArray[np.float64]

GeneClasses = Mapping[str, Iterable[str]]
"""Names of genes by class: Ensembl ids or symbols."""

_LISTED = 20
"""Most genes a message lists."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneLabels:
    """Genes with a class, by ascending token id."""

    tokens: NDArray[np.int64]
    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Genes per class, ``(C,)``."""
        return np.bincount(self.codes, minlength=len(self.classes))

    def class_of(self, size: int, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Class of every token id, `losses.MISSING` where it has none, ``(size,)``."""
        chosen = slice(None) if rows is None else rows
        class_of = np.full(size, MISSING, dtype=np.int64)
        class_of[self.tokens[chosen]] = self.codes[chosen]
        return class_of

    def by_class(self, vocabulary: Vocabulary, rows: NDArray[np.int64] | None = None) -> dict[str, list[str]]:
        """Ensembl ids by class."""
        chosen = np.arange(len(self)) if rows is None else rows
        names = vocabulary.gene_of[self.tokens[chosen]]
        return {name: names[self.codes[chosen] == code].tolist() for code, name in enumerate(self.classes)}


def read_gene_classes(
    gene_classes: GeneClasses,
    vocabulary: Vocabulary,
    *,
    unknown: Literal["refuse", "drop"] = "refuse",
    classes: Sequence[str] | None = None,
) -> GeneLabels:
    """Token ids and classes of lists of genes; with `classes`, those of a fitted classifier."""
    check_choice("unknown_genes", unknown, ("refuse", "drop"))
    lists = _checked_lists(gene_classes, classes)
    names = known_names(vocabulary)
    columns = {name: look_up(name, genes, names) for name, genes in lists.items()}
    unmatched = {name: _unmatched(column) for name, column in columns.items()}
    unmatched = {name: entries for name, entries in unmatched.items() if entries}
    if unmatched and unknown == "refuse":
        _refuse_unknown(unmatched, columns, vocabulary)
    positions = {name: np.unique(column.positions[column.positions >= 0]) for name, column in columns.items()}
    for name, places in positions.items():
        if not len(places):
            n_given = sum(map(bool, columns[name].names))
            why = (
                f"none of its {n_given:,} genes is in vocabulary {vocabulary.name}" if n_given else "its list is empty"
            )
            msg = f"Class {name!r} has no gene: {why}. Name genes by Ensembl id or symbol, or leave the class out."
            raise GeneListError(msg)
    _refuse_shared(positions, vocabulary)
    n_mouse, n_names = (sum(getattr(c, n) for c in columns.values()) for n in ("n_mouse_symbols", "n_present"))
    if 2 * n_mouse > n_names:
        _warn(
            f"{n_mouse:,} of {n_names:,} genes are spelled the way of mouse genes and were taken for the human genes "
            "of the same name. Mouse and human orthologs often have different names; translate the lists first."
        )
    if unmatched:
        shown = "; ".join(f"{name!r}: {_listed(entries)}" for name, entries in unmatched.items())
        number = sum(map(len, unmatched.values()))
        _warn(f"{number:,} genes are not in vocabulary {vocabulary.name} and left out. {shown}")
    named = tuple(lists) if classes is None else tuple(classes)
    codes = np.repeat([named.index(name) for name in positions], [len(part) for part in positions.values()])
    tokens = vocabulary.token_ids[np.concatenate(list(positions.values()))].astype(np.int64)
    order = np.argsort(tokens)
    return GeneLabels(tokens[order], codes[order].astype(np.int64), named, unknown=unmatched)


def occurring(labels: GeneLabels, n_cells: NDArray[np.int64], vocabulary: Vocabulary) -> GeneLabels:
    """The labels of the genes that occur in any cell."""
    occurs = n_cells[labels.tokens] > 0
    if occurs.all():
        return labels
    rows = np.flatnonzero(~occurs)
    absent = {name: tuple(genes) for name, genes in labels.by_class(vocabulary, rows).items() if genes}
    present = replace(labels, tokens=labels.tokens[occurs], codes=labels.codes[occurs], absent=absent)
    for name, given, left in zip(labels.classes, labels.counts, present.counts, strict=True):
        if given and not left:
            msg = (
                f"None of the {given:,} genes of class {name!r} occurs in the cells, as far as the model reads them. "
                "Use cells that express them, more cells, or other genes."
            )
            raise GeneListError(msg)
    shown = "; ".join(f"{name!r}: {_listed(map(vocabulary.symbol_of, genes))}" for name, genes in absent.items())
    _warn(f"{len(rows):,} of {len(labels):,} labeled genes occur in no cell and are left out. {shown}")
    return present


def _checked_lists(gene_classes: object, classes: Sequence[str] | None) -> dict[str, list[Any]]:
    """Lists by class name: two classes or more, or some of those given."""
    if not isinstance(gene_classes, Mapping):
        msg = (
            f"gene_classes is a {type(gene_classes).__name__}; it takes a list of genes per class, such as "
            '{"sensitive": ["GATA4", …], "insensitive": ["ZNF8", …]}.'
        )
        raise GeneListError(msg)
    for name, genes in gene_classes.items():
        if isinstance(genes, (str, bytes)) or not isinstance(genes, Iterable):
            msg = f"Class {name!r} holds {genes!r}; it takes a list of genes."
            raise GeneListError(msg)
    lists = {str(name).strip(): list(genes) for name, genes in gene_classes.items()}
    if len(lists) < len(gene_classes):
        msg = f"gene_classes has the classes {list(gene_classes)}. Give each a name of its own."
        raise GeneListError(msg)
    if classes is None and len(lists) < 2:
        msg = f"gene_classes has the classes {list(lists)}. Give two or more to learn to distinguish."
        raise GeneListError(msg)
    others = [] if classes is None else [name for name in lists if name not in classes]
    if classes is not None and (others or not lists):
        what = f"Class {others[0]!r} was not learnt" if others else "gene_classes is empty"
        msg = f"{what}; known are {', '.join(map(repr, classes))}."
        raise UnknownClassError(msg + (nearest(others[0], classes) if others else ""))
    return lists


def _unmatched(column: GeneMatch) -> tuple[str, ...]:
    rows = np.flatnonzero((column.positions < 0) & (column.hows != MISSING_NAME))
    return tuple(dict.fromkeys(column.names[row] for row in rows))


def _refuse_unknown(
    unmatched: Mapping[str, tuple[str, ...]], columns: Mapping[str, GeneMatch], vocabulary: Vocabulary
) -> None:
    kinds: dict[str, int] = {}
    for column in columns.values():
        for kind, number in column.foreign.items():
            kinds[kind] = kinds.get(kind, 0) + number
    shown = "; ".join(f"{name!r}: {_listed(entries)}" for name, entries in unmatched.items())
    foreign = "".join(f" {number:,} of them are {kind}." for kind, number in kinds.items())
    first = next(iter(unmatched.values()))[0]
    hint = nearest(first, vocabulary.symbols) if not foreign else ""
    msg = (
        f"{sum(map(len, unmatched.values())):,} genes are not in vocabulary {vocabulary.name}. {shown}.{foreign}{hint} "
        'Correct them, or pass unknown_genes="drop" to leave them out.'
    )
    raise GeneListError(msg)


def _refuse_shared(positions: Mapping[str, NDArray[Any]], vocabulary: Vocabulary) -> None:
    """Refuse a gene that is in two classes, under whatever names."""
    classes_of: dict[int, list[str]] = {}
    for name, places in positions.items():
        for place in places.tolist():
            classes_of.setdefault(place, []).append(name)
    shared = {place: names for place, names in classes_of.items() if len(names) > 1}
    if shared:
        shown = _listed(
            f"{vocabulary.symbol_of(str(vocabulary.genes[place]))} ({', '.join(names)})"
            for place, names in shared.items()
        )
        msg = f"{len(shared):,} genes are in two classes: {shown}. Keep each gene in one class."
        raise GeneListError(msg)


def _listed(entries: Iterable[str]) -> str:
    names = list(entries)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _warn(message: str) -> None:
    warnings.warn(message, GeneformerWarning, stacklevel=3)


NO_ROWS = np.empty(0, dtype=np.int64)
NOT_SPLIT = Split(NO_ROWS, NO_ROWS, NO_ROWS, method="none")


@dataclass(slots=True, eq=False)
class LabeledGenes:
    """Cells with labeled genes; those genes, and how they are split; what baselines know of the genes, once asked."""

    cells: Cells
    labels: GeneLabels
    split: Split = NOT_SPLIT
    features: "GeneFeatures | None" = None


def open_genes(
    cells: CellInput | Cells,
    gene_classes: GeneClasses,
    model: PairedModel,
    options: GeneClassifyOptions,
    *,
    classes: Sequence[str] | None = None,
    all_cells: bool = False,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    seed: int = 0,
) -> LabeledGenes:
    """Cells to learn about the genes listed from, and those of the genes that occur in them."""
    vocabulary = model.vocabulary
    labels = read_gene_classes(gene_classes, vocabulary, unknown=options.unknown_genes, classes=classes)
    if not isinstance(cells, Cells):
        cells = open_cells(cells, model, counts_layer=counts_layer, gene_ids=gene_ids)
    rows = cells_with_labeled_genes(cells.tokens, labels.class_of(vocabulary.size), model.max_length)
    if not len(rows):
        msg = (
            f"None of the {len(labels):,} labeled genes occurs in any of the {len(cells.tokens):,} cells, as far as "
            "the model reads them. Use cells that express them, or other genes."
        )
        raise GeneListError(msg)
    if all_cells:
        rows = np.arange(len(cells.tokens))
    if options.max_cells is not None and len(rows) > options.max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(rows, options.max_cells, replace=False))
    if len(rows) < len(cells.tokens):
        cells = replace(cells, tokens=cells.tokens.take(rows), rows=cells.rows[rows])
    return LabeledGenes(
        cells, occurring(labels, count_cells(cells.tokens, vocabulary.size, model.max_length), vocabulary)
    )


_BOUND = 32.0
_BINS = 1 << 16
"""Log-odds are binned in steps of a thousandth, which moves no area noticeably."""

_POINTS = 201


class TokenTally:
    """Confusion counts, and log-odds of every class in fine bins."""

    def __init__(self, n_classes: int) -> None:
        self._confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
        self._counts = np.zeros((n_classes, 2, _BINS), dtype=np.int64)

    def add(self, proba: Floats, codes: NDArray[np.int64], times: NDArray[np.int64] | None = None) -> None:
        """Count occurrences."""
        times = np.ones(len(codes), dtype=np.int64) if times is None else times
        np.add.at(self._confusion, (codes, proba.argmax(axis=1)), times)
        with np.errstate(divide="ignore"):
            odds = np.log(proba) - np.log1p(-np.minimum(proba, 1.0))
        bins = ((np.clip(odds, -_BOUND, _BOUND) + _BOUND) * ((_BINS - 1) / (2 * _BOUND))).round().astype(np.int64)
        for code in range(proba.shape[1]):
            np.add.at(self._counts[code], ((codes == code).astype(np.int64), bins[:, code]), times)

    def evaluation(self, classes: Sequence[str]) -> TokenEvaluation:
        """The figures; averages over classes are over those that occur."""
        names = tuple(str(name) for name in classes)
        roc = {name: curve for name, counts in zip(names, self._counts, strict=True) if (curve := _roc(*counts))}
        truth, predicted = self._confusion.sum(axis=1), self._confusion.sum(axis=0)
        hits, n = np.diag(self._confusion), int(self._confusion.sum())
        _, recall, f1 = shares(hits, truth, predicted)
        figures: dict[str, Any] = {
            "accuracy": hits.sum() / n if n else np.nan,
            "balanced_accuracy": mean_defined(recall[None])[0],
            "macro_f1": mean_defined(f1[None])[0],
            "roc_auc": np.mean([curve.auc for curve in roc.values()]) if roc else np.nan,
        }
        return TokenEvaluation(
            n=n,
            metrics={name: Estimate(float(value)) for name, value in figures.items()},
            classes=names,
            per_class=class_rows(names, hits, truth, predicted, roc, {}),
            roc=roc,
            confusion=self._confusion.copy(),
        )


def _roc(negative: NDArray[np.int64], positive: NDArray[np.int64]) -> RocCurve | None:
    """Curve and area from counts by rising score, equal ones counted half; None with one side empty."""
    n_negative, n_positive = int(negative.sum()), int(positive.sum())
    if not n_negative or not n_positive:
        return None
    below = np.cumsum(negative) - negative
    area = float((positive * (below + negative / 2)).sum() / n_positive / n_negative)
    false, true = (
        np.cumsum(counts[::-1]) / total for counts, total in ((negative, n_negative), (positive, n_positive))
    )
    grid = np.linspace(0.0, 1.0, _POINTS)
    return RocCurve(np.append(0.0, grid), np.append(0.0, np.interp(grid, false, true)), area)


def learn_genes(
    base: LoadedModel,
    tokens: TokenizedDataset,
    labels: GeneLabels,
    split: Split,
    options: FinetuneOptions,
    runtime: RuntimeOptions,
    **run: Any,
) -> tuple[GeneformerForGenes, FinetuneResult]:
    """Fine-tune an encoder to classify genes wherever they occur."""
    if options.contrastive_weight > 0:
        msg = f"contrastive_weight={options.contrastive_weight}, but genes are learnt without that term. Pass 0."
        raise OptionError(msg)
    size, max_length = base.vocabulary.size, length_read(base, options)
    train_of, valid_of = (labels.class_of(size, rows) for rows in (split.train, split.valid))
    names = dict(enumerate(labels.classes))
    attributes = {"id2label": names, "label2id": {name: code for code, name in names.items()}}
    network = build_network(GeneformerForGenes, base, options, attributes)
    network.label_smoothing = options.label_smoothing
    if options.class_weights == "balanced":
        occurrences = count_cells(tokens, size, max_length)
        network.class_weights = torch.from_numpy(_balanced(occurrences, train_of, len(names)))
    cells = cells_with_labeled_genes(tokens, train_of, max_length)
    valid_cells = cells_with_labeled_genes(tokens, valid_of, max_length) if len(split.valid) else NO_ROWS
    result = finetune(
        network,
        gene_batches(tokens, cells, train_of, max_length),
        gene_batches(tokens, valid_cells, valid_of, max_length),
        options,
        runtime,
        score=partial(score_genes, len(names), size),
        best_by="log_likelihood",
        about={
            "classes": list(labels.classes),
            "genes": hashlib.sha256(np.stack([train_of, valid_of]).tobytes()).hexdigest()[:16],
            "tokens": int(tokens.lengths[cells].sum()),
        },
        **run,
    )
    return network, result


def gene_batches(
    tokens: TokenizedDataset, rows: NDArray[np.int64], class_of: NDArray[np.int64], max_length: int
) -> Batches:
    """Cells with the class of every token, `losses.MISSING` where it has none."""

    def make(packed: Packed, rows: NDArray[np.int64], keys: Sequence[Key]) -> dict[str, Any]:
        return packed_tensors(packed) | {"labels": torch.from_numpy(class_of[packed.input_ids])}

    return Batches(tokens, rows, max_length, make)


def _balanced(occurrences: NDArray[np.int64], class_of: NDArray[np.int64], n_classes: int) -> Floats:
    """Weights under which the occurrences of every class weigh the same, one on average, ``(C,)``."""
    learnt = np.flatnonzero(class_of != MISSING)
    counts = np.bincount(class_of[learnt], occurrences[learnt], minlength=n_classes)
    weights: Floats = counts.sum() / (n_classes * np.maximum(counts, 1))
    return weights


def score_genes(n_classes: int, size: int, scored: Scored) -> dict[str, float]:
    """Metrics of validation batches: the loss of occurrences, and log-likelihood, accuracy and macro-F1 of genes."""
    loss, n_tokens = 0.0, 0
    sums, counts = np.zeros((size, n_classes)), np.zeros(size, dtype=np.int64)
    truth_of = np.full(size, MISSING, dtype=np.int64)
    for batch, outputs in scored:
        ids = batch["input_ids"][batch["labels"] != MISSING].cpu().numpy()
        proba = softmax(outputs.logits.float().cpu().numpy().astype(np.float64))
        loss, n_tokens = loss + float(outputs.loss) * len(ids), n_tokens + len(ids)
        truth_of[ids] = outputs.labels.cpu().numpy()
        np.add.at(sums, ids, proba)
        counts += np.bincount(ids, minlength=size)
    seen = np.flatnonzero(counts)
    proba, truth = sums[seen] / counts[seen, None], truth_of[seen]
    given = proba[np.arange(len(seen)), truth]
    table = confusion(truth, proba.argmax(axis=1), n_classes)
    _, _, f1 = shares(np.diag(table), table.sum(axis=1), table.sum(axis=0))
    return {
        "loss": loss / max(n_tokens, 1),
        "log_likelihood": float(np.log(np.maximum(given, 1e-12)).mean()),
        "accuracy": float(np.trace(table) / table.sum()),
        "macro_f1": float(mean_defined(f1[None])[0]),
    }


@dataclass(frozen=True, slots=True, eq=False)
class GenePrediction:
    """Probabilities of genes averaged over some cells, and figures of their single occurrences."""

    proba: Floats
    n_cells: NDArray[np.int64]
    occurrences: TokenTally


def predict_genes(
    network: GeneformerForGenes,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    size: int,
    max_length: int,
    truth_of: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> GenePrediction:
    """Probabilities of every token of the vocabulary, as running sums: memory does not grow with the cells."""
    network.train(False)
    unlabeled = np.empty(0, dtype=np.int64)
    n_classes = network.classifier.out_features
    sums, counts, tally = np.zeros((size, n_classes)), np.zeros(size, dtype=np.int64), TokenTally(n_classes)

    def step(batch: Batch) -> None:
        logits_TC = network(batch.input_ids, batch.cu_seqlens, attention=batch.attention).logits
        seen, place_T, count = torch.unique(batch.input_ids, return_inverse=True, return_counts=True)
        partial = logits_TC.new_zeros((len(seen), n_classes)).index_add(0, place_T, logits_TC.softmax(-1))
        ids, values, times = seen.cpu().numpy(), partial.cpu().numpy(), count.cpu().numpy()
        truth_T = unlabeled if truth_of is None else truth_of[batch.input_ids.cpu().numpy()]
        labeled = np.flatnonzero(truth_T != MISSING)
        if len(labeled):
            logits = logits_TC[torch.from_numpy(labeled).to(logits_TC.device)].cpu().numpy()
            tally.add(softmax(logits.astype(np.float64)), truth_T[labeled])
        sums[ids] += values
        counts[ids] += times

    run_batches(tokens, network, step, runtime, max_length=max_length, progress=progress)
    with np.errstate(invalid="ignore"):
        proba: Floats = sums / counts[:, None]
    return GenePrediction(proba, counts, tally)


STATISTICS = "logistic regression, rank and detection"
STATIC = "logistic regression, static gene embeddings"
CONTEXTUAL = "logistic regression, gene embeddings averaged over cells"


@dataclass(frozen=True, slots=True, eq=False)
class GeneFeatures:
    """Numbers about every token of a vocabulary, NaN where a gene occurs in no cell."""

    tables: dict[str, NDArray[Any]]
    n_cells: NDArray[np.int64]


def gene_features(
    base: LoadedModel,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    counts: Any = None,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> GeneFeatures:
    """What the baselines see of the genes in some cells."""
    size, length = base.vocabulary.size, max_length or base.max_length
    n_cells = count_cells(tokens, size, length)
    embeddings = embed(tokens, base, EmbedOptions(pooling="gene", truncate=True), runtime, progress=progress)
    tables = {
        STATISTICS: _expression(base, tokens, n_cells, length, counts),
        STATIC: base.network.bert.embeddings.word_embeddings.weight.detach().float().cpu().numpy(),
    }
    if isinstance(embeddings, GeneEmbeddings):
        token_of = {name: token for token, name in enumerate(base.vocabulary.gene_of.tolist())}
        contextual = np.full((size, embeddings.values.shape[1]), np.nan, dtype=np.float32)
        contextual[[token_of[name] for name in embeddings.genes.tolist()]] = embeddings.values
        tables[CONTEXTUAL] = contextual
    return GeneFeatures(tables, n_cells)


def _expression(
    base: LoadedModel, tokens: TokenizedDataset, n_cells: NDArray[np.int64], max_length: int, counts: Any
) -> NDArray[np.float64]:
    """Statistics of every token, ``(V, 4)`` or ``(V, 6)``."""
    occurring_in = np.where(n_cells > 0, n_cells, np.nan)
    columns = [mean_ranks(tokens, len(n_cells), max_length), np.log(occurring_in / len(tokens))]
    if counts is not None:
        level = np.full(len(n_cells), np.nan)
        level[base.vocabulary.token_ids] = np.asarray(log_normalized(counts).mean(axis=0)).reshape(-1)
        columns.append(level)
    scaled = [(column - np.nanmean(column)) / (np.nanstd(column) or 1.0) for column in columns]
    return np.column_stack([*scaled, *(column**2 for column in scaled)])


def classify_genes_by_baselines(
    labels: GeneLabels,
    rows: NDArray[np.int64],
    features: GeneFeatures,
    tokens: NDArray[np.int64],
    tested: GeneFeatures | None = None,
    *,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Probabilities of every class for some genes, ``(n, C)``, by baseline."""
    learnt, codes, n_classes = labels.tokens[rows], labels.codes[rows], len(labels.classes)
    tested = tested or features
    linear = {
        name: logistic_regression_on(table[learnt], codes, tested.tables[name][tokens], n_classes, seed=seed)
        for name, table in features.tables.items()
        if name in tested.tables and table.shape[1] == tested.tables[name].shape[1]
    }
    return linear | {MAJORITY: majority(codes, len(tokens), n_classes)}


OF_TOKENS = ("accuracy", "macro_f1", "roc_auc")
"""Figures of single occurrences in the table of those of genes."""


def evaluate_genes(
    codes: NDArray[np.int64],
    proba: Floats,
    folds: NDArray[np.int64],
    occurrences: Sequence[TokenEvaluation],
    classes: Sequence[str],
    *,
    seed: int = 0,
    n_boot: int = 1000,
) -> FoldedEvaluation:
    """Figures of a classifier of genes; see `FoldedEvaluation` for what is a mean over what."""
    pooled = evaluate_classes(codes, proba, classes, seed=seed, n_boot=n_boot)
    rows = [np.flatnonzero(folds == fold) for fold in range(1, len(occurrences) + 1)]
    parts = [evaluate_classes(codes[part], proba[part], classes, seed=seed, n_boot=0) for part in rows]
    areas, n_draws = _mean_areas(codes, proba, rows, seed, n_boot)
    of_folds = [part.metrics["roc_auc"].mean for part in parts]
    spread = float(np.std(of_folds, ddof=1)) if len(of_folds) > 1 else float("nan")
    means = {f"token_{name}": Estimate(_mean([fold.metrics[name].mean for fold in occurrences])) for name in OF_TOKENS}
    content = _fields(pooled)
    content["metrics"] = dict(pooled.metrics) | areas | {"roc_auc_sd": Estimate(spread)} | means
    content["draws"] = dict(pooled.draws) | dict.fromkeys(AREAS, n_draws)
    return FoldedEvaluation(
        **content,
        folds=tuple(GeneEvaluation(**_fields(part)) for part in parts),
        occurrences=tuple(occurrences),
    )


def _mean_areas(
    codes: NDArray[np.int64], proba: Floats, rows: Sequence[NDArray[np.intp]], seed: int, n_boot: int
) -> tuple[dict[str, Estimate], int]:
    """ROC AUC and average precision, each the mean over folds and classes, with genes resampled within folds."""
    n_classes = proba.shape[1]
    rankings = [[ClassRanking(proba[part, c], codes[part] == c) for c in range(n_classes)] for part in rows]
    boots = [
        Bootstrap.over(
            None, len(part), n_boot=n_boot, seed=int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])
        )
        for fold, part in enumerate(rows)
    ]
    n_draws = min(boot.draws(proba.size) for boot in boots)
    areas = {}
    for place, name in enumerate(AREAS):
        of_folds = [
            _over_classes(ranking, np.ones((1, len(part))), place) for ranking, part in zip(rankings, rows, strict=True)
        ]
        drawn = [
            np.concatenate(
                [np.empty(0), *(_over_classes(ranking, weights, place) for weights in boot.weights(n_draws))]
            )
            for ranking, boot in zip(rankings, boots, strict=True)
        ]
        areas[name] = estimate(_mean([values[0] for values in of_folds]), mean_defined(np.array(drawn).T))
    return areas, n_draws


def _over_classes(ranking: Sequence[ClassRanking], weights: Floats, place: int) -> Floats:
    """One of the areas, mean over the classes it is defined for, under every weighting, ``(draws,)``."""
    return mean_defined(np.array([one.areas(weights)[place] for one in ranking]).T)


def _mean(values: Sequence[float]) -> float:
    """Mean over the folds it is defined for."""
    return float(mean_defined(np.array([values], dtype=np.float64))[0])


def _fields(evaluation: Evaluation) -> dict[str, Any]:
    """What an evaluation holds, to make one of a subclass of it."""
    return {field.name: getattr(evaluation, field.name) for field in fields(Evaluation)}


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutGenes:
    """Predictions for the genes held out in one fold, by model and baseline."""

    labels: GeneLabels
    rows: NDArray[np.int64]
    n_cells: NDArray[np.int64]
    proba: dict[str, Floats]
    occurrences: dict[str, TokenEvaluation]

    def add(self, baselines: Mapping[str, Floats]) -> None:
        """Add baselines, which predict the same for a gene in every cell."""
        codes = self.labels.codes[self.rows]
        for name, values in baselines.items():
            self.proba[name] = values
            tally = TokenTally(values.shape[1])
            tally.add(values, codes, self.n_cells)
            self.occurrences[name] = tally.evaluation(self.labels.classes)


def predict_held_out(
    networks: Mapping[str, GeneformerForGenes],
    prepared: LabeledGenes,
    rows: NDArray[np.int64],
    model: PairedModel,
    runtime: RuntimeOptions,
    bar: Callable[[str], AbstractContextManager[Progress]],
) -> HeldOutGenes:
    """Predictions of networks for genes they did not learn from, in the cells that have any of them."""
    labels, tokens, size = prepared.labels, prepared.cells.tokens, model.vocabulary.size
    truth_of = labels.class_of(size, rows)
    cells = cells_with_labeled_genes(tokens, truth_of, model.max_length)
    part = tokens if 2 * len(cells) > len(tokens) else tokens.take(cells)  # taking copies
    held_out = HeldOutGenes(labels, rows, np.zeros(len(rows), dtype=np.int64), {}, {})
    for name, network in networks.items():
        with bar("Predicting") as progress:
            prediction = predict_genes(
                network, part, runtime, size=size, max_length=model.max_length, truth_of=truth_of, progress=progress
            )
        held_out.proba[name] = prediction.proba[labels.tokens[rows]]
        held_out.n_cells[:] = prediction.n_cells[labels.tokens[rows]]
        held_out.occurrences[name] = prediction.occurrences.evaluation(labels.classes)
    return held_out


def report_genes(
    folds: Sequence[HeldOutGenes],
    labels: GeneLabels,
    vocabulary: Vocabulary,
    settings: dict[str, Any],
    *,
    seed: int = 0,
) -> GeneReport:
    """The report on all folds, genes in the order of their token ids."""
    rows = np.concatenate([fold.rows for fold in folds])
    order = np.argsort(rows)
    fold_of = np.repeat(np.arange(1, len(folds) + 1), [len(fold.rows) for fold in folds])[order]
    codes = labels.codes[rows[order]]
    proba = {name: np.concatenate([fold.proba[name] for fold in folds])[order] for name in folds[0].proba}
    evaluations = {
        name: evaluate_genes(
            codes, values, fold_of, [fold.occurrences[name] for fold in folds], labels.classes, seed=seed
        )
        for name, values in proba.items()
    }
    names = vocabulary.gene_of[labels.tokens[rows[order]]]
    predictions = proba.pop(MODEL)
    return GeneReport(
        evaluation=evaluations.pop(MODEL),
        baselines=evaluations,
        baseline_predictions=proba,
        cell_ids=names,
        symbols=np.array([vocabulary.symbol_of(name) for name in names], dtype=object),
        folds=fold_of,
        n_cells=np.concatenate([fold.n_cells for fold in folds])[order],
        truth=codes,
        predicted=predictions.argmax(axis=1),
        proba=predictions,
        settings=settings,
    )
