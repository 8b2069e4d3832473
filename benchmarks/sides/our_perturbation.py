"""This package's deletions of the genes of a cell, and the rate at which this machine multiplies matrices.

The time holds everything from the tokens of the cell to the table of effects: checks and targets, the pass over the
unedited cell, the first layer that all deletions share.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from geneformer.models.loading import load_model
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.perturbation.exact import PerturbedModel
from geneformer.perturbation.plan import plan_perturbation
from geneformer.perturbation.run import run_plan
from geneformer.tokens.dataset import TokenizedDataset
from measuring import reply
from operations import MatrixProductRate, encoder_operations

PASSES = 2
OPTIONS = PerturbOptions(genes=("all",), edit="delete", pooling="mean", layer=-1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("cell")
    parser.add_argument("output")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rate", action="store_true", help="measure the rate of matrix products in between")
    arguments = parser.parse_args()
    model = PerturbedModel.pretrained(load_model(arguments.checkpoint, vocabulary="V1"))
    runtime = RuntimeOptions(device="cpu", dtype=arguments.dtype, progress=False)
    stored = np.load(arguments.cell)
    cell, places = stored["cell"], stored["places"]
    perturb(model, cell[:32], np.arange(32), runtime)
    rate = MatrixProductRate() if arguments.rate else None
    seconds, processor_seconds = [], []
    for _ in range(PASSES if rate else 1):
        if rate:
            rate.measure()
        started, worked = time.perf_counter(), time.process_time()
        similarities = perturb(model, cell, places, runtime)
        seconds.append(time.perf_counter() - started)
        processor_seconds.append(time.process_time() - worked)
    told: dict[str, Any] = {"seconds": seconds[0], "processor_seconds": processor_seconds[0], "deletions": len(places)}
    told["deletions_per_second"] = len(places) / seconds[0]
    n_layers = model.n_layers + OPTIONS.layer
    needed = encoder_operations(model.encoder.config, [len(cell) - 1] * len(places) + [len(cell)], n_layers)
    avoided = avoided_operations(model.encoder.config.hidden_size, len(cell), places)
    told |= {"operations": needed, "avoided": avoided / needed}
    if rate:
        rate.measure()
        reached = needed / min(seconds)
        told |= {"product_rate": rate.best, "reached_rate": reached, "share": reached / rate.best}
    np.save(arguments.output, similarities)
    reply(**told)


def perturb(model: PerturbedModel, cell: np.ndarray, places: np.ndarray, runtime: RuntimeOptions) -> np.ndarray:
    """Similarity of the cell without each of some genes, in their order."""
    rows = pa.ListArray.from_arrays(np.array([0, len(cell)], np.int32), cell.astype(np.int32))
    table = pa.table({"input_ids": rows, "cell_id": ["cell"]})
    tokens = TokenizedDataset(table, vocabulary=model.vocabulary.fingerprint)
    plan = plan_perturbation(tokens, model, OPTIONS, runtime)
    plan = replace(plan, targets=replace(plan.targets, every=np.sort(cell[places])))
    return run_plan(plan).effects["value"].to_numpy()


def avoided_operations(hidden: int, length: int, places: np.ndarray) -> float:
    """Operations of plain passes that are not needed because deletions of one cell share their first layer.

    Of that layer every deletion is spared queries, keys, values, scores and context. In return they are made once for
    all tokens at two positions: the three projections; scores for the largest of them; scores and context of one set of
    keys to begin with, and of every key up to the last deleted one twice to go on from there.
    """
    rest = length - 1
    spared = len(places) * (2 * 3 * rest * hidden**2 + 2 * 2 * rest**2 * hidden)
    queries, keys_walked = 2 * length, length + 2 * int(places.max())
    shared = 2 * 3 * queries * hidden**2 + 2 * queries**2 * hidden + 2 * 2 * queries * keys_walked * hidden
    return float(spared - shared)


if __name__ == "__main__":
    main()
