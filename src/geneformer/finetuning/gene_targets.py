"""Classes of genes: lists as users have them, what is learnt from occurrences, baselines, and figures over folds."""

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.engine.training import Key, Scored
from geneformer.errors import GeneformerWarning, GeneListError, OptionError, UnknownClassError
from geneformer.finetuning.baselines import MAJORITY, log_normalized, logistic_regression_on, majority
from geneformer.finetuning.evaluations import Estimate, FoldedEvaluation, GeneEvaluation, RocCurve, TokenEvaluation
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
from geneformer.finetuning.reports import GeneReport
from geneformer.finetuning.splits import Split
from geneformer.finetuning.targets import Target
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
from geneformer.genes.lookup import known_names, look_up
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.embedding import embed
from geneformer.inference.tables import GeneEmbeddings
from geneformer.models.finetuned import build_network
from geneformer.models.heads import GeneformerForGenes
from geneformer.models.loading import LoadedModel
from geneformer.models.losses import MISSING
from geneformer.options import EmbedOptions, FinetuneOptions, RuntimeOptions
from geneformer.options._fields import nearest
from geneformer.tokens.dataset import Packed, TokenizedDataset

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GeneLists = Mapping[str, Iterable[str]]
"""Names of genes by class: Ensembl ids or symbols."""

STATISTICS = "logistic regression, rank and detection"
STATIC = "logistic regression, static gene embeddings"
CONTEXTUAL = "logistic regression, gene embeddings averaged over cells"
"""Names of the baselines in tables."""


class FoldedGenes(NamedTuple):
    """Probabilities of genes, ``(n, C)``, the fold each was held out in, and figures of occurrences by fold."""

    proba: Floats
    folds: Ints
    occurrences: Sequence[TokenEvaluation]


@dataclass(eq=False)
class GeneClasses(Target):
    """One class of many for each gene, learnt wherever the gene occurs."""

    report_kind = GeneReport

    classes: tuple[str, ...]

    def measure(self, truth: Ints, predictions: FoldedGenes, *, groups: Any, seed: int) -> FoldedEvaluation:
        """Figures over folds."""
        return evaluate_genes(truth, *predictions, self.classes, seed=seed)

    def baselines(
        self, features: Mapping[str, NDArray[Any]], values: Ints, tested: Mapping[str, NDArray[Any]], **options: Any
    ) -> dict[str, Floats]:
        """Linear models of what is known about each gene, ``(n, d)`` by name, and the majority."""
        n_tested, n_classes = len(next(iter(tested.values()))), len(self.classes)
        linear = {
            name: logistic_regression_on(table, values, tested[name], n_classes, **options)
            for name, table in features.items()
            if name in tested and table.shape[1] == tested[name].shape[1]
        }
        return linear | {MAJORITY: majority(values, n_tested, n_classes)}

    def columns(self, predictions: FoldedGenes) -> dict[str, NDArray[Any]]:
        """The most probable class, and all probabilities."""
        return {"predicted": predictions.proba.argmax(axis=1), "proba": predictions.proba}


# Lists


@dataclass(frozen=True, slots=True, eq=False)
class GeneLabels:
    """Genes with a class, by ascending token id."""

    tokens: Ints
    codes: Ints
    classes: tuple[str, ...]
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def counts(self) -> Ints:
        """Genes per class, ``(C,)``."""
        return np.bincount(self.codes, minlength=len(self.classes))

    def class_of(self, size: int, rows: Ints | None = None) -> Ints:
        """Class of every token id, `losses.MISSING` where it has none, ``(size,)``."""
        chosen = slice(None) if rows is None else rows
        class_of = np.full(size, MISSING, dtype=np.int64)
        class_of[self.tokens[chosen]] = self.codes[chosen]
        return class_of

    def by_class(self, vocabulary: Vocabulary, rows: Ints | None = None) -> dict[str, list[str]]:
        """Ensembl ids by class."""
        chosen = np.arange(len(self)) if rows is None else rows
        names = vocabulary.gene_of[self.tokens[chosen]]
        return {name: names[self.codes[chosen] == code].tolist() for code, name in enumerate(self.classes)}


def read_gene_classes(
    gene_classes: GeneLists,
    vocabulary: Vocabulary,
    *,
    unknown: Literal["refuse", "drop"] = "refuse",
    classes: Sequence[str] | None = None,
) -> GeneLabels:
    """Token ids and classes of lists of genes; with `classes`, those of a fitted classifier."""
    lists = _checked_lists(gene_classes, classes)
    named = tuple(lists) if classes is None else tuple(classes)
    codes = np.repeat([named.index(name) for name in lists], [len(genes) for genes in lists.values()])
    match = look_up("gene_classes", chain.from_iterable(lists.values()), known_names(vocabulary))
    is_known, is_missing = match.positions >= 0, match.hows == MISSING_NAME
    rows_of = {name: np.flatnonzero((codes == named.index(name)) & ~is_known & ~is_missing) for name in lists}
    unmatched = {
        name: tuple(dict.fromkeys(match.names[row] for row in rows)) for name, rows in rows_of.items() if len(rows)
    }
    listed = "; ".join(f"{name!r}: {_listed(entries)}" for name, entries in unmatched.items())
    n_unmatched = sum(map(len, unmatched.values()))
    if unmatched and unknown == "refuse":
        foreign = "".join(f" {number:,} of them are {kind}." for kind, number in match.foreign.items())
        hint = "" if foreign else nearest(next(iter(unmatched.values()))[0], vocabulary.symbols)
        msg = (
            f"{n_unmatched:,} genes are not in vocabulary {vocabulary.name}. {listed}.{foreign}{hint} "
            'Correct them, or pass unknown_genes="drop" to leave them out.'
        )
        raise GeneListError(msg)
    for name in lists:
        given = codes == named.index(name)
        if not (given & is_known).any():
            n_given = int((given & ~is_missing).sum())
            why = (
                f"none of its {n_given:,} genes is in vocabulary {vocabulary.name}" if n_given else "its list is empty"
            )
            msg = f"Class {name!r} has no gene: {why}. Name genes by Ensembl id or symbol, or leave the class out."
            raise GeneListError(msg)
    places, codes = np.unique(np.column_stack([match.positions, codes])[is_known], axis=0).T
    shared = np.unique(places[:-1][places[:-1] == places[1:]])
    if len(shared):
        shown = _listed(
            f"{vocabulary.symbol_of(str(vocabulary.genes[place]))} "
            f"({', '.join(name for name in lists if named.index(name) in codes[places == place])})"
            for place in shared
        )
        msg = f"{len(shared):,} genes are in two classes: {shown}. Keep each gene in one class."
        raise GeneListError(msg)
    if 2 * match.n_mouse_symbols > match.n_present:
        _warn(
            f"{match.n_mouse_symbols:,} of {match.n_present:,} genes are spelled the way of mouse genes and were taken "
            "for the human genes of the same name. Mouse and human orthologs often have different names; translate "
            "the lists first."
        )
    if unmatched:
        _warn(f"{n_unmatched:,} genes are not in vocabulary {vocabulary.name} and left out. {listed}")
    tokens = vocabulary.token_ids[places].astype(np.int64)
    order = np.argsort(tokens)
    return GeneLabels(tokens[order], codes[order].astype(np.int64), named, unknown=unmatched)


def occurring(labels: GeneLabels, n_cells: Ints, vocabulary: Vocabulary) -> GeneLabels:
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


def _listed(entries: Iterable[str]) -> str:
    """At most twenty of them."""
    names = list(entries)
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def _warn(message: str) -> None:
    warnings.warn(message, GeneformerWarning, stacklevel=3)


# Learning


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
        n_cells = count_cells(tokens, size, max_length)[labels.tokens[split.train]]
        occurrences = np.bincount(labels.codes[split.train], n_cells, minlength=len(names))
        network.class_weights = torch.from_numpy(occurrences.sum() / (len(names) * np.maximum(occurrences, 1)))
    train, valid = (
        gene_batches(tokens, cells_with_labeled_genes(tokens, class_of, max_length), class_of, max_length)
        for class_of in (train_of, valid_of)
    )
    result = finetune(
        network,
        train,
        valid,
        options,
        runtime,
        score=partial(score_genes, len(names), size),
        best_by="log_likelihood",
        about={
            "classes": list(labels.classes),
            "genes": hashlib.sha256(np.stack([train_of, valid_of]).tobytes()).hexdigest()[:16],
            "tokens": int(tokens.lengths[train.rows].sum()),
        },
        **run,
    )
    return network, result


def gene_batches(tokens: TokenizedDataset, rows: Ints, class_of: Ints, max_length: int) -> Batches:
    """Cells with the class of every token, `losses.MISSING` where it has none."""

    def make(packed: Packed, rows: Ints, keys: Sequence[Key]) -> dict[str, Any]:
        return packed_tensors(packed) | {"labels": torch.from_numpy(class_of[packed.input_ids])}

    return Batches(tokens, rows, max_length, make)


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


def predict_genes(
    network: GeneformerForGenes,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    size: int,
    max_length: int,
    truth_of: Ints | None = None,
    progress: Progress | None = None,
) -> tuple[Floats, Ints, "TokenTally"]:
    """Of every token: its probabilities averaged over cells, and how many; and figures of occurrences of known class.

    They are running sums: memory does not grow with the cells.
    """
    network.train(False)
    n_classes = network.classifier.out_features
    sums, counts, tally = np.zeros((size, n_classes)), np.zeros(size, dtype=np.int64), TokenTally(n_classes)

    def step(batch: Batch) -> None:
        logits_TC = network(batch.input_ids, batch.cu_seqlens, attention=batch.attention).logits
        seen, place_T, count = torch.unique(batch.input_ids, return_inverse=True, return_counts=True)
        partial = logits_TC.new_zeros((len(seen), n_classes)).index_add(0, place_T, logits_TC.softmax(-1))
        ids, values, times = seen.cpu().numpy(), partial.cpu().numpy(), count.cpu().numpy()
        if truth_of is not None:
            truth_T = truth_of[batch.input_ids.cpu().numpy()]
            labeled = np.flatnonzero(truth_T != MISSING)
            logits = logits_TC[torch.from_numpy(labeled).to(logits_TC.device)].cpu().numpy()
            if len(labeled):
                tally.add(softmax(logits.astype(np.float64)), truth_T[labeled])
        sums[ids] += values
        counts[ids] += times

    run_batches(tokens, network, step, runtime, max_length=max_length, progress=progress)
    with np.errstate(invalid="ignore"):
        proba: Floats = sums / counts[:, None]
    return proba, counts, tally


# What the baselines see


def gene_features(
    base: LoadedModel,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    counts: Any = None,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> dict[str, NDArray[Any]]:
    """Numbers about every token of the vocabulary, ``(V, d)`` by baseline; NaN for genes that occur in no cell."""
    size, length = base.vocabulary.size, max_length or base.max_length
    n_cells = count_cells(tokens, size, length)
    occurring_in = np.where(n_cells > 0, n_cells, np.nan)
    columns = [mean_ranks(tokens, size, length), np.log(occurring_in / len(tokens))]
    if counts is not None:
        level = np.full(size, np.nan)
        level[base.vocabulary.token_ids] = np.asarray(log_normalized(counts).mean(axis=0)).reshape(-1)
        columns.append(level)
    scaled = [(column - np.nanmean(column)) / (np.nanstd(column) or 1.0) for column in columns]
    tables = {
        STATISTICS: np.column_stack([*scaled, *(column**2 for column in scaled)]),
        STATIC: base.network.bert.embeddings.word_embeddings.weight.detach().float().cpu().numpy(),
    }
    embeddings = embed(tokens, base, EmbedOptions(pooling="gene", truncate=True), runtime, progress=progress)
    if isinstance(embeddings, GeneEmbeddings):
        token_of = {name: token for token, name in enumerate(base.vocabulary.gene_of.tolist())}
        contextual = np.full((size, embeddings.values.shape[1]), np.nan, dtype=np.float32)
        contextual[[token_of[name] for name in embeddings.genes.tolist()]] = embeddings.values
        tables[CONTEXTUAL] = contextual
    return tables


# Figures


_BOUND = 32.0
_BINS = 1 << 16
"""Log-odds are binned in steps of a thousandth, which moves no area noticeably."""

_POINTS = 201


class TokenTally:
    """Confusion counts, and log-odds of every class in fine bins."""

    def __init__(self, n_classes: int) -> None:
        self._confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
        self._counts = np.zeros((n_classes, 2, _BINS), dtype=np.int64)

    def add(self, proba: Floats, codes: Ints, times: Ints | None = None) -> None:
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


def _roc(negative: Ints, positive: Ints) -> RocCurve | None:
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


def evaluate_genes(
    codes: Ints,
    proba: Floats,
    folds: Ints,
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
    drawn = _draw_areas(codes, proba, rows, seed, n_boot)
    figures: dict[str, Estimate] = {}
    for place, name in enumerate(AREAS):
        figures[name] = estimate(_mean(parts, name), mean_defined(drawn[:, :, place].T))
    of_folds = [part.metrics["roc_auc"].mean for part in parts]
    figures["roc_auc_sd"] = Estimate(float(np.std(of_folds, ddof=1)) if len(of_folds) > 1 else np.nan)
    for name in ("accuracy", "macro_f1", "roc_auc"):
        figures[f"token_{name}"] = Estimate(_mean(occurrences, name))
    return FoldedEvaluation(
        **vars(pooled)
        | {
            "metrics": {**pooled.metrics, **figures},
            "draws": {**pooled.draws, **dict.fromkeys(AREAS, drawn.shape[1])},
        },
        folds=tuple(GeneEvaluation(**vars(part)) for part in parts),
        occurrences=tuple(occurrences),
    )


def _draw_areas(codes: Ints, proba: Floats, rows: Sequence[NDArray[np.intp]], seed: int, n_boot: int) -> Floats:
    """Areas, each the mean over the classes it is defined for, with genes resampled within folds, ``(F, draws, 2)``."""
    seeds = [int(np.random.SeedSequence([seed, fold]).generate_state(1)[0]) for fold in range(len(rows))]
    boots = [Bootstrap.over(None, len(part), n_boot=n_boot, seed=own) for part, own in zip(rows, seeds, strict=True)]
    n_draws = min(boot.draws(proba.size) for boot in boots)
    drawn = np.empty((len(rows), n_draws, len(AREAS)))
    for fold, (part, boot) in enumerate(zip(rows, boots, strict=True)):
        rankings = [ClassRanking(proba[part, code], codes[part] == code) for code in range(proba.shape[1])]
        done = 0
        for weights in boot.weights(n_draws):
            by_class = np.array([ranking.areas(weights) for ranking in rankings])
            for place in range(len(AREAS)):
                drawn[fold, done : done + len(weights), place] = mean_defined(by_class[:, place].T)
            done += len(weights)
    return drawn


def _mean(evaluations: Sequence[Any], name: str) -> float:
    """Mean of a figure over the folds it is defined for."""
    return float(mean_defined(np.array([[one.metrics[name].mean for one in evaluations]]))[0])
