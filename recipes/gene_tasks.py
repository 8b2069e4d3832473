"""Three classes of genes, each with three seeds: fine-tuned `mini`, cross-validated over genes, with its baselines.

    python recipes/gene_tasks.py COUNTS_FOLDER GENE_LISTS_FOLDER -o docs/results

Finished runs are kept in `OUT/gene-tasks.json`, so that an interrupted study goes on where it was.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

import geneformer as gf
from geneformer.options import FinetuneOptions, GeneClassifyOptions, RuntimeOptions
from geneformer.options._fields import read_options

HERE = Path(__file__).resolve().parent
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


def run(
    name: str, counts: Path, lists: Path, seed: int, options: FinetuneOptions, cells: int, baselines: str
) -> dict[str, Any]:
    """Five folds over genes for one seed."""
    adata = ad.read_h5ad(counts / "geact_fetal.h5ad")
    rows = np.random.default_rng(seed).choice(adata.n_obs, cells, replace=False)
    classifier = gf.GeneClassifier(
        "mini",
        finetuning=replace(options, seed=seed),
        classify=GeneClassifyOptions(unknown_genes="drop", baselines=baselines),
        runtime=RuntimeOptions(progress=False),
    )
    report = classifier.cross_validate(adata[np.sort(rows)].copy(), TASKS[name](lists), n_folds=5)
    found = {"fine-tuned mini": report.evaluation, **report.baselines}
    return {
        "task": name,
        "seed": seed,
        "n_genes": {kind: int((report.truth == code).sum()) for code, kind in enumerate(report.evaluation.classes)},
        "metrics": {key: value.to_dict()["metrics"] for key, value in found.items()},
        "folds": [fold.metrics["roc_auc"].mean for fold in report.by_fold().values()],
    }


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=Path)
    parser.add_argument("lists", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=80)
    parser.add_argument("--baselines", default="all")
    arguments = parser.parse_args()
    options = FinetuneOptions(**read_options(HERE / "genes.toml", FinetuneOptions)[FinetuneOptions])
    arguments.output.mkdir(parents=True, exist_ok=True)
    stored = arguments.output / "gene-tasks.json"
    runs = json.loads(stored.read_text()) if stored.is_file() else []
    done = {(entry["task"], entry["seed"]) for entry in runs}
    for seed in arguments.seeds:
        for name in TASKS:
            if (name, seed) in done:
                continue
            runs.append(
                run(name, arguments.counts, arguments.lists, seed, options, arguments.cells, arguments.baselines)
            )
            stored.write_text(json.dumps(runs, indent=1) + "\n")
            print(name, seed, {key: round(m["roc_auc"]["mean"], 3) for key, m in runs[-1]["metrics"].items()})
    (arguments.output / "gene-tasks.md").write_text(table(runs, arguments.cells))


def table(runs: list[dict[str, Any]], cells: int) -> str:
    """Area under the ROC curve over genes: mean over the seeds, with their spread and widest interval."""
    names = list(dict.fromkeys(name for entry in runs for name in entry["metrics"]))
    lines = [
        "# Fine-tuned `mini` on three classes of genes", "",
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
