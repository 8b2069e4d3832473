"""Lists of genes as users have them, as token ids with classes."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from geneformer import keys
from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.engine.training import Key, Scored
from geneformer.errors import DatasetError, GeneformerWarning, GeneListError, OptionError, UnknownClassError
from geneformer.finetuning.baselines import log_normalized, logistic_regression_on, majority
from geneformer.finetuning.metrics import (
    AREAS,
    Bootstrap,
    ClassRanking,
    class_rows,
    confusion,
    estimate,
    evaluate_classes,
    evaluate_numbers,
    mean_defined,
    shares,
    softmax,
)
from geneformer.finetuning.reports import (
    Estimate,
    Evaluation,
    ExpressionReport,
    FoldedEvaluation,
    GeneEvaluation,
    GeneReport,
    ReportSet,
    RocCurve,
    TokenEvaluation,
)
from geneformer.finetuning.splits import GeneParts
from geneformer.finetuning.training import FinetuneResult, GeneBatches, cells_with, count_cells, finetune, mean_ranks
from geneformer.genes.lookup import MISSING_CODE, LookedUp, known_names, look_up
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.cells import CellInput, Cells, PairedModel, open_cells
from geneformer.inference.embedding import embed
from geneformer.inference.tables import GeneEmbeddings
from geneformer.models.finetuned import build_network
from geneformer.models.heads import GeneformerForExpression, GeneformerForGenes
from geneformer.models.loading import LoadedModel
from geneformer.models.losses import MISSING
from geneformer.options import EmbedOptions, ExpressionOptions, FinetuneOptions, GeneClassifyOptions, RuntimeOptions
from geneformer.options._fields import check_choice, nearest
from geneformer.tokens.dataset import Packed, TokenizedDataset

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
        kept = slice(None) if rows is None else rows
        class_of = np.full(size, MISSING, dtype=np.int64)
        class_of[self.tokens[kept]] = self.codes[kept]
        return class_of

    def by_class(self, vocabulary: Vocabulary, rows: NDArray[np.int64] | None = None) -> dict[str, list[str]]:
        """Ensembl ids by class."""
        kept = np.arange(len(self)) if rows is None else rows
        names = vocabulary.gene_of[self.tokens[kept]]
        return {name: names[self.codes[kept] == code].tolist() for code, name in enumerate(self.classes)}


def read_gene_classes(
    gene_classes: GeneClasses,
    vocabulary: Vocabulary,
    *,
    unknown: Literal["refuse", "drop"] = "refuse",
    classes: Sequence[str] | None = None,
) -> GeneLabels:
    """Token ids and classes of lists of genes."""
    check_choice("unknown_genes", unknown, ("refuse", "drop"))
    lists = _checked_lists(gene_classes)
    _check_classes(lists, classes)
    known = known_names(vocabulary)
    found = {name: look_up(name, genes, known) for name, genes in lists.items()}
    strangers = {name: _unmatched(column) for name, column in found.items()}
    strangers = {name: entries for name, entries in strangers.items() if entries}
    if strangers and unknown == "refuse":
        _refuse_unknown(strangers, found, vocabulary)
    positions = {name: np.unique(column.positions[column.positions >= 0]) for name, column in found.items()}
    for name, places in positions.items():
        if not len(places):
            n_given = sum(map(bool, found[name].texts))
            told = (
                f"none of its {n_given:,} genes is in vocabulary {vocabulary.name}" if n_given else "its list is empty"
            )
            msg = f"Class {name!r} has no gene: {told}. Name genes by Ensembl id or symbol, or leave the class out."
            raise GeneListError(msg)
    _refuse_shared(positions, vocabulary)
    _tell_mouse(found)
    if strangers:
        told = "; ".join(f"{name!r}: {_listed(entries)}" for name, entries in strangers.items())
        _warn(f"{_number(strangers):,} genes are not in vocabulary {vocabulary.name} and left out. {told}")
    places = np.concatenate(list(positions.values()))
    named = tuple(lists) if classes is None else tuple(classes)
    codes = np.repeat([named.index(name) for name in positions], [len(part) for part in positions.values()])
    tokens = vocabulary.token_ids[places].astype(np.int64)
    order = np.argsort(tokens)
    return GeneLabels(tokens[order], codes[order].astype(np.int64), named, unknown=strangers)


def occurring(labels: GeneLabels, n_cells: NDArray[np.int64], vocabulary: Vocabulary) -> GeneLabels:
    """The labels of the genes that occur in any cell."""
    seen = n_cells[labels.tokens] > 0
    if seen.all():
        return labels
    rows = np.flatnonzero(~seen)
    absent = {name: tuple(genes) for name, genes in labels.by_class(vocabulary, rows).items() if genes}
    kept = replace(labels, tokens=labels.tokens[seen], codes=labels.codes[seen], absent=absent)
    for name, given, left in zip(labels.classes, labels.counts, kept.counts, strict=True):
        if given and not left:
            msg = (
                f"None of the {given:,} genes of class {name!r} occurs in the cells, as far as the model reads them. "
                "Use cells that express them, more cells, or other genes."
            )
            raise GeneListError(msg)
    told = "; ".join(f"{name!r}: {_listed(_symbols(genes, vocabulary))}" for name, genes in absent.items())
    _warn(f"{len(rows):,} of {len(labels):,} labeled genes occur in no cell and are left out. {told}")
    return kept


def _checked_lists(gene_classes: object) -> dict[str, list[Any]]:
    """Lists by class name."""
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
    return lists


def _check_classes(lists: Mapping[str, Any], classes: Sequence[str] | None) -> None:
    """Two classes to tell apart; or lists for classes that are known."""
    if classes is None:
        if len(lists) < 2:
            msg = f"gene_classes has the classes {list(lists)}. Give two or more to tell apart."
            raise GeneListError(msg)
        return
    others = [name for name in lists if name not in classes]
    if others or not lists:
        found = f"Class {others[0]!r} was not learnt" if others else "gene_classes is empty"
        msg = f"{found}; known are {', '.join(map(repr, classes))}."
        raise UnknownClassError(msg + (nearest(others[0], classes) if others else ""))


def _unmatched(column: LookedUp) -> tuple[str, ...]:
    rows = np.flatnonzero((column.positions < 0) & (column.hows != MISSING_CODE))
    return tuple(dict.fromkeys(column.texts[row] for row in rows))


def _refuse_unknown(
    strangers: Mapping[str, tuple[str, ...]], found: Mapping[str, LookedUp], vocabulary: Vocabulary
) -> None:
    kinds: dict[str, int] = {}
    for column in found.values():
        for kind, number in column.foreign.items():
            kinds[kind] = kinds.get(kind, 0) + number
    told = "; ".join(f"{name!r}: {_listed(entries)}" for name, entries in strangers.items())
    foreign = "".join(f" {number:,} of them are {kind}." for kind, number in kinds.items())
    first = next(iter(strangers.values()))[0]
    hint = nearest(first, vocabulary.symbols) if not foreign else ""
    msg = (
        f"{_number(strangers):,} genes are not in vocabulary {vocabulary.name}. {told}.{foreign}{hint} Correct them, "
        'or pass unknown_genes="drop" to leave them out.'
    )
    raise GeneListError(msg)


def _refuse_shared(positions: Mapping[str, NDArray[Any]], vocabulary: Vocabulary) -> None:
    """Refuse a gene that is in two classes, under whatever names."""
    homes: dict[int, list[str]] = {}
    for name, places in positions.items():
        for place in places.tolist():
            homes.setdefault(place, []).append(name)
    shared = {place: names for place, names in homes.items() if len(names) > 1}
    if shared:
        symbols = _symbols((str(vocabulary.genes[place]) for place in shared), vocabulary)
        told = (f"{symbol} ({', '.join(names)})" for symbol, names in zip(symbols, shared.values(), strict=True))
        msg = f"{len(shared):,} genes are in two classes: {_listed(told)}. Keep each gene in one class."
        raise GeneListError(msg)


def _tell_mouse(found: Mapping[str, LookedUp]) -> None:
    n_mouse, n_names = sum(column.n_mouse_symbols for column in found.values()), _present(found)
    if 2 * n_mouse > n_names:
        _warn(
            f"{n_mouse:,} of {n_names:,} genes are spelled the way of mouse genes and were taken for the human genes "
            "of the same name. Mouse and human orthologs often have different names; translate the lists first."
        )


def _present(found: Mapping[str, LookedUp]) -> int:
    return sum(column.n_present for column in found.values())


def _symbols(genes: Iterable[str], vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.symbol_of(gene) for gene in genes]


def _number(lists: Mapping[str, tuple[str, ...]]) -> int:
    return sum(map(len, lists.values()))


def _listed(entries: Iterable[str]) -> str:
    names = list(entries)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _warn(message: str) -> None:
    warnings.warn(message, GeneformerWarning, stacklevel=3)


Floats = NDArray[np.float64]

_BOUND = 32.0
_BINS = 1 << 16
"""Log-odds are told apart in steps of a thousandth, which moves no area noticeably."""

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


Ints = NDArray[np.int64]


def learn_genes(
    base: LoadedModel,
    tokens: TokenizedDataset,
    labels: GeneLabels,
    parts: GeneParts,
    options: FinetuneOptions,
    runtime: RuntimeOptions,
    *,
    output: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
) -> tuple[GeneformerForGenes, FinetuneResult]:
    """Fine-tune an encoder to tell classes of genes apart wherever they occur."""
    if options.contrastive_weight > 0:
        msg = f"contrastive_weight={options.contrastive_weight}, but genes are learnt without that term. Pass 0."
        raise OptionError(msg)
    size, max_length = base.vocabulary.size, min(options.max_length or base.max_length, base.max_length)
    train_of, valid_of = (labels.class_of(size, rows) for rows in (parts.train, parts.valid))
    names = dict(enumerate(labels.classes))
    attributes = {"id2label": names, "label2id": {name: code for code, name in names.items()}}
    network = build_network(GeneformerForGenes, base, options, attributes)
    network.label_smoothing = options.label_smoothing
    if options.class_weights == "balanced":
        occurrences = count_cells(tokens, size, max_length)
        network.class_weights = torch.from_numpy(_balanced(occurrences, train_of, len(names)))
    cells = cells_with(tokens, train_of, max_length)
    valid_cells = cells_with(tokens, valid_of, max_length) if len(parts.valid) else np.empty(0, dtype=np.int64)
    result = finetune(
        network,
        GeneBatches(tokens, cells, train_of, max_length),
        GeneBatches(tokens, valid_cells, valid_of, max_length),
        options,
        runtime,
        score=score_genes(len(names), size),
        best_by="log_likelihood",
        output=output,
        resume=resume,
        about={
            "classes": list(labels.classes),
            "genes": hashlib.sha256(np.stack([train_of, valid_of]).tobytes()).hexdigest()[:16],
            "tokens": int(tokens.lengths[cells].sum()),
        },
        callbacks=callbacks,
        progress=progress,
    )
    return network, result


def _balanced(occurrences: Ints, class_of: Ints, n_classes: int) -> Floats:
    """Weights under which the occurrences of every class weigh the same, one on average, ``(C,)``."""
    learnt = np.flatnonzero(class_of != MISSING)
    counts = np.bincount(class_of[learnt], occurrences[learnt], minlength=n_classes)
    weights: Floats = counts.sum() / (n_classes * np.maximum(counts, 1))
    return weights


class score_genes:  # noqa: N801  used as a function
    """Metrics of validation batches: the loss of occurrences, and log-likelihood, accuracy and macro-F1 of genes."""

    def __init__(self, n_classes: int, size: int) -> None:
        self.n_classes, self.size = n_classes, size

    def __call__(self, scored: Scored) -> dict[str, float]:
        """The metrics."""
        loss, n_tokens = 0.0, 0
        sums, counts = np.zeros((self.size, self.n_classes)), np.zeros(self.size, dtype=np.int64)
        truth_of = np.full(self.size, MISSING, dtype=np.int64)
        for batch, outputs in scored:
            ids = batch["input_ids"][batch["labels"] != MISSING].cpu().numpy()
            proba = softmax(outputs.logits.float().cpu().numpy().astype(np.float64))
            loss, n_tokens = loss + float(outputs.loss) * len(ids), n_tokens + len(ids)
            truth_of[ids] = outputs.labels.cpu().numpy()
            np.add.at(sums, ids, proba)
            counts += np.bincount(ids, minlength=self.size)
        seen = np.flatnonzero(counts)
        proba, truth = sums[seen] / counts[seen, None], truth_of[seen]
        given = proba[np.arange(len(seen)), truth]
        table = confusion(truth, proba.argmax(axis=1), self.n_classes)
        _, _, f1 = shares(np.diag(table), table.sum(axis=1), table.sum(axis=0))
        return {
            "loss": loss / max(n_tokens, 1),
            "log_likelihood": float(np.log(np.maximum(given, 1e-12)).mean()),
            "accuracy": float(np.trace(table) / table.sum()),
            "macro_f1": float(mean_defined(f1[None])[0]),
        }


@dataclass(frozen=True, slots=True, eq=False)
class GenePrediction:
    """What a network says about the genes of some cells."""

    proba: Floats
    n_cells: Ints
    occurrences: TokenTally


def predict_genes(
    network: GeneformerForGenes,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    size: int,
    max_length: int,
    truth_of: Ints | None = None,
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
        known = np.flatnonzero(truth_T != MISSING)
        if len(known):
            logits = logits_TC[torch.from_numpy(known).to(logits_TC.device)].cpu().numpy()
            tally.add(softmax(logits.astype(np.float64)), truth_T[known])
        sums[ids] += values
        counts[ids] += times

    run_batches(tokens, network, step, runtime, max_length=max_length, progress=progress)
    with np.errstate(invalid="ignore"):
        proba: Floats = sums / counts[:, None]
    return GenePrediction(proba, counts, tally)


CHUNK = 2048
"""Cells looked at together."""

PRIOR = 5.0
"""Genes are as likely to be like all others as this many cells say."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneValues:
    """Genes of packed cells, one entry for each gene that a cell expresses."""

    cells: Ints
    genes: Ints
    values: NDArray[np.float32]
    removed: NDArray[np.bool_]


def check_counts(tokens: TokenizedDataset) -> None:
    """Refuse tokens that do not tell the counts behind them."""
    if not tokens.has_counts:
        msg = (
            "The tokenized dataset has no `counts`, so the values of its genes are not known. Tokenize with "
            "counts=True (--counts), or pass raw counts."
        )
        raise DatasetError(msg)


def hide_genes(
    packed: Packed, special: NDArray[Any], share: float, seeds: Sequence[Sequence[int]]
) -> tuple[Packed, GeneValues]:
    """Cells without a share of their genes, those behind moving up; and value and rank of all their genes."""
    ids, lengths = packed.input_ids, np.diff(packed.cu_seqlens)
    cells = np.repeat(np.arange(len(lengths)), lengths)
    places = np.flatnonzero(~np.isin(ids, special))
    n_genes = np.bincount(cells[places], minlength=len(lengths))
    starts = np.cumsum(n_genes) - n_genes
    rank = (np.arange(len(places)) - np.repeat(starts, n_genes) + 0.5) / np.repeat(n_genes, n_genes)
    counts = np.zeros(len(places)) if packed.counts is None else packed.counts[places]
    removed = np.zeros(len(places), dtype=bool)
    for start, n, seed in zip(starts, n_genes, seeds if share else (), strict=bool(share)):
        removed[start : start + n] = _drawn(int(n), share, seed)
    kept = np.ones(len(ids), dtype=bool)
    kept[places[removed]] = False
    kept_lengths = np.bincount(cells[kept], minlength=len(lengths))
    visible = Packed(ids[kept], np.concatenate([[0], np.cumsum(kept_lengths)]).astype(np.int64))
    values = np.column_stack([np.log1p(counts), rank]).astype(np.float32)
    return visible, GeneValues(cells[places], ids[places].astype(np.int64), values, removed)


def _drawn(n: int, share: float, seed: Sequence[int]) -> NDArray[np.bool_]:
    """Which of the genes of a cell go, ``(n,)``."""
    if n < 2:
        return np.zeros(n, dtype=bool)
    chance = np.random.default_rng(seed).random(n)
    gone: NDArray[np.bool_] = chance < share
    gone[chance.argmin()], gone[chance.argmax()] = True, False
    return gone


def hidden_chunks(
    tokens: TokenizedDataset, rows: Ints, special: NDArray[Any], share: float, *, max_length: int, seed: int
) -> Iterator[tuple[Ints, Packed, GeneValues]]:
    """Cells a few thousand at a time: their rows, what is left of them, and value and rank of all their genes."""
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        packed = tokens.gather(some, max_length=max_length, counts=True)
        visible, values = hide_genes(packed, special, share, [(seed, int(row)) for row in some])
        yield some, visible, values


@dataclass(frozen=True, slots=True, eq=False)
class UsualValues:
    """Value and rank that genes usually have where they are expressed."""

    by_token: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def fit(
        cls, tokens: TokenizedDataset, rows: Ints, special: NDArray[Any], size: int, *, max_length: int
    ) -> "UsualValues":
        """The usual values of some cells."""
        number, sums, squares = np.zeros(size), np.zeros((size, 2)), np.zeros((size, 2))
        for _, _, found in hidden_chunks(tokens, rows, special, 0.0, max_length=max_length, seed=0):
            number += np.bincount(found.genes, minlength=size)
            for side in range(2):
                values = found.values[:, side].astype(np.float64)
                sums[:, side] += np.bincount(found.genes, values, size)
                squares[:, side] += np.bincount(found.genes, values**2, size)
        overall = sums.sum(axis=0) / max(number.sum(), 1)
        usual = (sums + PRIOR * overall) / (number + PRIOR)[:, None]
        around = squares - 2 * usual * sums + number[:, None] * usual**2
        spread = np.sqrt(np.maximum(around.sum(axis=0), 0) / max(number.sum(), 1))
        return cls(usual, np.where(spread > 0, spread, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class AdditiveModel:
    """Value and rank as an effect of the gene and an effect of the cell: ``values[c, g] = gene[g] + cell[c]``."""

    by_token: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        tokens: TokenizedDataset,
        rows: Ints,
        special: NDArray[Any],
        usual: UsualValues,
        *,
        max_length: int,
        rounds: int = 5,
    ) -> "AdditiveModel":
        """Effects of the genes in some cells, those of the cells taken out, by alternating least squares."""
        effects = usual.by_token
        for _ in range(rounds):
            number, sums = np.zeros(len(effects)), np.zeros_like(effects)
            for some, _, found in hidden_chunks(tokens, rows, special, 0.0, max_length=max_length, seed=0):
                own = cell_effects(found, effects, len(some))
                number += np.bincount(found.genes, minlength=len(effects))
                for side in range(2):
                    rest = found.values[:, side] - own[found.cells, side]
                    sums[:, side] += np.bincount(found.genes, rest, len(effects))
            updated = (sums + PRIOR * usual.by_token) / (number + PRIOR)[:, None]
            done = np.abs(updated - effects).max(initial=0.0) < 1e-4
            effects = updated
            if done:
                break
        return cls(effects)

    def predict(self, found: GeneValues, n_cells: int) -> NDArray[np.float64]:
        """Value and rank of every gene, ``(p, 2)``; the effects of the cells come from the genes not removed."""
        return self.by_token[found.genes] + cell_effects(found, self.by_token, n_cells)[found.cells]


def cell_effects(found: GeneValues, effects: NDArray[np.float64], n_cells: int) -> NDArray[np.float64]:
    """How much higher the visible genes of each cell are than the effects of the genes say, ``(n_cells, 2)``."""
    seen = ~found.removed
    cells, number = found.cells[seen], np.bincount(found.cells[seen], minlength=n_cells)
    rest = found.values[seen] - effects[found.genes[seen]]
    sums = np.column_stack([np.bincount(cells, rest[:, side], n_cells) for side in range(2)])
    mean: NDArray[np.float64] = sums / np.maximum(number, 1)[:, None]
    return mean


PAIRS = 65_536
"""Pairs of a cell and a gene decoded at once."""


class ExpressionBatches:
    """Batches of cells with genes taken out; which ones depends on seed, epoch and row only."""

    def __init__(
        self,
        tokens: TokenizedDataset,
        rows: Ints,
        special: NDArray[Any],
        max_length: int,
        *,
        share: float = 0.15,
        seed: int = 0,
    ) -> None:
        self.tokens, self.rows, self.special, self.max_length = tokens, rows, special, max_length
        self.share, self.seed = share, seed

    @property
    def lengths(self) -> Ints:
        """Tokens each cell brings to a batch, ``(n,)``."""
        return np.minimum(self.tokens.lengths[self.rows], self.max_length)

    def __call__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The batch as tensors."""
        rows = self.rows[[row for _, row in keys]]
        packed = self.tokens.gather(rows, max_length=self.max_length, counts=True)
        seeds = [(self.seed, epoch, int(row)) for (epoch, _), row in zip(keys, rows, strict=True)]
        visible, found = hide_genes(packed, self.special, self.share, seeds)
        return {
            "input_ids": torch.from_numpy(visible.input_ids.astype(np.int64)),
            "cu_seqlens": torch.from_numpy(visible.cu_seqlens),
            "cells": torch.from_numpy(found.cells),
            "genes": torch.from_numpy(found.genes),
            "values": torch.from_numpy(found.values),
            "removed": torch.from_numpy(found.removed),
        }


def learn_expression(  # noqa: PLR0913
    base: LoadedModel,
    tokens: TokenizedDataset,
    usual: UsualValues,
    *,
    train_rows: Ints,
    valid_rows: Ints,
    expression: ExpressionOptions,
    options: FinetuneOptions,
    runtime: RuntimeOptions,
    output: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
) -> tuple[GeneformerForExpression, FinetuneResult]:
    """Fine-tune an encoder with a decoder of values and ranks."""
    weights = ("removed_weight", "visible_weight", "value_weight", "rank_weight")
    attributes = {
        "geneformer_pooling": options.pooling,
        "geneformer_decoder_size": expression.decoder_size,
        **{f"geneformer_{name}": getattr(expression, name) for name in weights},
    }
    network = build_network(GeneformerForExpression, base, options, attributes)
    network.usual.copy_(torch.from_numpy(usual.by_token))
    network.spread.copy_(torch.from_numpy(usual.spread))
    max_length = min(options.max_length or base.max_length, base.max_length)
    special = base.vocabulary.special_ids
    kept: dict[str, Any] = {"share": expression.share, "seed": options.seed}
    result = finetune(
        network,
        ExpressionBatches(tokens, train_rows, special, max_length, **kept),
        ExpressionBatches(tokens, valid_rows, special, max_length, **kept),
        options,
        runtime,
        score=score_expression,
        output=output,
        resume=resume,
        about={"expression": asdict(expression), "tokens": int(tokens.lengths[train_rows].sum())},
        callbacks=callbacks,
        progress=progress,
    )
    return network, result


def score_expression(scored: Scored) -> dict[str, float]:
    """Metrics of validation batches over the genes removed, in units of the usual spread: 1 is the usual value."""
    sums = dict.fromkeys(("removed_loss", "value_loss", "rank_loss"), 0.0)
    n_removed = 0
    for batch, outputs in scored:
        n = int(batch["removed"].sum())
        n_removed += n
        for name in sums:
            sums[name] += float(outputs[name]) * n
    means = {name: value / max(n_removed, 1) for name, value in sums.items()}
    return {"loss": means.pop("removed_loss"), **means}


def predict_expression(
    network: GeneformerForExpression,
    tokens: TokenizedDataset,
    starts: Ints,
    genes: Ints,
    runtime: RuntimeOptions,
    *,
    max_length: int,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Value and rank of genes in cells, ``(p, 2)``: values of 0 and more, ranks from 0 to 1."""
    predicted = np.empty((len(genes), 2), dtype=np.float32)

    def step(batch: Batch) -> None:
        pooled = network.embed(batch.input_ids, batch.cu_seqlens, attention=batch.attention)
        lengths = starts[batch.rows + 1] - starts[batch.rows]
        cells = np.repeat(np.arange(len(batch.rows)), lengths)
        places = np.repeat(starts[batch.rows] - (np.cumsum(lengths) - lengths), lengths) + np.arange(len(cells))
        for first in range(0, len(cells), PAIRS):
            part = slice(first, first + PAIRS)
            asked = {"cells_P": cells[part], "genes_P": genes[places[part]]}
            moved: Mapping[str, torch.Tensor] = {k: torch.from_numpy(v).to(pooled.device) for k, v in asked.items()}
            predicted[places[part]] = network.decode(pooled, **moved).float().cpu().numpy()

    run_batches(tokens, network.train(False), step, runtime, max_length=max_length, progress=progress)
    np.maximum(predicted[:, 0], 0, out=predicted[:, 0])
    np.clip(predicted[:, 1], 0, 1, out=predicted[:, 1])
    return predicted


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
    found = embed(tokens, base, EmbedOptions(pooling="gene", truncate=True), runtime, progress=progress)
    tables = {
        STATISTICS: _expression(base, tokens, n_cells, length, counts),
        STATIC: base.network.bert.embeddings.word_embeddings.weight.detach().float().cpu().numpy(),
    }
    if isinstance(found, GeneEmbeddings):
        token_of = {name: token for token, name in enumerate(base.vocabulary.gene_of.tolist())}
        contextual = np.full((size, found.values.shape[1]), np.nan, dtype=np.float32)
        contextual[[token_of[name] for name in found.genes.tolist()]] = found.values
        tables[CONTEXTUAL] = contextual
    return GeneFeatures(tables, n_cells)


def _expression(
    base: LoadedModel, tokens: TokenizedDataset, n_cells: NDArray[np.int64], max_length: int, counts: Any
) -> NDArray[np.float64]:
    """Statistics of every token, ``(V, 4)`` or ``(V, 6)``."""
    seen = np.where(n_cells > 0, n_cells, np.nan)
    columns = [mean_ranks(tokens, len(n_cells), max_length), np.log(seen / len(tokens))]
    if counts is not None:
        level = np.full(len(n_cells), np.nan)
        level[base.vocabulary.token_ids] = np.asarray(log_normalized(counts).mean(axis=0)).reshape(-1)
        columns.append(level)
    scaled = [(column - np.nanmean(column)) / (np.nanstd(column) or 1.0) for column in columns]
    return np.column_stack([*scaled, *(column**2 for column in scaled)])


MAJORITY = "majority class"
"""Name of a baseline in tables, beside those of `gene_features`."""


def classify_genes_by_baselines(
    labels: GeneLabels,
    known: NDArray[np.int64],
    features: GeneFeatures,
    tokens: NDArray[np.int64],
    seen: GeneFeatures | None = None,
    *,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Probabilities of every class for some genes, ``(n, C)``, by baseline."""
    learnt, codes, n_classes = labels.tokens[known], labels.codes[known], len(labels.classes)
    told = features if seen is None else seen
    linear = {
        name: logistic_regression_on(table[learnt], codes, told.tables[name][tokens], n_classes, seed=seed)
        for name, table in features.tables.items()
        if name in told.tables and table.shape[1] == told.tables[name].shape[1]
    }
    return linear | {MAJORITY: majority(codes, len(tokens), n_classes)}


def tally_genes(proba: NDArray[np.float64], codes: NDArray[np.int64], n_cells: NDArray[np.int64]) -> TokenTally:
    """Single occurrences of genes that are told the same in every cell."""
    tally = TokenTally(proba.shape[1])
    tally.add(proba, codes, n_cells)
    return tally


OF_TOKENS = ("accuracy", "macro_f1", "roc_auc")
"""Figures of single occurrences that stand beside those of genes."""


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
    means = {
        f"token_{name}": Estimate(_mean([found.metrics[name].mean for found in occurrences])) for name in OF_TOKENS
    }
    whole = _fields(pooled)
    whole["metrics"] = dict(pooled.metrics) | areas | {"roc_auc_sd": Estimate(spread)} | means
    whole["draws"] = dict(pooled.draws) | dict.fromkeys(AREAS, n_draws)
    return FoldedEvaluation(
        **whole,
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
    found = {}
    for place, name in enumerate(AREAS):
        whole = [
            _over_classes(ranking, np.ones((1, len(part))), place) for ranking, part in zip(rankings, rows, strict=True)
        ]
        drawn = [
            np.concatenate(
                [np.empty(0), *(_over_classes(ranking, weights, place) for weights in boot.weights(n_draws))]
            )
            for ranking, boot in zip(rankings, boots, strict=True)
        ]
        found[name] = estimate(_mean([values[0] for values in whole]), mean_defined(np.array(drawn).T))
    return found, n_draws


def _over_classes(ranking: Sequence[ClassRanking], weights: Floats, place: int) -> Floats:
    """One of the areas, mean over the classes it is defined for, under every weighting, ``(draws,)``."""
    return mean_defined(np.array([one.areas(weights)[place] for one in ranking]).T)


def _mean(values: Sequence[float]) -> float:
    """Mean over the folds it is defined for."""
    return float(mean_defined(np.array([values], dtype=np.float64))[0])


def _fields(found: Evaluation) -> dict[str, Any]:
    """What an evaluation holds, to make one of a subclass of it."""
    return {field.name: getattr(found, field.name) for field in fields(Evaluation)}


MODEL = "model"

Bar = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar by its label."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What was said about the genes held out in one fold."""

    rows: Ints
    n_cells: Ints
    proba: dict[str, NDArray[np.float64]]
    occurrences: dict[str, TokenEvaluation]


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Cells in which held-out genes are told, and the truth about them."""

    tokens: TokenizedDataset
    labels: GeneLabels
    max_length: int
    size: int


def tell_held_out(
    networks: dict[str, GeneformerForGenes], told: Told, rows: Ints, runtime: RuntimeOptions, bar: Bar
) -> HeldOut:
    """What networks say about genes they did not learn from."""
    truth_of = told.labels.class_of(told.size, rows)
    cells = cells_with(told.tokens, truth_of, told.max_length)
    part = told.tokens if 2 * len(cells) > len(told.tokens) else told.tokens.take(cells)  # taking copies
    genes, found, occurrences = told.labels.tokens[rows], {}, {}
    n_cells = np.zeros(len(rows), dtype=np.int64)
    for name, network in networks.items():
        with bar("Predicting") as progress:
            said = predict_genes(
                network, part, runtime, size=told.size, max_length=told.max_length, truth_of=truth_of, progress=progress
            )
        found[name], n_cells = said.proba[genes], said.n_cells[genes]
        occurrences[name] = said.occurrences.evaluation(told.labels.classes)
    return HeldOut(rows, n_cells, found, occurrences)


def add_baselines(held_out: HeldOut, labels: GeneLabels, proba: dict[str, NDArray[np.float64]]) -> None:
    """Add what baselines say about the same genes; each says the same in every cell."""
    codes = labels.codes[held_out.rows]
    for name, values in proba.items():
        held_out.proba[name] = values
        held_out.occurrences[name] = tally_genes(values, codes, held_out.n_cells).evaluation(labels.classes)


def cross_validate_genes(
    base: LoadedModel,
    told: Told,
    folds: Sequence[GeneParts],
    variants: Mapping[str, FinetuneOptions],
    runtime: RuntimeOptions,
    *,
    features: GeneFeatures | None,
    bar: Bar,
) -> list[HeldOut]:
    """Learn and tell fold by fold; nothing of a held-out gene but its place in the cells is seen in its fold."""
    results = []
    for number, parts in enumerate(folds, start=1):
        networks = {}
        for name, options in variants.items():
            with bar(f"Fold {number} of {len(folds)}, {name}") as progress:
                networks[name] = learn_genes(
                    base, told.tokens, told.labels, parts, options, runtime, progress=progress
                )[0]
        held_out = tell_held_out(networks, told, parts.test, runtime, bar)
        if features is not None:
            genes = told.labels.tokens[parts.test]
            add_baselines(
                held_out,
                told.labels,
                classify_genes_by_baselines(told.labels, parts.known, features, genes, seed=variants[MODEL].seed),
            )
        results.append(held_out)
    return results


def report_genes(
    results: Sequence[HeldOut], labels: GeneLabels, vocabulary: Vocabulary, settings: dict[str, Any], *, seed: int = 0
) -> GeneReport:
    """The report on all folds, genes in the order of their token ids."""
    rows = np.concatenate([found.rows for found in results])
    folds = np.repeat(np.arange(1, len(results) + 1), [len(found.rows) for found in results])
    order = np.argsort(rows)
    codes = labels.codes[rows[order]]
    proba = {name: np.concatenate([found.proba[name] for found in results])[order] for name in results[0].proba}

    def judged(name: str) -> FoldedEvaluation:
        occurrences = [found.occurrences[name] for found in results]
        return evaluate_genes(codes, proba[name], folds[order], occurrences, labels.classes, seed=seed)

    names = vocabulary.gene_of[labels.tokens[rows[order]]]
    return GeneReport(
        evaluation=judged(MODEL),
        baselines={name: judged(name) for name in proba if name != MODEL},
        cell_ids=names,
        symbols=np.array([vocabulary.symbol_of(name) for name in names], dtype=object),
        folds=folds[order],
        n_cells=np.concatenate([found.n_cells for found in results])[order],
        truth=codes,
        predicted=proba[MODEL].argmax(axis=1),
        proba=proba[MODEL],
        settings=settings,
    )


MEAN = "mean of the gene"
ADDITIVE = "mean of the gene + effect of the cell"
"""Names of the baselines in tables."""

BEYOND = "value beyond the gene's mean"
"""Name of the report on what tells cells apart."""


@dataclass(frozen=True, slots=True, eq=False)
class TestedGenes:
    """Genes taken out of cells, to be predicted from what is left."""

    visible: TokenizedDataset
    starts: Ints
    genes: Ints
    truth: Floats
    additive: Floats | None

    @property
    def cells(self) -> Ints:
        """Cell of each gene, ``(p,)``."""
        return np.repeat(np.arange(len(self.visible)), np.diff(self.starts))


def take_genes_out(
    tokens: TokenizedDataset,
    rows: Ints,
    special: NDArray[Any],
    *,
    share: float,
    max_length: int,
    seed: int,
    additive: AdditiveModel | None = None,
) -> TestedGenes:
    """Take a share of its genes out of each of some cells."""
    ids, lengths, number, genes, truth, effects = [], [], [], [], [], []
    for some, visible, found in hidden_chunks(tokens, rows, special, share, max_length=max_length, seed=seed):
        gone = found.removed
        ids.append(visible.input_ids)
        lengths.append(np.diff(visible.cu_seqlens))
        number.append(np.bincount(found.cells[gone], minlength=len(some)))
        genes.append(found.genes[gone])
        truth.append(found.values[gone].astype(np.float64))
        if additive is not None:
            effects.append(additive.predict(found, len(some))[gone])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(ids)))
    return TestedGenes(
        TokenizedDataset(pa.table({keys.INPUT_IDS: lists}), vocabulary=tokens.vocabulary),
        np.concatenate([[0], np.cumsum(np.concatenate(number))]).astype(np.int64),
        np.concatenate(genes),
        np.concatenate(truth),
        np.concatenate(effects) if effects else None,
    )


def report_expression(
    tested: TestedGenes,
    predicted: Mapping[str, NDArray[Any]],
    usual: Floats,
    *,
    names: NDArray[Any],
    genes: NDArray[Any],
    groups: NDArray[Any] | None,
    seed: int,
    settings: Mapping[str, Any],
) -> ReportSet:
    """Reports on values, on ranks, and on how values differ from what is usual for the gene."""
    cells = tested.cells
    together = (np.arange(len(tested.visible)) if groups is None else np.asarray(groups))[cells]
    said = {**predicted, MEAN: usual}
    if tested.additive is not None:
        said[ADDITIVE] = tested.additive
    zero = np.zeros(len(usual))
    found = ReportSet()
    for name, side, center in (("value", 0, zero), ("rank", 1, zero), (BEYOND, 0, usual[:, 0])):
        truth = tested.truth[:, side] - center
        columns = {label: values[:, side] - center for label, values in said.items()}
        judged = partial(evaluate_numbers, truth, groups=together, seed=seed)
        found[name] = ExpressionReport(
            evaluation=judged(columns[""]),
            baselines={label: judged(values) for label, values in columns.items() if label},
            cell_ids=names[cells],
            genes=genes,
            truth=truth,
            predicted=columns[""],
            settings={**settings, "quantity": name},
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class LabeledGenes:
    """Cells with labeled genes, and those genes."""

    cells: Cells
    labels: GeneLabels


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
    rows = cells_with(cells.tokens, labels.class_of(vocabulary.size), model.max_length)
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
