"""This package's training of the same classifier: its loop from end to end, given the same cells in every batch."""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from training_steps import LARGEST_NORM, WEIGHT_DECAY, dropout_entries, settings
from transformers import TrainerCallback

from geneformer.engine.training import EpochSampler, Key
from geneformer.finetuning.training import Batches, cell_batches, finetune, score_cells
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.heads import GeneformerForCells, HeadSpec
from geneformer.models.loading import read_config, read_weights
from geneformer.options import FinetuneOptions, RuntimeOptions
from geneformer.tokens.dataset import TokenizedDataset
from measuring import reply

NAMES = {"bert.pooler.dense.": "pool.dense.", "classifier.": "heads.0."}
"""Where a published classifier keeps what lies above the encoder, and where this package does."""


class GivenBatches:
    """Batches decided beforehand, in the order decided: to the sampler each of them is a single row.

    Parameters
    ----------
    cells
        Makes a batch of cells.
    size
        Cells of each batch, one batch after the other.
    seed
        Seed of the sampler.
    """

    def __init__(self, cells: Batches, size: int, seed: int) -> None:
        self.cells = cells
        self.rows = [np.arange(start, start + size) for start in range(0, len(cells.rows), size)]
        self.lengths = np.array([cells.lengths[rows].sum() for rows in self.rows], dtype=np.int64)
        order = [row for [(_, row)] in EpochSampler(self.lengths, 1, seed)]
        self.turns = {row: turn for turn, row in enumerate(order)}

    def __call__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The batch as tensors."""
        [(epoch, row)] = keys
        return self.cells([(epoch, int(cell)) for cell in self.rows[self.turns[row]]])


class Clock(TrainerCallback):
    """When each step ended, in seconds on the wall and of the processors."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))


def main() -> None:
    parser = settings(argparse.ArgumentParser())
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--profile", type=Path, default=None, help="file for a table of where the time goes")
    arguments = parser.parse_args()
    stored = np.load(arguments.batch)
    labels, lengths, size = stored["labels"], np.diff(stored["starts"]), int(stored["cells_per_batch"])
    spec = HeadSpec(name="quarter", classes=tuple(map(str, np.unique(labels))))
    network = classifier(Path(arguments.checkpoint), spec, dropout_entries(arguments))
    ids = pa.ListArray.from_arrays(stored["starts"].astype(np.int32), stored["ids"])
    dataset = TokenizedDataset(pa.table({"input_ids": ids}))
    options = FinetuneOptions(
        pooling="pooler",
        max_steps=arguments.steps + 1,
        tokens_per_batch=1,  # one row of `GivenBatches`
        learning_rate=arguments.learning_rate,
        schedule="constant_with_warmup",
        warmup_ratio=0.0,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=LARGEST_NORM,
        logging_steps=1,
    )
    positions = network.config.max_position_embeddings
    cells = cell_batches(dataset, np.arange(len(dataset)), {spec.name: labels}, positions)
    clock = Clock()

    def run() -> list[dict[str, Any]]:
        batches = GivenBatches(cells, size, options.seed)
        runtime = RuntimeOptions(device="cpu", dtype=arguments.dtype, progress=False)
        return finetune(
            network,
            batches,
            SimpleNamespace(lengths=()),
            options,
            runtime,
            score=partial(score_cells, [spec]),
            callbacks=[clock],
        ).history

    history = profiled(run, arguments.profile) if arguments.profile else run()
    seconds, worked = (np.subtract(clock.ends[-1], clock.ends[0]) / arguments.steps).tolist()
    tokens = int(lengths[size:].sum())
    losses = [line["supervised_loss"] for line in history if "supervised_loss" in line]
    speed = tokens / arguments.steps / seconds
    reply(
        seconds=seconds,
        processor_seconds=worked,
        tokens_per_second=speed,
        first_loss=losses[0],
        losses=losses,
        tokens=tokens,
    )


def classifier(folder: Path, spec: HeadSpec, entries: dict[str, float]) -> GeneformerForCells:
    """The network of a published classifier, with its weights."""
    config = read_config(folder)
    config.geneformer_heads = [spec.to_dict()]
    config.geneformer_pooling = "pooler"
    config.geneformer_special_ids = [int(i) for i in Vocabulary.load("V1").special_ids]
    for name, value in entries.items():
        setattr(config, name, value)
    network = GeneformerForCells(config)
    weights = read_weights(folder)
    for theirs, ours in NAMES.items():
        weights = {name.replace(theirs, ours): weight for name, weight in weights.items()}
    network.load_state_dict(weights)
    return network


def profiled(run: Any, path: Path) -> Any:
    """Run under the profiler and write a table of where the time went."""
    from torch.profiler import profile

    with profile() as profiler:
        result = run()
    table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=24, max_name_column_width=44)
    path.write_text(table, encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
