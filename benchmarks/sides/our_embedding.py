"""This package's embeddings, and the rate at which this machine multiplies matrices, measured in between."""

import argparse
import time

import numpy as np
import pyarrow as pa

from geneformer.inference.embedding import embed
from geneformer.models.loading import load_model
from geneformer.options import EmbedOptions, RuntimeOptions
from geneformer.tokens.dataset import TokenizedDataset
from measuring import reply
from operations import MatrixProductRate, encoder_operations

PASSES = 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("tokens")
    parser.add_argument("output")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens-per-batch", type=int, default=None)
    parser.add_argument("--rate", action="store_true", help="measure the rate of matrix products in between")
    parser.add_argument("--profile", default=None, help="file for a table of where the time goes")
    arguments = parser.parse_args()
    model = load_model(arguments.checkpoint, vocabulary="V1")
    stored = np.load(arguments.tokens)
    ids = pa.ListArray.from_arrays(stored["starts"].astype(np.int32), stored["ids"])
    dataset = TokenizedDataset(pa.table({"input_ids": ids}), vocabulary=model.vocabulary.fingerprint)
    runtime = RuntimeOptions(
        device="cpu", dtype=arguments.dtype, tokens_per_batch=arguments.tokens_per_batch, progress=False
    )
    embed(dataset.take([0, 1]), model, EmbedOptions(), runtime)
    operations = encoder_operations(model.network.config, dataset.lengths, model.n_layers - 1)
    if arguments.profile:
        _profile(arguments.profile, lambda: embed(dataset, model, EmbedOptions(), runtime))
    rate = MatrixProductRate() if arguments.rate else None
    seconds = []
    for _ in range(PASSES if rate else 1):
        if rate:
            rate.measure()
        started = time.perf_counter()
        result = embed(dataset, model, EmbedOptions(), runtime)
        seconds.append(time.perf_counter() - started)
    if rate:
        rate.measure()
    np.save(arguments.output, result.values)
    best = min(seconds)
    told = {"seconds": seconds[0], "cells": len(dataset), "cells_per_second": len(dataset) / seconds[0]}
    if rate:
        told |= {"product_rate": rate.best, "reached_rate": operations / best, "share": operations / best / rate.best}
    reply(operations=operations, **told)


def _profile(path: str, run) -> None:
    from pathlib import Path

    from torch.profiler import profile

    with profile() as profiler:
        run()
    table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=44)
    Path(path).write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
