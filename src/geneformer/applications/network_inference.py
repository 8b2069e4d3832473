"""From cells to networks: the evidence of each method, its statistics, and the table of edges."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geneformer.applications.network_evidence import (
    Forest,
    MeanStates,
    Moments,
    PairMeans,
    joined,
    pair_counts,
)
from geneformer.applications.network_perturbation import SCREEN_PASSES, EffectSums, Saved, add_up, perturbation_plan
from geneformer.applications.network_plan import CellGroup, NetworkGenes, NetworkPlan, presence_of
from geneformer.applications.network_statistics import (
    Comparison,
    Draw,
    Evidence,
    Floats,
    Ints,
    Tested,
    compare_with_matched,
    differences,
    intervals,
    stability,
)
from geneformer.applications.networks import COLUMNS, CONSENSUS, GeneNetwork, as_edges
from geneformer.errors import GeneformerWarning
from geneformer.files.progress import Progress, inform
from geneformer.inference.attention import visit_attention
from geneformer.inference.cells import describe_run
from geneformer.inference.embedding import embed
from geneformer.options import EmbedOptions
from geneformer.perturbation.plan import PerturbationPlan, estimate_cost

if TYPE_CHECKING:
    import pandas as pd

PERTURBATION, INTERACTION = "perturbation", "interaction"
"""Methods of edges of edited genes, and of pairs of them against both alone."""

_CLASSES, _LEAST_IN_CLASS = 32, 8
"""Classes of ranks that attention is compared within, at most, and genes of one, at least."""


def infer_network(
    plan: NetworkPlan,
    *,
    names: Mapping[int, str] | None = None,
    saved: Saved | None = None,
    progress: Progress | None = None,
) -> GeneNetwork:
    """Networks of all groups by all methods; genes under their `names` by token id, or else by symbol."""
    import pandas as pd

    labels = gene_labels(plan, names)
    tables: list[pd.DataFrame] = []
    differing: list[pd.DataFrame] = []
    stable: list[dict[str, Any]] = []
    ranks: dict[str, Any] = {}
    for method in plan.options.method:
        read = [one for group in plan.groups for one in _read(plan, group, method, saved, progress)]
        for one in read:
            tables.append(one.table(labels))
            stable.append({"group": one.group.name, "method": one.method, **one.stability()})
            if len(plan.options.method) > 1 and one.genes is plan.genes:
                ranks[one.group.name] = ranks.get(one.group.name, 0) + _ranks(one.weights)
        for genes in (plan.genes, plan.pairs):
            of_genes = [one for one in read if one.genes is genes]
            differing += _differing(of_genes, labels) if len(of_genes) > 1 else []
    if ranks:
        n_methods = len(plan.options.method)
        tables += [_consensus(plan, group, ranks[group.name] / n_methods, labels) for group in plan.groups]
    filled = [table.dropna(axis=1, how="all") if len(table) else table for table in tables]
    edges = as_edges(pd.concat(filled, ignore_index=True))
    inform("; ".join(map(_stability_text, stable)))
    frame = pd.concat(differing, ignore_index=True) if differing else pd.DataFrame()
    return GeneNetwork(edges, frame, _provenance(plan, stable))


def _stability_text(stable: Mapping[str, Any]) -> str:
    """How much of the strongest edges is found again, in words."""
    text = f"{stable['method']}, {stable['group']}: of the {stable['top']:,.0f} strongest edges "
    text += f"{stable['half_split_jaccard']:.2f} are in the networks of both halves of the cells (Jaccard)"
    without = stable.get("leave_donor_out_jaccard")
    return text if without is None else f"{text}, {without:.2f} without a donor"


def _read(
    plan: NetworkPlan, group: CellGroup, method: str, saved: Saved | None, progress: Progress | None
) -> "Iterator[_Read]":
    """What a method finds about a group: edges of regulators, and of pairs of them."""
    if method == "perturbation":
        single, paired = _perturbed(plan, group, saved, progress)
        yield _Read.of(plan, group, method, plan.genes, single)
        if plan.pairs is not None and paired is not None:
            yield _Read.of(plan, group, INTERACTION, plan.pairs, paired)
        return
    yield _Read.of(plan, group, method, plan.genes, _EVIDENCE[method](plan, group, progress))


def gene_labels(plan: NetworkPlan, names: Mapping[int, str] | None) -> NDArray[Any]:
    """Name of every token, ``(V,)``: as given, by symbol, or by Ensembl id where two share a symbol."""
    vocabulary = plan.model.vocabulary
    labels = vocabulary.gene_of.astype(object).copy()
    used = np.unique(np.concatenate([plan.genes.sources[:, 0], plan.genes.targets]))
    texts = [str((names or {}).get(int(token)) or vocabulary.symbol_of(str(labels[token]))) for token in used]
    _, place, times = np.unique(texts, return_inverse=True, return_counts=True)
    for token, text, number in zip(used, texts, times[place], strict=True):
        labels[token] = text if number == 1 else labels[token]
    return labels


def _label(labels: NDArray[Any], sources: Ints) -> NDArray[Any]:
    """Names of sources; of several genes with a "+" between."""
    return np.array(["+".join(labels[token] for token in of_source) for of_source in sources.tolist()], dtype=object)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What one method read from one group of cells, and the statistics of it."""

    plan: NetworkPlan
    group: CellGroup
    method: str
    genes: NetworkGenes
    evidence: Evidence
    comparison: Comparison
    usable: NDArray[np.bool_]
    n_cells: NDArray[np.unsignedinteger]
    tested: Tested
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, plan: NetworkPlan, group: CellGroup, method: str, genes: NetworkGenes, evidence: Evidence) -> "_Read":
        """Test all edges."""
        options = plan.options
        comparison = Comparison(genes.n_regulators, genes.matched, relative=method in (PERTURBATION, INTERACTION))
        usable_ST, n_cells_ST = _usable_edges(plan, group, genes, together=method in _READ_TOGETHER)
        effects_ST = _effects(evidence, usable_ST, np.ones(group.n_blocks))
        weights_RT = comparison.weights(effects_ST)
        tested = compare_with_matched(effects_ST, weights_RT, comparison, most=options.max_edges, seed=options.seed)
        return cls(plan, group, method, genes, evidence, comparison, usable_ST, n_cells_ST, tested, weights_RT)

    @property
    def draw(self) -> Draw:
        """Weights over blocks of cells."""
        return _drawn(self.evidence, self.comparison, self.usable)

    def table(self, labels: NDArray[Any]) -> "pd.DataFrame":
        """The edges that are kept."""
        import pandas as pd

        tested, options, genes = self.tested, self.plan.options, self.genes
        n_draws = options.n_bootstrap if self.method not in _SLOW else 0
        low, high = intervals(
            _drawn_edges([self], tested),
            len(tested.row),
            self.group.n_blocks,
            n_draws=n_draws,
            confidence=options.confidence,
            seed=options.seed,
        )
        n_cells = self.n_cells[tested.row, tested.column]
        columns = {
            "source": _label(labels, genes.regulators)[tested.row],
            "target": labels[genes.targets[tested.column]],
            **{name: getattr(tested, name) for name in ("weight", "z", "p", "q", "null_mean", "null_sd")},
            "low": low,
            "high": high,
            "n_cells": n_cells,
            "group": self.group.name,
            "method": self.method,
            "sign": _signs(self.plan, self.group, self.method, genes, tested),
            "n_donors": _donors_of(self.plan, self.group, genes, tested),
        }
        return pd.DataFrame(columns)[list(COLUMNS)]

    def stability(self) -> dict[str, float]:
        """How much of the strongest edges is found again."""
        return stability(
            self.draw,
            self.group.n_blocks,
            blocks_are_donors=self.group.blocks_are_donors,
            seed=self.plan.options.seed,
            n_splits=1 if self.method in _SLOW else 5,
        ) | {"tested": float(self.tested.n_tested)}


def _effects(evidence: Evidence, usable_ST: NDArray[np.bool_], weights_B: Floats) -> NDArray[np.float32]:
    """Effects of all sources, NaN where too few cells tell and of genes on themselves, ``(S, T)``."""
    effects_ST = evidence.effects(weights_B)
    effects_ST[~usable_ST] = np.nan
    return effects_ST


def _drawn(evidence: Evidence, comparison: Comparison, usable_ST: NDArray[np.bool_]) -> Draw:
    """Weights of all edges."""
    return lambda weights_B: comparison.weights(_effects(evidence, usable_ST, weights_B))


def _drawn_edges(read: Sequence[_Read], tested: Tested) -> Draw:
    """Weights of the edges that are kept, of several groups of cells together."""
    if read[0].method in _SLOW:
        return read[0].draw
    found: list[Any] = [one.evidence for one in read]
    comparison = read[0].comparison
    if not comparison.relative:
        return joined([evidence.edges(tested.row, tested.column) for evidence in found]).effects  # type: ignore[no-any-return]
    draw = _drawn(joined(found), comparison, np.logical_and.reduce([one.usable for one in read]))
    return lambda weights_B: draw(weights_B)[tested.row, tested.column]


def _usable_edges(
    plan: NetworkPlan, group: CellGroup, genes: NetworkGenes, *, together: bool
) -> tuple[NDArray[np.bool_], NDArray[np.unsignedinteger]]:
    """Edges between genes that enough cells of a group have, if need be `together`, and cells with both, ``(S, T)``."""
    least = plan.options.min_cells
    presence = presence_of(plan.cells, group.rows, plan.model)
    one_block = np.zeros(len(group.rows), dtype=np.int64)
    n_cells_ST = pair_counts(presence, genes.sources, genes.targets, one_block, 1)[0]
    usable_ST = n_cells_ST >= least
    if not together:
        n_cells = presence.sum(axis=0).A1
        found_S, found_T = (n_cells[genes.sources] >= least).all(1), n_cells[genes.targets] >= least
        usable_ST = np.logical_and.outer(found_S, found_T)
    for of_source in genes.sources.T:
        usable_ST &= of_source[:, None] != genes.targets
    return usable_ST, n_cells_ST


def _donors_of(plan: NetworkPlan, group: CellGroup, genes: NetworkGenes, tested: Tested) -> Floats:
    """Donors with cells that have both genes, ``(E,)``."""
    if group.donors is None:
        return np.full(len(tested.row), np.nan)
    presence = presence_of(plan.cells, group.rows, plan.model)
    n_donors = np.zeros(len(tested.row))
    for donor in np.unique(group.donors):
        of_donor = np.where(group.donors == donor, 0, 1)
        n_cells_RT = pair_counts(presence, genes.regulators, genes.targets, of_donor, 1)[0]
        n_donors += n_cells_RT[tested.row, tested.column] > 0
    return n_donors


def _signs(plan: NetworkPlan, group: CellGroup, method: str, genes: NetworkGenes, tested: Tested) -> Floats:
    """Signs of correlations, where they are asked for, ``(E,)``."""
    signed = plan.options.signed
    if signed == "never" or (signed == "auto" and method != "correlation") or method == INTERACTION:
        return np.full(len(tested.row), np.nan)
    values = plan.log_counts[group.rows]
    blocks = np.zeros(len(group.rows), dtype=np.int64)
    moments = Moments.of(values, plan.columns(genes.regulators[:, 0]), plan.columns(genes.targets), blocks, 1)
    found: Floats = np.sign(moments.correlations(np.ones(1))[tested.row, tested.column]).astype(np.float64)
    return found


def _differing(read: Sequence[_Read], labels: NDArray[Any]) -> "Iterator[pd.DataFrame]":
    """Edges whose weight in a group differs from that in all others."""
    import pandas as pd

    options, genes, method = read[0].plan.options, read[0].genes, read[0].method
    if method in _SLOW or not options.n_permutations:
        return
    of_block = np.repeat(np.arange(len(read)), [one.group.n_blocks for one in read])
    for number, one in enumerate(read):
        draw = _drawn_edges(read, one.tested)
        found, z, p, q = differences(draw, of_block == number, n_draws=options.n_permutations, seed=options.seed)
        columns = {
            "source": _label(labels, genes.regulators)[one.tested.row],
            "target": labels[genes.targets[one.tested.column]],
            "group": one.group.name,
            "method": method,
            "difference": found,
            "z": z,
            "p": p,
            "q": q,
        }
        yield pd.DataFrame(columns).dropna(subset=["difference"])


def _ranks(weights_RT: Floats) -> Floats:
    """Ranks from 0, the lowest, to 1, the highest; NaN where there are no weights."""
    from scipy.stats import rankdata

    finite = np.isfinite(weights_RT)
    ranks = np.full(weights_RT.shape, np.nan, dtype=np.float32)
    ranks[finite] = rankdata(weights_RT[finite]) / max(finite.sum(), 1)
    return ranks


def _consensus(plan: NetworkPlan, group: CellGroup, ranks_RT: Floats, labels: NDArray[Any]) -> "pd.DataFrame":
    """Edges by the mean of their ranks."""
    import pandas as pd

    genes = plan.genes
    _, n_cells_ST = _usable_edges(plan, group, genes, together=False)
    nothing = Comparison(genes.n_regulators, np.empty((0, 0), dtype=np.int64), relative=False)
    tested = compare_with_matched(ranks_RT, ranks_RT, nothing, most=plan.options.max_edges, seed=plan.options.seed)
    columns = {
        "source": _label(labels, genes.regulators)[tested.row],
        "target": labels[genes.targets[tested.column]],
        "weight": tested.weight,
        "n_cells": n_cells_ST[tested.row, tested.column],
        "n_donors": _donors_of(plan, group, genes, tested),
        "group": group.name,
        "method": CONSENSUS,
    }
    return pd.DataFrame(columns)


def _provenance(plan: NetworkPlan, stable: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where a network comes from, and how stable it is; lists by column, as files of AnnData take them."""
    given = {name: value for name, value in asdict(plan.options).items() if value is not None}
    network = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    names = list(dict.fromkeys(name for one in stable for name in one))
    return describe_run(
        plan.model,
        plan.cells.tokens,
        network=network,
        panel=plan.panel.record(),
        stability={name: [one.get(name, float("nan")) for one in stable] for name in names},
        n_targets=len(plan.genes.targets),
        n_matched_genes=len(plan.genes.sources) - plan.genes.n_regulators,
        sign_source="correlation of log counts",
    )


def _correlated(plan: NetworkPlan, group: CellGroup, progress: Progress | None) -> Evidence:
    values = plan.log_counts[group.rows]
    sources, targets = plan.columns(plan.genes.sources[:, 0]), plan.columns(plan.genes.targets)
    return Moments.of(values, sources, targets, group.blocks, group.n_blocks)


def _boosted(plan: NetworkPlan, group: CellGroup, progress: Progress | None) -> Evidence:
    values, genes = plan.log_counts[group.rows].tocsc(), plan.genes
    sources, targets = (values[:, plan.columns(of)].toarray() for of in (genes.sources[:, 0], genes.targets))
    place_of = {token: row for row, token in enumerate(genes.sources[:, 0].tolist())}
    own = np.array([place_of.get(token, -1) for token in genes.targets.tolist()])
    return Forest(sources, targets, own, group.blocks, group.n_blocks, plan.options.seed, progress)


def _embedded(plan: NetworkPlan, group: CellGroup, progress: Progress | None) -> Evidence:
    import pandas as pd

    sources, targets = plan.genes.sources[:, 0], plan.genes.targets
    used = np.unique(np.concatenate([sources, targets]))
    width = int(plan.model.network.config.hidden_size)
    sums, counts = np.zeros((group.n_blocks, len(used), width)), np.zeros((group.n_blocks, len(used)))
    options = EmbedOptions(pooling="gene", layer=plan.options.layer, truncate=True)
    done = 0
    for block in range(group.n_blocks):
        rows = group.rows[group.blocks == block]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GeneformerWarning)
            genes: Any = embed(plan.cells.tokens.take(rows), plan.model, options, plan.runtime)
        of_genes = plan.model.vocabulary.gene_of[used]
        places = pd.Index(genes.genes).get_indexer(of_genes)
        there = places >= 0
        counts[block, there] = genes.n_cells[places[there]]
        sums[block, there] = genes.values[places[there]] * counts[block, there, None]
        done += len(rows)
        if progress is not None:
            progress(done, len(group.rows))
    return MeanStates(sums, counts, np.searchsorted(used, sources), np.searchsorted(used, targets))


def relative_attention(weights_LL: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Attention that genes of a cell pay to all others, and are paid by them, ``(N, L)`` each, relative to their ranks.

    It is divided by the mean attention between genes of the same two classes of ranks in the same cell; what genes pay
    to themselves is no part of it, and set to zero.
    """
    n_tokens = len(weights_LL)
    n_classes = max(min(_CLASSES, n_tokens // _LEAST_IN_CLASS), 1)
    class_L = torch.arange(n_tokens, device=weights_LL.device) * n_classes // n_tokens
    weights_LL.fill_diagonal_(0)
    of_class_LC = torch.nn.functional.one_hot(class_L, n_classes).to(weights_LL.dtype)
    number_C = of_class_LC.sum(0)
    numbers_CC = (torch.outer(number_C, number_C) - torch.diag(number_C)).clamp(min=1)
    expected_CC = (of_class_LC.T @ (weights_LL @ of_class_LC) / numbers_CC).clamp(min=torch.finfo(torch.float32).tiny)
    paid_NL = weights_LL[places] / expected_CC[class_L[places]][:, class_L]
    received_NL = weights_LL[:, places].T / expected_CC.T[class_L[places]][:, class_L]
    return paid_NL, received_NL


def attended(plan: NetworkPlan, group: CellGroup, progress: Progress | None) -> PairMeans:
    """Attention between regulators and targets, relative to ranks, averaged over heads, layers and cells."""
    genes, model, direction = plan.genes, plan.model, plan.options.direction
    row_of, column_of = np.full((2, model.vocabulary.size), -1)
    row_of[genes.sources[:, 0]], column_of[genes.targets] = np.arange(len(genes.sources)), np.arange(len(genes.targets))
    is_gene = np.zeros(model.vocabulary.size, dtype=bool)
    is_gene[model.vocabulary.token_ids] = True
    sums = np.zeros((group.n_blocks, len(genes.sources), len(genes.targets)), dtype=np.float32)

    def add(number: int, ids: Ints, weights_HLL: Tensor) -> None:
        of_genes = np.flatnonzero(is_gene[ids])
        ids = ids[of_genes]
        mean_LL = weights_HLL.mean(0).float()
        mean_LL = mean_LL if len(ids) == len(mean_LL) else mean_LL[of_genes][:, of_genes]
        rows, columns = row_of[ids], column_of[ids]
        of_sources, of_targets = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
        paid_NL, received_NL = relative_attention(mean_LL, torch.from_numpy(of_sources).to(mean_LL.device))
        values_NL = {"from": paid_NL, "to": received_NL, "both": (paid_NL + received_NL) / 2}[direction]
        into = np.ix_(rows[of_sources], columns[of_targets])
        sums[group.blocks[number]][into] += values_NL.cpu().numpy()[:, of_targets]

    layers = range(1 - model.n_layers, 1)
    tokens = plan.cells.tokens.take(group.rows)
    visit_attention(tokens, model, plan.runtime, layers, add, progress)
    presence = presence_of(plan.cells, group.rows, model)
    counts = pair_counts(presence, genes.sources, genes.targets, group.blocks, group.n_blocks)
    return PairMeans(sums, counts)


def _perturbed(
    plan: NetworkPlan, group: CellGroup, saved: Saved | None, progress: Progress | None
) -> tuple[PairMeans, PairMeans | None]:
    """Effects of edits of single genes, and of pairs less the sum of both."""
    genes, options = plan.genes, plan.options
    sources = [*genes.sources, *(() if plan.pairs is None else plan.pairs.sources)]
    edits = edits_of(plan, group)
    sums = EffectSums.of(sources, genes.targets, group.n_blocks, plan.model.vocabulary.size)
    add_up(edits, group.blocks, sums, screened=options.deletions == "screen", saved=saved, progress=progress)
    presence = presence_of(plan.cells, group.rows, plan.model)
    found: list[PairMeans] = []
    for start, of in ((0, genes), (len(genes.sources), plan.pairs)):
        if of is not None:
            counts = pair_counts(presence, of.sources, of.targets, group.blocks, group.n_blocks)
            found.append(PairMeans(sums.sums[:, start : start + len(of.sources)], counts))
    return found[0], found[1] if len(found) > 1 else None


def edited_alone(plan: NetworkPlan, group: CellGroup) -> PairMeans:
    """Effects of edits of single genes."""
    return _perturbed(replace(plan, pairs=None), group, None, None)[0]


def edits_of(plan: NetworkPlan, group: CellGroup) -> PerturbationPlan:
    """The edits of a group of cells, for a plan or a run."""
    together = (
        [] if plan.pairs is None else list({tuple(sorted(one)): one for one in plan.pairs.sources.tolist()}.values())
    )
    sources = [*plan.genes.sources, *map(np.array, together)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeneformerWarning)  # pairs that no cell has
        return perturbation_plan(plan.cells.tokens.take(group.rows), plan.model, sources, plan.options, plan.runtime)


class NetworkCost(NamedTuple):
    """What the perturbations of a network will take, about; nothing without them."""

    passes: int = 0
    seconds: float = 0.0


def network_cost(plan: NetworkPlan) -> NetworkCost:
    """What the edits of all groups of cells will take; a few are run to measure that."""
    if PERTURBATION not in plan.options.method:
        return NetworkCost()
    passes, seconds = 0, 0.0
    for group in plan.groups:
        cost = estimate_cost(edits_of(plan, group))
        share = len(group.rows) * SCREEN_PASSES / max(cost.passes, 1) if plan.options.deletions == "screen" else 1.0
        passes += round(cost.passes * share)
        seconds += (cost.seconds or 0.0) * share
    return NetworkCost(passes, seconds)


_EVIDENCE: dict[str, Callable[[NetworkPlan, CellGroup, Progress | None], Evidence]] = {
    "correlation": _correlated,
    "boosting": _boosted,
    "embedding": _embedded,
    "attention": attended,
}
_READ_TOGETHER = ("attention", PERTURBATION, INTERACTION)
"""Methods that read both genes in the same cell."""
_SLOW = ("boosting",)
"""Methods that are not run again for every draw of cells."""
