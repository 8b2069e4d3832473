"""A classifier of genes on genes it did not learn from: fold by fold, beside its baselines."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.inference import Progress
from geneformer.models.loading import LoadedModel
from geneformer.models.token_heads import GeneformerForGenes
from geneformer.options import FinetuneOptions, RuntimeOptions
from geneformer.results.genes import FoldedEvaluation, GeneReport, TokenEvaluation
from geneformer.tasks.gene_baselines import classify_genes_by_baselines, tally_genes
from geneformer.tasks.gene_batches import cells_with
from geneformer.tasks.gene_features import GeneFeatures
from geneformer.tasks.gene_folds import GeneParts
from geneformer.tasks.gene_learning import learn_genes, predict_genes
from geneformer.tasks.gene_lists import GeneLabels
from geneformer.tasks.gene_metrics import evaluate_genes
from geneformer.vocab.vocabulary import Vocabulary

Ints = NDArray[np.int64]

MODEL = "model"

Bar = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar by its label."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """What was said about the genes held out in one fold.

    Attributes
    ----------
    rows
        Their rows among the labels, ``(n,)``.
    n_cells
        Cells each occurs in, ``(n,)``.
    proba
        Probability of each class by model or baseline, ``(n, C)``.
    occurrences
        Figures over single occurrences, by model or baseline.
    """

    rows: Ints
    n_cells: Ints
    proba: dict[str, NDArray[np.float64]]
    occurrences: dict[str, TokenEvaluation]


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Cells in which held-out genes are told, and the truth about them.

    Attributes
    ----------
    tokens
        Tokenized cells.
    labels
        Genes with classes; those of another set than is learnt from, where other cells are evaluated.
    max_length
        Tokens of a cell that are read.
    size
        Tokens of the vocabulary.
    """

    tokens: TokenizedDataset
    labels: GeneLabels
    max_length: int
    size: int


def tell_held_out(
    networks: dict[str, GeneformerForGenes], told: Told, rows: Ints, runtime: RuntimeOptions, bar: Bar
) -> HeldOut:
    """What networks say about genes they did not learn from.

    Parameters
    ----------
    networks
        Fine-tuned networks by name.
    told, rows
        Cells and labels, and which genes are told of.
    runtime
        Where and how they run.
    bar
        Opens progress bars.
    """
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
    """Add what baselines say about the same genes; each says the same in every cell.

    Parameters
    ----------
    held_out
        Extended in place.
    labels
        True classes.
    proba
        Probability of each class by baseline, ``(n, C)``.
    """
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
    """Learn and tell fold by fold; nothing of a held-out gene but its place in the cells is seen in its fold.

    Parameters
    ----------
    base
        Pretrained model; left as it is.
    told
        Cells and labels.
    folds
        Genes learnt from, chosen by and held out.
    variants
        How to learn: the model, and further networks to stand beside it, by name.
    runtime
        Where and how networks run.
    features
        What the baselines see; None for no baselines.
    bar
        Opens progress bars.
    """
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
    """The report on all folds, genes in the order of their token ids.

    Parameters
    ----------
    results
        What was said, by fold.
    labels, vocabulary
        True classes and names of the genes.
    settings
        How the model was made; anything JSON can hold.
    seed
        Seed of the resamples.
    """
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
