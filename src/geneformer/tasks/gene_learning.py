"""Learning the classes of genes from the cells they occur in, and telling the classes of others."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.engine.training import Scored
from geneformer.errors import OptionError
from geneformer.models.finetuned import build_network
from geneformer.models.loading import LoadedModel
from geneformer.models.losses import MISSING
from geneformer.models.token_heads import GeneformerForGenes
from geneformer.options import FinetuneOptions, RuntimeOptions
from geneformer.tasks.calibration import softmax
from geneformer.tasks.class_figures import confusion, mean_defined, shares
from geneformer.tasks.finetuning import FinetuneResult, finetune
from geneformer.tasks.gene_batches import GeneBatches, cells_with, count_cells
from geneformer.tasks.gene_folds import GeneParts
from geneformer.tasks.gene_lists import GeneLabels
from geneformer.tasks.gene_tokens import TokenTally

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


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
    """Fine-tune an encoder to tell classes of genes apart wherever they occur.

    Every occurrence of a training gene counts once in the loss; all other genes are context without a label. Cells
    without a training gene are passed over. The weights kept are those under which the validation genes, each by its
    probability averaged over cells, are likeliest.

    Parameters
    ----------
    base
        Pretrained model; left as it is.
    tokens
        Tokenized cells.
    labels, parts
        Genes with classes, and which of them are learnt from and chosen by.
    options, runtime
        How to learn, and where.
    output, resume, callbacks, progress
        See `finetune`.

    Returns
    -------
    The network, in evaluation mode on the CPU, and what the run came to.

    Raises
    ------
    OptionError
        A contrastive term, which is about cells.
    """
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
    """Metrics of validation batches: the loss of occurrences, and log-likelihood, accuracy and macro-F1 of genes.

    A gene counts once, by its probability averaged over cells.

    Parameters
    ----------
    n_classes
        Classes, C.
    size
        Tokens of the vocabulary, V.
    """

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
    """What a network says about the genes of some cells.

    Attributes
    ----------
    proba
        Probability of each class by token id, averaged over its cells, NaN where it occurs in none, ``(V, C)``.
    n_cells
        Cells each mean is taken over, ``(V,)``.
    occurrences
        Figures over single occurrences of the genes whose class is known.
    """

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
    """Probabilities of every token of the vocabulary, as running sums: memory does not grow with the cells.

    Parameters
    ----------
    network
        Fine-tuned network.
    tokens
        Tokenized cells of its vocabulary.
    runtime
        Where and how it runs.
    size
        Tokens of the vocabulary, V.
    max_length
        Tokens of a cell that are read.
    truth_of
        True class by token id, `losses.MISSING` for unknown ones, ``(V,)``.
    progress
        Called with the cells done and in all.
    """
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
