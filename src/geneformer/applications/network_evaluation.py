"""How well scores of pairs of genes agree with known pairs: beside baselines, and a null that keeps all degrees.

Letters of axes: R regulators, T targets, N draws.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geneformer.applications.network_evidence import Moments
from geneformer.applications.networks import rewired
from geneformer.errors import GeneListError
from geneformer.options import NetworkEvaluateOptions
from geneformer.options._fields import check_choice, some_of

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

CORRELATION, EXPRESSION, POPULARITY, RANDOM = "|Pearson|", "target mean expression", "target popularity", "random"
BASELINES = (CORRELATION, EXPRESSION, POPULARITY, RANDOM)
"""What every network is compared with: what a correlation finds, and what knows nothing of the regulator."""

MEASURES = ("auroc", "average_precision")


@dataclass(frozen=True, slots=True)
class KnownPairs:
    """Known pairs among the candidates.

    Attributes
    ----------
    regulators, targets
        Names, ``(R,)`` and ``(T,)``.
    known
        Which pairs are known, ``(R, T)``.
    candidates
        Which pairs are judged, ``(R, T)``: all but those of a gene with itself.
    popularity
        Regulators each target has in the whole truth, ``(T,)``.
    """

    regulators: NDArray[Any]
    targets: NDArray[Any]
    known: Flags
    candidates: Flags
    popularity: Floats

    def popularity_without(self, known: Flags) -> Floats:
        """How many others each target has: the regulator itself does not count, ``(R, T)``."""
        others: Floats = self.popularity[None, :] - known
        return others


def known_pairs(
    truth: pd.DataFrame, regulators: NDArray[Any], targets: NDArray[Any], *, universe: str, min_targets: int
) -> KnownPairs:
    """The pairs of a truth that a network could have: regulators with enough known targets among the candidates.

    Parameters
    ----------
    truth
        `source` and `target`, under the names of the network.
    regulators, targets
        Genes the network has scores for.
    universe
        "truth": candidates are genes that are a target of anything in the truth; "all": all `targets`.
    min_targets
        Known targets among the candidates that a regulator needs to be judged.
    """
    columns = pd.Index(targets).unique()
    popularity: pd.Series[Any] = truth["target"].value_counts().reindex(columns).fillna(0)
    columns = columns[popularity.to_numpy() > 0] if universe == "truth" else columns
    rows = pd.Index(regulators).unique()
    row_of, column_of = rows.get_indexer(truth["source"]), columns.get_indexer(truth["target"])
    both = (row_of >= 0) & (column_of >= 0)
    known = np.zeros((len(rows), len(columns)), dtype=bool)
    known[row_of[both], column_of[both]] = True
    candidates = rows.to_numpy()[:, None] != columns.to_numpy()[None, :]
    known &= candidates
    kept = (known.sum(axis=1) >= min_targets) & (known.sum(axis=1) < candidates.sum(axis=1))
    return KnownPairs(
        rows.to_numpy()[kept],
        columns.to_numpy(),
        known[kept],
        candidates[kept],
        np.asarray(popularity.reindex(columns), dtype=np.float64),
    )


def _ranks(scores: Floats, candidates: Flags) -> Floats:
    """Ranks of the candidates of each regulator from the lowest, ties shared; pairs without a score are the lowest."""
    from scipy.stats import rankdata

    filled = np.where(candidates, np.nan_to_num(scores, nan=-np.inf), np.inf)  # the others rank above all candidates
    ranks: Floats = rankdata(filled, axis=1)
    return ranks


def _areas(ranks: Floats, known: Flags, candidates: Flags) -> Floats:
    """Area under the ROC curve of each regulator, ``(R,)``, from the ranks of its known targets."""
    n_known = known.sum(axis=1)
    sums = np.where(known, ranks, 0).sum(axis=1)
    areas: Floats = (sums - n_known * (n_known + 1) / 2) / (n_known * (candidates.sum(axis=1) - n_known))
    return areas


def _precisions(ranks: Floats, pairs: KnownPairs, rng: np.random.Generator) -> Floats:
    """Average precision of each regulator, ``(R,)``; ties are broken at random."""
    from sklearn.metrics import average_precision_score

    found = np.empty(len(ranks))
    for row, (own, known, candidates) in enumerate(zip(ranks, pairs.known, pairs.candidates, strict=True)):
        broken = own[candidates] + 0.25 * rng.random(candidates.sum())  # different ranks are at least a half apart
        found[row] = average_precision_score(known[candidates], broken)
    return found


def per_regulator(scores: Mapping[str, Floats], pairs: KnownPairs, seed: int = 0) -> pd.DataFrame:
    """Agreement of each score with the known targets of each regulator.

    Returns
    -------
    pandas.DataFrame
        A row per score and regulator: `score`, `regulator`, `n_targets`, `n_candidates`, `share_known`, `share_scored`,
        `auroc`, `average_precision`.
    """
    rng = np.random.default_rng(seed)
    n_known, n_candidates = pairs.known.sum(axis=1), pairs.candidates.sum(axis=1)
    frames = []
    for name, values in scores.items():
        ranks = _ranks(values, pairs.candidates)
        frames.append(
            pd.DataFrame(
                {
                    "score": name,
                    "regulator": pairs.regulators,
                    "n_targets": n_known,
                    "n_candidates": n_candidates,
                    "share_known": n_known / n_candidates,
                    "share_scored": (np.isfinite(values) & pairs.candidates).sum(axis=1) / n_candidates,
                    "auroc": _areas(ranks, pairs.known, pairs.candidates),
                    "average_precision": _precisions(ranks, pairs, rng),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def null_areas(scores: Mapping[str, Floats], pairs: KnownPairs, *, n_null: int, seed: int) -> Floats:
    """Mean area of each score over regulators, with rewired pairs, ``(N, n_scores)``.

    Each truth follows from the one before. Popularity is counted anew each time: its null is that of the degrees alone.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(pairs.known)
    column_of, names = pd.Index(pairs.targets), pairs.regulators[rows]
    n_known = pairs.known.sum(axis=1)
    n_pairs = n_known * (pairs.candidates.sum(axis=1) - n_known)
    ranks = {name: _ranks(values, pairs.candidates) for name, values in scores.items() if name != POPULARITY}
    found = np.empty((n_null, len(scores)))
    for draw in range(n_null):
        swaps = 1 if draw else 10
        dealt = rewired(names, pairs.targets[columns], seed=int(rng.integers(2**31)), swaps_per_edge=swaps)
        columns = column_of.get_indexer(dealt)
        for place, name in enumerate(scores):
            if name == POPULARITY:
                known = np.zeros_like(pairs.known)
                known[rows, columns] = True
                found[draw, place] = _popularity_areas(pairs, known).mean()
            else:
                sums = np.bincount(rows, ranks[name][rows, columns], minlength=len(n_known))
                found[draw, place] = ((sums - n_known * (n_known + 1) / 2) / n_pairs).mean()
    return found


def _popularity_areas(pairs: KnownPairs, known: Flags) -> Floats:
    """Area of the popularity of each target, less the regulator itself, ``(R,)``; by counts, without sorting."""
    values = pairs.popularity_without(known).astype(np.int64)
    size = int(values.max()) + 1
    areas = np.empty(len(known))
    for row, own in enumerate(values):
        positive = np.bincount(own[known[row]], minlength=size)
        negative = np.bincount(own[pairs.candidates[row] & ~known[row]], minlength=size)
        below = np.cumsum(negative) - negative / 2
        areas[row] = positive @ below / (positive.sum() * negative.sum())
    return areas


def mean_agreement(scores: Mapping[str, Floats], pairs: KnownPairs, options: NetworkEvaluateOptions) -> pd.DataFrame:
    """Mean agreement over regulators of each score, with what chance and the baselines reach.

    Parameters
    ----------
    scores
        Of each network and baseline, ``(R, T)``; NaN where it has none.
    pairs
        What is known.
    options
        What all are compared with, and how many draws are made.

    Returns
    -------
    pandas.DataFrame
        A row per score: `auroc` with `auroc_low` and `auroc_high`, `average_precision` likewise, `difference` of the
        area from that of `options.against` likewise, the null's `null_mean`, `null_low`, `null_high` of the area with
        `z` and one-sided `p`, and how many regulators, known pairs and candidates there are.
    """
    table = per_regulator(scores, pairs, options.seed)
    n = len(pairs.regulators)
    drawn = np.random.default_rng(options.seed).integers(n, size=(options.n_bootstrap, n))
    values = {name: rows[list(MEASURES)].to_numpy().T for name, rows in table.groupby("score", sort=False)}
    shares = table.groupby("score", sort=False)["share_scored"].mean()
    tails = np.array([(1 - options.confidence) / 2, (1 + options.confidence) / 2])
    null = null_areas(scores, pairs, n_null=options.n_null, seed=options.seed)
    rows = []
    for place, name in enumerate(scores):
        row: dict[str, Any] = {
            "score": name,
            "regulators": n,
            "pairs": int(pairs.known.sum()),
            "candidates": int(pairs.candidates.sum()),
            "share_known": float(pairs.known.sum() / pairs.candidates.sum()),
            "share_scored": float(shares[name]),
        }
        for measure, own in zip(MEASURES, values[name], strict=True):
            row |= _interval(measure, own, drawn, tails)
        row |= _interval("difference", values[name][0] - values[options.against][0], drawn, tails)
        chance = null[:, place]
        ends = np.quantile(chance, tails)
        row |= {"null_mean": float(chance.mean()), "null_low": float(ends[0]), "null_high": float(ends[1])}
        row["z"] = (row["auroc"] - chance.mean()) / chance.std() if chance.std() > 0 else np.nan
        row["p"] = (1 + int((chance >= row["auroc"] - 1e-12).sum())) / (1 + len(chance))
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(name: str, values: Floats, drawn: NDArray[np.int64], tails: Floats) -> dict[str, float]:
    low, high = np.quantile(values[drawn].mean(axis=1), tails)
    return {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


# Of tables of edges


def evaluate_edges(
    edges: pd.DataFrame,
    truth: pd.DataFrame,
    options: NetworkEvaluateOptions,
    *,
    expression: "tuple[csr_matrix, Mapping[str, int]] | None" = None,
    per: str = "score",
) -> pd.DataFrame:
    """Agreement of every network of a table, and of the baselines, with known pairs.

    Parameters
    ----------
    edges
        A network's table; of several methods or groups, each is a score.
    truth
        `source` and `target` under the names of the network.
    expression
        Log counts of cells by genes, and the column of each gene: without them there are no baselines of expression.
    per
        "score": what `mean_agreement` returns; "regulator": what `per_regulator` returns.

    Raises
    ------
    GeneListError
        Nothing of the truth can be judged.
    UnknownChoiceError
        `options.against` is none of the scores.
    """
    sources, targets = edges["source"].unique(), edges["target"].unique()
    pairs = known_pairs(truth, sources, targets, universe=options.universe, min_targets=options.min_targets)
    if not len(pairs.regulators):
        refuse_truth(truth, sources, targets, options.min_targets)
    scores = network_scores(edges, pairs) | baseline_scores(pairs, expression, options.seed)
    against = options.against
    if against == CORRELATION and expression is None:
        against = POPULARITY
    check_choice("against", against, scores)
    if per == "regulator":
        return per_regulator(scores, pairs, options.seed)
    return mean_agreement(scores, pairs, replace(options, against=against))


def network_scores(edges: pd.DataFrame, pairs: KnownPairs) -> dict[str, Floats]:
    """Weights of every network, ``(R, T)``, by its method, and by its group where there are several."""
    rows, columns = pd.Index(pairs.regulators), pd.Index(pairs.targets)
    has_groups = edges["group"].nunique() > 1
    scores = {}
    for (method, group), part in edges.groupby(["method", "group"], sort=False):
        row, column = rows.get_indexer(part["source"]), columns.get_indexer(part["target"])
        there = (row >= 0) & (column >= 0)
        values = np.full(pairs.known.shape, np.nan)
        values[row[there], column[there]] = part["weight"].to_numpy()[there]
        scores[f"{method or 'network'}, {group}" if has_groups else str(method or "network")] = values
    return scores


def baseline_scores(
    pairs: KnownPairs, expression: "tuple[csr_matrix, Mapping[str, int]] | None", seed: int
) -> dict[str, Floats]:
    """What every network has to beat, ``(R, T)`` each."""
    shape = pairs.known.shape
    scores = {}
    if expression is not None:
        logs, column_of = expression
        rows, columns = (np.array([column_of[name] for name in names]) for names in (pairs.regulators, pairs.targets))
        moments = Moments.of(logs, rows, columns, np.zeros(logs.shape[0], dtype=np.int64), 1)
        correlation = moments.effects(np.ones(1)).astype(np.float64)
        expression_T = np.where(columns >= 0, moments.target_sums[0] / logs.shape[0], np.nan)
        correlation[rows < 0], correlation[:, columns < 0] = np.nan, np.nan
        scores[CORRELATION] = correlation
        scores[EXPRESSION] = np.broadcast_to(expression_T, shape)
    scores[POPULARITY] = pairs.popularity_without(pairs.known)
    scores[RANDOM] = np.random.default_rng([seed, 1]).random(shape)
    return scores


def refuse_truth(truth: pd.DataFrame, sources: Iterable[str], targets: Iterable[str], min_targets: int) -> NoReturn:
    """Say why nothing of a truth can be judged: other names, other regulators, or too few targets."""
    own, theirs, genes = set(sources), set(truth["source"]), set(targets)
    if not genes & set(truth["target"]):
        msg = (
            f"No target of the truth is in the network: the truth has {some_of(sorted(set(truth['target'])), 3)}, the "
            f"network {some_of(sorted(genes), 3)}. Both need human gene symbols or Ensembl ids."
        )
    elif not own & theirs:
        msg = (
            f"No regulator of the truth is in the network: the truth has {some_of(sorted(theirs), 3)}, the network "
            f"{some_of(sorted(own), 3)}. Infer the network for regulators of the truth."
        )
    else:
        msg = (
            f"Of the {len(own & theirs):,} regulators that truth and network share, none has {min_targets} known "
            "targets or more among the candidates. Lower min_targets, or use a truth that covers these genes."
        )
    raise GeneListError(msg)
