"""Three classes of genes: probe of `mini`, and `mini` fine-tuned from it, cross-validated over genes, with baselines.

    python recipes/gene_tasks.py COUNTS_FOLDER GENE_LISTS_FOLDER -o docs/results

Finished rows are kept in `OUT/gene-tasks.json`, so that an interrupted study goes on where it was; rows of other
weights of the model are made again.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

import geneformer as gf
from cell_tasks import weights_of
from geneformer.options import FinetuneOptions, GeneClassifyOptions, RuntimeOptions

Classes = dict[str, list[str]]


def listed(folder: Path, *names: str) -> list[str]:
    """Symbols of one or several lists."""
    return sorted({line.strip() for name in names for line in (folder / name).read_text().splitlines() if line.strip()})


def essential(folder: Path) -> Classes:
    """Genes cells cannot do without, and genes they can."""
    return {
        "essential": listed(folder, "macarthur_CEGv2_subset_universe.tsv"),
        "not essential": listed(folder, "macarthur_NEGv1_subset_universe.tsv"),
    }


def factor_range(folder: Path) -> Classes:
    """Transcription factors that act over a long or a short range."""
    symbols = (folder / "tf_range_entities.csv").read_text().split()[1:]
    ranges = (folder / "tf_range_outcomes.csv").read_text().split()[1:]
    return {
        name.replace("_", " "): [
            symbol for symbol, known_range in zip(symbols, ranges, strict=True) if known_range == name
        ]
        for name in sorted(set(ranges))
    }


def dosage(folder: Path) -> Classes:
    """Genes of which one copy is not enough, and genes that can be lost: a stand-in for dosage sensitivity."""
    severities = [f"macarthur_haploinsufficiency_{name}_curated_2016.tsv" for name in ("mild", "moderate", "severe")]
    classes = {
        "haploinsufficient": listed(folder, *severities, "macarthur_clingen_level3_genes_2018_09_13.tsv"),
        "loss tolerated": listed(folder, "macarthur_homozygous_lof_tolerant_twohit.tsv"),
    }
    both = set(classes["haploinsufficient"]) & set(classes["loss tolerated"])
    return {name: [gene for gene in genes if gene not in both] for name, genes in classes.items()}


TASKS: dict[str, Callable[[Path], Classes]] = {
    "essential genes": essential,
    "transcription factor range": factor_range,
    "dosage sensitivity, stand-in": dosage,
}


FITS: dict[str, dict[str, Any]] = {
    "linear probe of mini": {"strategy": "probe"},
    "mini fine-tuned from the probe": {"strategy": "last_layer", "epochs": 1, "learning_rate": 1e-4},
}
"""How the model is fitted, by the name in the table; baselines come with the first."""


def run(name: str, counts: Path, lists: Path, seed: int, cells: int, baselines: str) -> dict[str, Any]:
    """Five folds over genes for one seed, of the model fitted in all ways."""
    adata = ad.read_h5ad(counts / "geact_fetal.h5ad")
    rows = np.random.default_rng(seed).choice(adata.n_obs, cells, replace=False)
    found: dict[str, Any] = {}
    for fit, options in FITS.items():
        classifier = gf.GeneClassifier(
            "mini",
            finetuning=FinetuneOptions(seed=seed, tokens_per_batch=2048, class_weights="balanced", **options),
            classify=GeneClassifyOptions(unknown_genes="drop", baselines="none" if found else baselines),
            runtime=RuntimeOptions(progress=False),
        )
        report = classifier.cross_validate(adata[np.sort(rows)].copy(), TASKS[name](lists), n_folds=5)
        found |= {fit: report.evaluation, **report.baselines}
    return {
        "task": name,
        "seed": seed,
        "model": weights_of("mini"),
        "n_genes": {kind: int((report.truth == code).sum()) for code, kind in enumerate(report.evaluation.classes)},
        "metrics": {key: value.to_dict()["metrics"] for key, value in found.items()},
    }


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=Path)
    parser.add_argument("lists", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--cells", type=int, default=80)
    parser.add_argument("--baselines", default="cheap")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    stored = arguments.output / "gene-tasks.json"
    runs = json.loads(stored.read_text()) if stored.is_file() else []
    runs = [entry for entry in runs if entry.get("model") == weights_of("mini")]
    done = {(entry["task"], entry["seed"]) for entry in runs}
    for seed in arguments.seeds:
        for name in TASKS:
            if (name, seed) in done:
                continue
            runs.append(run(name, arguments.counts, arguments.lists, seed, arguments.cells, arguments.baselines))
            stored.write_text(json.dumps(runs, indent=1) + "\n")
            print(
                name, seed, {key: round(m["roc_auc"]["mean"], 3) for key, m in runs[-1]["metrics"].items()}, flush=True
            )
    (arguments.output / "gene-tasks.md").write_text(table(runs, arguments.cells))


def table(runs: list[dict[str, Any]], cells: int) -> str:
    """Area under the ROC curve over genes: mean over the seeds, with their spread and widest interval."""
    names = list(dict.fromkeys(name for entry in runs for name in entry["metrics"]))
    lines = [
        "# `mini` on three classes of genes", "",
        "Area under the ROC curve, one point per gene, every gene held out once in five folds: mean and standard "
        "deviation over the seeds; in brackets the lowest and highest end of their 95% bootstrap intervals over genes. "
        f"{cells} fetal cells, drawn anew for every seed. The command, from the repository root:", "",
        "    python recipes/gene_tasks.py COUNTS_FOLDER GENE_LISTS_FOLDER -o docs/results", "",
        "| task | seeds | genes | " + " | ".join(names) + " |", "| --- " * (len(names) + 3) + "|",
    ]  # fmt: skip
    for task in TASKS:
        entries = [entry for entry in runs if entry["task"] == task]
        if not entries:
            continue
        cells_of = []
        for name in names:
            found = [entry["metrics"][name]["roc_auc"] for entry in entries if name in entry["metrics"]]
            means = np.array([entry["mean"] for entry in found])
            spread = means.std(ddof=1) if len(means) > 1 else 0.0
            low, high = min(entry["low"] for entry in found), max(entry["high"] for entry in found)
            cells_of.append(f"{means.mean():.3f} ± {spread:.3f} ({low:.3f} to {high:.3f})")
        sizes = ", ".join(f"{n} {kind}" for kind, n in entries[0]["n_genes"].items())
        lines.append(f"| {task} | {len(entries)} | {sizes} | " + " | ".join(cells_of) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
