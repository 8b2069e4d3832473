"""Masked gene prediction on held-out cells, beside the guess of the genes commonest at that rank.

The held-out cells are those of the recipe: whole data sets, and a share of every other. Figures are given for both.

    python benchmarks/masked_genes.py counts/ --config recipes/mini.toml --model mini \
        --output benchmarks/results/masked_genes.json
"""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from geneformer.models.loading import load_model
from geneformer.options import PretrainOptions, RuntimeOptions
from geneformer.options._fields import read_options
from geneformer.pretraining.corpus import open_corpus
from geneformer.pretraining.run import MaskedBatches, RankBaseline, split_cells
from geneformer.tokens.dataset import plan_batches


def score(network, batches: MaskedBatches, baseline: RankBaseline) -> dict[str, float]:
    """Loss and accuracies of the model, and accuracies of the baseline under the same masks."""
    sums, guessed = np.zeros(4), np.zeros(3)
    with torch.inference_mode():
        for rows in plan_batches(batches.lengths, 8192):
            keys = [(0, int(row)) for row in rows]
            found = network(**batches(keys))
            n_masked = int(found.n_masked)
            sums += [n_masked, float(found.masked_loss) * n_masked, int(found.n_top1), int(found.n_top10)]
            guessed += baseline.hits(batches.masked(keys))
    return {
        "cells": len(batches.rows),
        "masked_genes": int(sums[0]),
        "loss": sums[1] / sums[0],
        "top1": sums[2] / sums[0],
        "top10": sums[3] / sums[0],
        "baseline_top1": guessed[1] / guessed[0],
        "baseline_top10": guessed[2] / guessed[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--cells", type=int, default=1000, help="held-out cells of each kind, drawn with the seed")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    options = PretrainOptions(**read_options(arguments.config, PretrainOptions)[PretrainOptions])
    loaded = load_model(arguments.model)
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        dataset, vocabulary = open_corpus(arguments.data, Path(folder), options, RuntimeOptions(progress=False))
        train, held = split_cells(dataset, options.held_out, options.hold_out_sources, options.seed)
        baseline = RankBaseline.fit(
            dataset, train, loaded.max_length, seed=options.seed, special_ids=vocabulary.special_ids
        )
        whole = np.isin(dataset.column("source").astype(str)[held], options.hold_out_sources)
        figures = {}
        for kind, rows in (("whole data sets held out", held[whole]), ("cells held out of the others", held[~whole])):
            drawn = np.sort(rng.permutation(rows)[: arguments.cells])
            batches = MaskedBatches(dataset, drawn, vocabulary, loaded.max_length, options, views=False)
            figures[kind] = {"held_out": len(rows), **score(loaded.network, batches, baseline)}
    command = shlex.join(["python", *sys.argv])
    content = {"command": command, "n_train": len(train), "n_held_out": len(held), "figures": figures}
    arguments.output.write_text(json.dumps(content, indent=1) + "\n")
    print("| held-out cells | loss | top 1 | top 10 | baseline top 1 | baseline top 10 |\n|---|---|---|---|---|---|")
    for kind, found in figures.items():
        values = " | ".join(f"{found[k]:.4f}" for k in ("loss", "top1", "top10", "baseline_top1", "baseline_top10"))
        print(f"| {kind} ({found['cells']:,} of {found['held_out']:,}) | {values} |")


if __name__ == "__main__":
    main()
