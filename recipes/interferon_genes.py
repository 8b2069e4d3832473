"""Do known interferon-response genes move blood cells the way interferon does?

    python recipes/interferon_genes.py COUNTS_FOLDER -o docs/results

`mini` learns control from stimulated cells (Kang et al., 2018). In cells it has not seen, genes are then overexpressed
in control cells and deleted from stimulated ones: a set known beforehand, and for each of its genes others that are
found in as many cells with like counts.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

import geneformer as gf
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SplitOptions
from geneformer.options._fields import read_options

HERE = Path(__file__).resolve().parent
KNOWN = (
    "ISG15", "ISG20", "IFI6", "IFI35", "IFI44", "IFI44L", "IFIT1", "IFIT2", "IFIT3", "IFITM1", "IFITM2", "IFITM3",
    "MX1", "MX2", "OAS1", "OAS2", "OAS3", "OASL", "STAT1", "STAT2", "IRF7", "IRF9", "BST2", "XAF1", "RSAD2", "HERC5",
    "CXCL10", "DDX58", "IFIH1", "USP18", "EIF2AK2", "TRIM22", "SAMD9L", "PLSCR1", "LY6E", "EPSTI1", "UBE2L6",
)  # fmt: skip
"""Genes type I interferon is known to induce (Schoggins et al., Nature 2011; hallmark set of MSigDB)."""

SIDES = {"overexpress": ("ctrl", "stim"), "delete": ("stim", "ctrl")}
MATCHED = 8
"""Compared genes for each known one."""

LEAST_CELLS = 3
"""Cells that have a gene, for it to be tried."""


def candidates(cells: ad.AnnData, max_length: int) -> tuple[list[str], list[str]]:
    """Known genes the network sees in the cells, and for each `MATCHED` others of like detection and mean count."""
    vocabulary = gf.Vocabulary.load("V1")
    tokens = gf.pp.tokenize(cells, vocabulary="V1")
    seen = np.bincount(tokens.gather(range(len(tokens)), max_length=max_length).input_ids, minlength=vocabulary.size)
    n_cells = pd.Series(seen[vocabulary.token_ids], index=vocabulary.genes)
    ids = cells.var["ensembl_id"].astype(str).to_numpy()
    detected = n_cells.reindex(ids).fillna(0).to_numpy() / cells.n_obs
    level = np.asarray(cells.X.mean(axis=0)).ravel()
    symbols = cells.var["gene_symbol"].astype(str).to_numpy()
    usable = detected * cells.n_obs >= LEAST_CELLS
    where = np.log10(np.stack([detected, level]) + 1e-6)
    known = [place for place in np.flatnonzero(usable) if symbols[place] in KNOWN]
    free = usable & ~np.isin(symbols, KNOWN)
    taken: list[int] = []
    for place in known:
        distance = np.abs(where - where[:, [place]]).sum(axis=0)
        distance[~free] = np.inf
        near = np.argsort(distance, kind="stable")[: min(MATCHED, int(free.sum()))]
        free[near] = False
        taken.extend(near.tolist())
    return ids[known].tolist(), ids[taken].tolist()


def study(folder: Path, seed: int, n_train: int, n_cells: int) -> list[dict[str, Any]]:
    """Both directions for one seed."""
    cells = ad.read_h5ad(folder / "kang_ifnb_14k.h5ad")
    cells.obs = cells.obs[["condition"]].astype(str)
    order = np.random.default_rng(seed).permutation(cells.n_obs)
    train, unseen = cells[order[:n_train]].copy(), cells[order[n_train:]].copy()
    options = FinetuneOptions(**read_options(HERE / "cells.toml", FinetuneOptions)[FinetuneOptions])
    classifier = gf.CellClassifier(
        "mini",
        finetuning=replace(options, seed=seed),
        classify=ClassifyOptions(baselines="none"),
        split=SplitOptions(method="stratified", valid=0.1, test=0.1, seed=seed),
        runtime=RuntimeOptions(progress=False),
    ).fit(train, "condition")
    accuracy = classifier.report_.evaluation.metrics["accuracy"].mean
    found = []
    for edit, (start, goal) in SIDES.items():
        rows = {state: np.flatnonzero(unseen.obs["condition"] == state) for state in (start, goal)}
        first, second = rows[start][:n_cells], rows[goal][:300]
        chosen = unseen[np.concatenate([first, second])].copy()
        # A gene can be overexpressed in cells that lack it, but only deleted from those that have it.
        where = chosen if edit == "overexpress" else chosen[:n_cells]
        known, matched = candidates(where, classifier.pairing.max_length)
        gf.tl.perturb(
            chosen, genes=[*known, *matched], edit=edit, start=start, goal=goal, model=classifier, layer=0,
            cells_per_shard=25, seed=seed, progress=False,
        )  # fmt: skip
        effects = chosen.uns["geneformer_perturbation"]["effects"]
        genes = chosen.uns["geneformer_perturbation"]["genes"].set_index("gene")
        for effect in ("shift", "probability_shift"):
            rows = effects[(effects["effect"] == effect) & (effects["target"] == goal)]
            means = rows.groupby("genes", observed=True)["value"].mean()
            found.append(
                {"seed": seed, "edit": edit, "effect": effect, "accuracy": accuracy}
                | compare(means, known, genes, (start, goal), seed)
            )
    return found


def compare(
    means: pd.Series, known: list[str], genes: pd.DataFrame, states: tuple[str, str], seed: int
) -> dict[str, Any]:
    """Known genes against matched ones: mean effects, interval of their difference, p, and areas under curves."""
    is_known = means.index.isin(known)
    values = means.to_numpy()
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(values[is_known], is_known.sum()).mean() - rng.choice(values[~is_known], (~is_known).sum()).mean()
        for _ in range(2000)
    ]
    start, goal = states
    difference = genes[f"expression:{goal}"] - genes[f"expression:{start}"]
    # Overexpression is to raise what the goal has more of, deletion to take away what it has less of.
    sign = 1.0 if goal == "stim" else -1.0
    baselines = {
        "mean rank": -genes["mean_rank"].reindex(means.index).fillna(1.0).to_numpy(),
        "expression difference": sign * difference.reindex(means.index).fillna(0.0).to_numpy(),
    }
    return {
        "n_known": int(is_known.sum()),
        "n_matched": int((~is_known).sum()),
        "known": float(values[is_known].mean()),
        "matched": float(values[~is_known].mean()),
        "low": float(np.quantile(drawn, 0.025)),
        "high": float(np.quantile(drawn, 0.975)),
        "p": float(mannwhitneyu(values[is_known], values[~is_known], alternative="greater").pvalue),
        "auc": float(roc_auc_score(is_known, values)),
        "auc_baselines": {name: float(roc_auc_score(is_known, score)) for name, score in baselines.items()},
    }


def table(runs: list[dict[str, Any]], n_cells: int) -> str:
    """All runs, a line each."""
    lines = [
        "# Interferon-response genes in silico", "",
        f"`mini` fine-tuned on control against stimulated blood cells; {n_cells} cells it has not seen per direction. "
        "Effects are means over cells, then over genes, of the shift of the cell's embedding (last layer) or of the "
        "class probability towards the goal; matched genes are found in as many cells with like counts. The interval "
        "(95 %, bootstrap over genes) is of the difference; p is one-sided Mann-Whitney; areas under the ROC curve "
        "tell how well a score finds the known genes among the matched ones. The command, from the repository root:",
        "", "    python recipes/interferon_genes.py COUNTS_FOLDER -o docs/results", "",
        "| direction | effect | seed | genes | known | matched | difference, interval | p | AUC | AUC of expression "
        "difference | AUC of mean rank |", "| --- " * 11 + "|",
    ]  # fmt: skip
    for run in sorted(runs, key=lambda run: (run["edit"] == "delete", run["effect"], run["seed"])):
        way = "overexpress in control" if run["edit"] == "overexpress" else "delete from stimulated"
        base = run["auc_baselines"]
        lines.append(
            f"| {way} | {run['effect'].replace('_', ' ')} | {run['seed']} | {run['n_known']} and {run['n_matched']} | "
            f"{run['known']:.2e} | {run['matched']:.2e} | {run['low']:.2e} to {run['high']:.2e} | {run['p']:.1e} | "
            f"{run['auc']:.3f} | {base['expression difference']:.3f} | {base['mean rank']:.3f} |"
        )
    accuracies = {run["seed"]: run["accuracy"] for run in runs}
    shown = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies.values())
    return "\n".join([*lines, "", f"Accuracy of the classifiers on held-out cells: {shown}.", ""])


def main() -> None:
    """Run the seeds, write JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--cells", type=int, default=60)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    stored = arguments.output / "interferon-genes.json"
    runs = json.loads(stored.read_text()) if stored.is_file() else []
    for seed in arguments.seeds:
        if seed not in {run["seed"] for run in runs}:
            runs.extend(study(arguments.counts, seed, arguments.train, arguments.cells))
            stored.write_text(json.dumps(runs, indent=1) + "\n")
            print(seed, [(run["edit"], run["effect"], round(run["auc"], 3)) for run in runs if run["seed"] == seed])
    (arguments.output / "interferon-genes.md").write_text(table(runs, arguments.cells))


if __name__ == "__main__":
    main()
