"""What the contrastive term changes: cells and themselves with genes deleted, and the accuracy it buys.

python recipes/contrastive_views.py COUNTS_FOLDER -o docs/results
"""

import argparse
import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pyarrow as pa
from matplotlib import pyplot

import geneformer as gf
from geneformer import keys
from geneformer.inference.quality import embedding_quality
from geneformer.tokens.dataset import TokenizedDataset, delete_genes

VARIANTS = {
    "pretrained": None,
    "labels": {"supervised_weight": 1.0, "contrastive_weight": 0.0},
    "views": {"supervised_weight": 0.0, "contrastive_weight": 1.0},
    "labels and views": {"supervised_weight": 1.0, "contrastive_weight": 0.5},
}
"""What each network learnt from."""


def views_of(tokens: TokenizedDataset, special: np.ndarray, seed: int, share: float = 0.15) -> TokenizedDataset:
    """Every cell with a share of its genes deleted."""
    packed = delete_genes(tokens.gather(np.arange(len(tokens))), special, np.random.default_rng(seed), share=share)
    lists = pa.LargeListArray.from_arrays(pa.array(packed.cu_seqlens), pa.array(packed.input_ids))
    return TokenizedDataset(pa.table({keys.INPUT_IDS: lists}), vocabulary=tokens.vocabulary)


def similarity(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Cosine of each cell to its view, to the views of the others, and how often its own view is the nearest.

    Cells have most of their genes in common; without the common part the rest is seen.
    """
    center = np.concatenate([first, second]).mean(0)
    units = [(part - center) / np.linalg.norm(part - center, axis=1, keepdims=True) for part in (first, second)]
    cosine = units[0] @ units[1].T
    own = np.diag(cosine)
    others = cosine[~np.eye(len(cosine), dtype=bool)]
    return own, others, float((cosine.argmax(1) == np.arange(len(cosine))).mean())


def study(folder: Path, seed: int, model: str, epochs: float) -> dict[str, Any]:
    """All variants for one seed."""
    cells = ad.read_h5ad(folder / "pbmc3k.h5ad")
    kinds = cells.obs["cell_type"].astype(str)
    cells = cells[~kinds.isin(["unassigned", "Megakaryocytes"]).to_numpy()].copy()
    rows = np.random.default_rng(seed).permutation(cells.n_obs)
    train, test = cells[np.sort(rows[:1000])].copy(), cells[np.sort(rows[1000:1600])].copy()
    labels = test.obs["cell_type"].astype(str).to_numpy()
    found: dict[str, Any] = {"seed": seed}
    for name, weights in VARIANTS.items():
        learning = {"learning_rate": 1e-3} | (weights or {"max_steps": 1, "learning_rate": 1e-12})
        classifier = gf.CellClassifier(
            model, seed=seed, epochs=epochs, max_length=256, test=0.0, tokens_per_batch=4096, baselines="none",
            progress=False, **learning,
        ).fit(train, "cell_type")  # fmt: skip
        opened = classifier.open(test)
        views = views_of(opened.tokens, classifier.base().vocabulary.special_ids, seed)
        first, second = classifier.embed(opened.tokens), classifier.embed(views)
        own, others, found_again = similarity(first, second)
        quality = embedding_quality(first, labels, seed=seed)
        found[name] = {
            "own_view": float(own.mean()),
            "other_views": float(others.mean()),
            "others_spread": float(others.std()),
            "found_again": found_again,
            "neighbors": quality.knn.mean,
            "probe": quality.probe.mean,
            "accuracy": None if name in ("pretrained", "views") else float((classifier.predict(test) == labels).mean()),
        }
        print(seed, name, found[name])
    return found


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Similarity of views and accuracy, by what was learnt from."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    names = list(VARIANTS)
    places = np.arange(len(names))
    for axis, metrics in ((left, ("own_view", "found_again")), (right, ("neighbors", "probe", "accuracy"))):
        for number, metric in enumerate(metrics):
            values = np.array([[run[name][metric] if run[name][metric] is not None else np.nan for name in names]
                               for run in runs], dtype=float)  # fmt: skip
            spread = values.std(0, ddof=1) if len(values) > 1 else 0 * values[0]
            axis.errorbar(
                places + 0.12 * number, values.mean(0), spread, fmt="o", capsize=3, label=metric.replace("_", " ")
            )
        axis.set_xticks(places, names, rotation=20)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    left.set_title("A cell and itself with 15% of its genes deleted")
    left.set_ylabel("cosine; share found again")
    right.set_title("Cell types of held-out cells")
    right.set_ylabel("accuracy")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the seeds, write JSON, table and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    runs = [study(arguments.counts, seed, arguments.model, arguments.epochs) for seed in arguments.seeds]
    (arguments.output / "contrastive-views.json").write_text(json.dumps(runs, indent=1) + "\n")
    draw(runs, arguments.output / "contrastive-views.png")
    columns = ("own_view", "other_views", "found_again", "neighbors", "probe", "accuracy")
    lines = [
        "# What the contrastive term changes", "",
        "`python recipes/contrastive_views.py COUNTS_FOLDER -o docs/results`: PBMC3k, 1,000 cells to learn from, 600 "
        "held out; mean and standard deviation over the seeds. Own view: cosine of a cell and itself with 15% of its "
        "genes deleted, after the mean cell was subtracted; found again: how often the own view is the nearest of all "
        "600.", "",
        "| learnt from | " + " | ".join(c.replace("_", " ") for c in columns) + " |",
        "| --- " * (len(columns) + 1) + "|",
    ]  # fmt: skip
    for name in VARIANTS:
        entries = []
        for column in columns:
            values = [run[name][column] for run in runs]
            entry = (
                ""
                if values[0] is None
                else f"{np.mean(values):.3f} ± {np.std(values, ddof=min(1, len(values) - 1)):.3f}"
            )
            entries.append(entry)
        lines.append(f"| {name} | " + " | ".join(entries) + " |")
    lines += ["", "![Views and accuracy](contrastive-views.png)", ""]
    (arguments.output / "contrastive-views.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
