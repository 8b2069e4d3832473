"""What the embeddings of a checkpoint know about labels it never saw, beside random weights and PCA.

For every data set: accuracy of labels predicted by 15 nearest neighbors (dimensions as they are, and standardized) and
by a linear probe, on cells held out in turn; the same for untrained models of the same shape and for 50 principal
components of log-normalized variable genes. Writes JSON and prints Markdown.

    python benchmarks/embedding_quality.py --model mini --output benchmarks/results/embedding_quality.json \
        --data counts/pbmc4k_soupx.h5ad:cell_type --data counts/ctcl_skin.h5ad:disease:donor \
        --data counts/pbmc3k.h5ad:cell_type

`FILE:LABEL` splits single cells; `FILE:LABEL:GROUP` adds a split that holds out whole groups. `--depth 0.1` leaves
every cell a tenth of its molecules, `--panel 3000` as many genes, drawn with the seed.
"""

import argparse
import json
import platform
import shlex
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc

from geneformer.errors import GeneformerWarning
from geneformer.files.manifest import installed_versions
from geneformer.finetuning.baselines import pca_embedding
from geneformer.finetuning.labels import is_labeled
from geneformer.inference.cells import tokens_for
from geneformer.inference.embedding import embed
from geneformer.inference.quality import EmbeddingQuality, embedding_quality, save_random_weights
from geneformer.models.hub import find_folder
from geneformer.models.loading import load_model
from geneformer.options import EmbedOptions, RuntimeOptions

COLUMNS = ("nearest neighbors", "nearest neighbors, standardized", "linear probe")


@dataclass(frozen=True)
class Compared:
    """One embedding."""

    name: str
    as_given: EmbeddingQuality
    standardized: EmbeddingQuality

    def cells(self) -> tuple[str, str, str]:
        """The accuracies in the order of `COLUMNS`, with 95% intervals."""
        return str(self.as_given.knn), str(self.standardized.knn), str(self.as_given.probe)


def compare(embeddings, labels, **options) -> list[Compared]:
    """Every embedding under the same splits."""
    return [
        Compared(name, *(embedding_quality(values, labels, standardize=each, **options) for each in (False, True)))
        for name, values in embeddings.items()
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="name or checkpoint folder; mini by default, may be repeated")
    parser.add_argument("--depth", type=float, default=1.0, help="share of each cell's molecules that is left")
    parser.add_argument("--panel", type=int, help="genes that are left")
    parser.add_argument("--data", action="append", required=True, metavar="FILE:LABEL[:GROUP]")
    parser.add_argument("--layer", action="append", type=int, help="layers to read; -1 by default, may be repeated")
    parser.add_argument("--metric", default="cosine", choices=("cosine", "euclidean"))
    parser.add_argument("--neighbors", type=int, default=15)
    parser.add_argument("--folds", type=int, default=5, help="folds of single cells; groups are held out one by one")
    parser.add_argument("--seed", type=int, default=0, help="of the splits")
    parser.add_argument("--random-seeds", type=int, nargs="*", default=[0, 1, 2], help="untrained models")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    arguments.model = arguments.model or ["mini"]
    return arguments


def reduced(adata, arguments):
    """The cells with a part of their molecules, on a part of the genes."""
    if arguments.panel:
        drawn = np.random.default_rng(arguments.seed).choice(adata.n_vars, arguments.panel, replace=False)
        adata = adata[:, np.sort(drawn)].copy()
    if arguments.depth < 1:
        left = (adata.X.sum(axis=1).A1 * arguments.depth).astype(int)
        adata.X = adata.X.astype(np.float32)
        sc.pp.downsample_counts(adata, counts_per_cell=left, random_state=arguments.seed)
    return adata[adata.X.getnnz(axis=1) > 0].copy()


def embeddings_of(adata, model, layers, runtime):
    """Cell embeddings per layer; every cell must have one."""
    loaded = load_model(model)
    tokens, rows = tokens_for(adata, loaded, counts_layer=None, gene_ids=None)
    if len(rows) != adata.n_obs:
        sys.exit(f"{adata.n_obs - len(rows)} cells have no gene of the vocabulary")
    return {layer: embed(tokens, loaded, EmbedOptions(layer=layer), runtime).values for layer in layers}


def embed_all(adata, arguments):
    """Every embedding to compare, by name."""
    layers = arguments.layer or [-1]
    runtime = RuntimeOptions(device=arguments.device, dtype=arguments.dtype, progress=False)
    found = {
        f"{Path(model).name}, layer {layer}": values
        for model in arguments.model
        for layer, values in embeddings_of(adata, model, layers, runtime).items()
    }
    for seed in arguments.random_seeds:
        with tempfile.TemporaryDirectory() as place:
            untrained = save_random_weights(arguments.model[0], Path(place) / "random", seed=seed)
            for layer, values in embeddings_of(adata, untrained, layers, runtime).items():
                found[f"random weights {seed}, layer {layer}"] = values
    found["PCA(50)"] = pca_embedding(adata.X, seed=arguments.seed)
    return found


def evaluate(described, arguments):
    """Comparisons of one data set, by how it was split."""
    path, label, *group = described.split(":")
    adata = ad.read_h5ad(path)
    adata = adata[is_labeled(adata.obs[label])].copy()
    adata.obs = adata.obs[[label, *group]]
    adata = reduced(adata, arguments)
    started = time.perf_counter()
    embeddings = embed_all(adata, arguments)
    labels = adata.obs[label].astype(str).to_numpy()
    options = {"n_neighbors": arguments.neighbors, "metric": arguments.metric, "seed": arguments.seed}
    splits = {"cells": compare(embeddings, labels, folds=arguments.folds, **options)}
    if group:
        groups = adata.obs[group[0]].astype(str).to_numpy()
        splits[group[0]] = compare(embeddings, labels, groups=groups, folds=len(np.unique(groups)), **options)
    print(f"{Path(path).stem}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return {
        "data": Path(path).stem,
        "label": label,
        "n_cells": adata.n_obs,
        "splits": {name: [asdict(row) for row in rows] for name, rows in splits.items()},
    }, splits


def mean_of_random(rows: list[Compared]) -> list[tuple[str, tuple[str, ...]]]:
    """Lines of the table, with the untrained models of one layer as mean and range over seeds."""
    lines, untrained = [], {}
    for row in rows:
        if row.name.startswith("random weights"):
            layer = row.name.split(", ")[1]
            untrained.setdefault(layer, []).append(
                (row.as_given.knn.mean, row.standardized.knn.mean, row.as_given.probe.mean)
            )
        else:
            lines.append((row.name, row.cells()))
    for layer, figures in untrained.items():
        told = tuple(
            f"{np.mean(column):.3f} ({min(column):.3f}-{max(column):.3f})" for column in zip(*figures, strict=True)
        )
        lines.append((f"random weights, {layer}, {len(figures)} seeds: mean and range", told))
    guess = f"{rows[0].as_given.commonest:.3f}"
    return [*lines, ("commonest label", (guess,) * len(COLUMNS))]


def table(name: str, split: str, rows: list[Compared]) -> str:
    first = rows[0].as_given
    head = (
        f"**{name}**, {first.n_cells:,} cells, {first.n_classes} labels; held out: {split}, {first.folds} folds; "
        f"{first.n_neighbors} neighbors, {first.metric} distance; 95% intervals"
    )
    lines = [f"| embedding | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS)]
    lines += [f"| {label} | {' | '.join(cells)} |" for label, cells in mean_of_random(rows)]
    return "\n".join([head, "", *lines, ""])


def masked_genes(model: str) -> dict[str, float]:
    """Masked-gene accuracy on held-out cells and its baseline, as pretraining measured them."""
    path = find_folder(model) / "pretraining.json"
    return json.loads(path.read_text()).get("metrics", {}) if path.is_file() else {}


def main() -> None:
    warnings.simplefilter("ignore", GeneformerWarning)
    arguments = parse_arguments()
    measured, tables = [], []
    for described in arguments.data:
        entry, splits = evaluate(described, arguments)
        measured.append(entry)
        tables += [table(f"{entry['data']}, {entry['label']}", split, rows) for split, rows in splits.items()]
    metrics = masked_genes(arguments.model[0])
    if {"eval_top1", "eval_top10", "baseline_top1", "baseline_top10"} <= metrics.keys():
        tables.append(
            "Masked genes of held-out cells found at the first guess: "
            f"{metrics['eval_top1']:.3f} (baseline {metrics['baseline_top1']:.3f}); "
            f"among the first ten: {metrics['eval_top10']:.3f} (baseline {metrics['baseline_top10']:.3f}).\n"
        )
    print("\n".join(tables))
    if arguments.output:
        content = {
            "command": shlex.join(["python", *sys.argv]),
            "model": ", ".join(arguments.model),
            "versions": installed_versions(),
            "platform": f"{platform.system()} {platform.machine()}",
            "masked_genes": metrics,
            "data": measured,
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
