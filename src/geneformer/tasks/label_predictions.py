"""What a classifier of the published form says about labeled cells, or about the labeled genes in them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.inference import Batch, run_batches
from geneformer.models.bert_classifiers import BertClassifier
from geneformer.models.losses import MISSING
from geneformer.options import RuntimeOptions
from geneformer.tasks.argument_training import check_fit
from geneformer.tasks.label_batches import Kind, LabelBatches


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Predictions beside the truth.

    Attributes
    ----------
    logits
        Scores, ``(n, C)``; in the order of the cells, and for genes of the tokens within them.
    truth
        Classes, ``(n,)``.
    rows
        Cell of each, ``(n,)``.
    """

    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    rows: NDArray[np.int64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Class of the highest score, the first of equal ones, ``(n,)``."""
        found: NDArray[np.int64] = self.logits.argmax(axis=1).astype(np.int64)
        return found


def tell(network: BertClassifier, cells: TokenizedDataset, kind: Kind, runtime: RuntimeOptions) -> Told:
    """Scores of every labeled cell or labeled token; none is left out.

    Parameters
    ----------
    network
        Fine-tuned network.
    cells
        Tokenized cells with their labels.
    kind
        Whether cells or genes have classes.
    runtime
        Where and how it runs.

    Raises
    ------
    PairingError
        Cells that the network cannot read, or without labels.
    """
    config = network.config
    check_fit(cells, int(config.vocab_size), int(config.max_position_embeddings))
    labels = LabelBatches(cells, kind)
    found: dict[int, tuple[NDArray[np.float32], NDArray[np.int64]]] = {}
    network.train(False)

    def step(batch: Batch) -> None:
        logits = network(batch.input_ids, batch.cu_seqlens, attention=batch.attention).logits.float().cpu().numpy()
        truth = labels.labels(batch.rows)
        sizes = np.ones(len(batch.rows), np.int64) if kind == "cell" else cells.lengths[batch.rows]
        ends = np.cumsum(sizes)[:-1]
        parts = zip(batch.rows.tolist(), np.split(logits, ends), np.split(truth, ends), strict=True)
        for row, scores, codes in parts:
            known = codes != MISSING
            found[row] = scores[known], codes[known]

    run_batches(cells, network, step, runtime)
    order = range(len(cells))
    n_classes = network.classifier.out_features
    return Told(
        logits=np.concatenate([np.empty((0, n_classes), np.float32), *(found[row][0] for row in order)]),
        truth=np.concatenate([np.empty(0, np.int64), *(found[row][1] for row in order)]),
        rows=np.repeat(np.arange(len(cells)), [len(found[row][1]) for row in order]),
    )
