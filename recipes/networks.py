"""Gene networks of real cells against what is known, every method beside every baseline.

    python recipes/networks.py COUNTS_FOLDER TRUTHS_FOLDER -o docs/results

Finished lines are kept in `OUT/networks.json`, so that an interrupted study goes on where it was; `--model` takes
another model, `--lines` some of the lines.
"""

import argparse
import gzip
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

import geneformer as gf
from geneformer.applications.networks import jaccard, rewired, strongest
from geneformer.datasets import pbmc3k
from geneformer.inference.quality import save_random_weights

METHODS = ("correlation", "boosting", "embedding", "attention", "perturbation")
INTERFERON = (
    "ISG15", "ISG20", "IFI6", "IFI35", "IFI44", "IFI44L", "IFIT1", "IFIT2", "IFIT3", "IFITM1", "IFITM2", "IFITM3",
    "MX1", "MX2", "OAS1", "OAS2", "OAS3", "OASL", "BST2", "XAF1", "RSAD2", "HERC5", "CXCL10", "DDX58", "IFIH1",
    "USP18", "EIF2AK2", "TRIM22", "SAMD9L", "PLSCR1", "LY6E", "EPSTI1", "UBE2L6", "IRF7",
)  # fmt: skip
"""Genes type I interferon is known to induce (Schoggins et al., Nature 2011; hallmark set of MSigDB), without the three
regulators themselves."""

THREE = ("STAT1", "STAT2", "IRF9")
FAST = {"max_edges": None, "n_bootstrap": 0, "progress": False, "deletions": "screen", "n_null": 40}
"""All edges, no intervals; matched genes, which deletions are compared with."""


@cache
def truths(folder: Path) -> dict[str, pd.DataFrame]:
    """Known pairs by the name of their collection, as far as the folder has them."""

    def sets(name: str, keep: Callable[[str], bool]) -> pd.DataFrame:
        lines = gzip.decompress((folder / "grn_tf_perturbations" / name).read_bytes()).decode().splitlines()
        rows = [line.split("\t") for line in lines if keep(line.split("\t")[0])]
        pairs = [(row[0].split()[0], gene.split(",")[0]) for row in rows for gene in row[2:] if gene]
        return pd.DataFrame(pairs, columns=["source", "target"]).drop_duplicates()

    def knocked_down() -> pd.DataFrame:
        regulons = json.loads((folder / "grn_tcell_perturbseq" / "marson_regulons.json").read_text())
        pairs = [(name, gene) for name, entry in regulons.items() for gene in entry["targets"]]
        return pd.DataFrame(pairs, columns=["source", "target"])

    creeds = "TF_Perturbations_Followed_by_Expression_Human.gmt.gz"
    trrust = "TRRUST_Transcription_Factors_2019h.gmt.gz"
    readers: dict[str, Callable[[], pd.DataFrame]] = {
        "CollecTRI": lambda: pd.read_csv(folder / "grn_collectri" / "collectri_human.csv"),
        "DoRothEA A-C": lambda: pd.read_csv(folder / "grn_dorothea" / "dorothea_hs_ABC.tsv.gz", sep="\t"),
        "TRRUST": lambda: sets(trrust, lambda name: name.endswith("human")),
        "CD4 T cells, CRISPRi": knocked_down,
        "B cell line, knock-downs": lambda: sets(creeds, lambda name: "GSE50588" in name),
        "all perturbations": lambda: sets(creeds, lambda name: True),
    }
    found = {}
    for name, read in readers.items():
        try:
            found[name] = read()
        except FileNotFoundError:
            print(f"{name} is not in {folder} and is left out")
    return found


def drawn(path: Path, n: int, seed: int, column: str, values: tuple[str, ...] = (), *, least: int) -> ad.AnnData:
    """Some cells of a file, as many of each value of a column, genes in 3 % of them and `least` or more, by symbol."""
    cells = ad.read_h5ad(path)
    rng = np.random.default_rng(seed)
    kinds = cells.obs[column].astype(str).to_numpy()
    chosen = values or np.unique(kinds)
    rows = [rng.permutation(np.flatnonzero(kinds == kind))[: n // len(chosen)] for kind in chosen]
    cells = cells[np.sort(np.concatenate(rows))].copy()
    found = np.asarray((cells.X > 0).sum(axis=0)).ravel() >= max(least, 0.03 * cells.n_obs)
    return cells[:, found & ~cells.var_names.duplicated()].copy()


def gene2vec(folder: Path, regulators: list[str], targets: list[str]) -> pd.DataFrame:
    """Cosines of published embeddings of bulk co-expression, which know nothing of these cells."""
    stored = np.load(folder / "gene2vec_embedding" / "gene2vec_16906x200_f16.npz", allow_pickle=False)
    vectors = pd.DataFrame(stored["emb"].astype(np.float32), index=stored["genes"].astype(str))
    vectors = vectors[~vectors.index.duplicated()]
    vectors = vectors.div(np.linalg.norm(vectors, axis=1), axis=0)
    ours, theirs = ([name for name in names if name in vectors.index] for names in (regulators, targets))
    cosine = pd.DataFrame(vectors.loc[ours].to_numpy() @ vectors.loc[theirs].to_numpy().T, index=ours, columns=theirs)
    table = cosine.rename_axis("source").reset_index().melt("source", var_name="target", value_name="weight")
    return table.assign(method="gene2vec cosine", group="all")


def blood(run: "Study", seed: int) -> list[dict[str, Any]]:
    """Sorted blood against every truth: agreement of all methods, and of the baselines."""
    cells = drawn(run.counts / "pbmc14k_sorted_scminer.h5ad", run.cells, seed, "cell_type", least=run.least)
    known = pd.concat(truths(run.truths).values())
    sources = known["source"].fillna(known["tf"]) if "tf" in known else known["source"]
    judged = sources[sources.isin(cells.var_names) & known["target"].isin(cells.var_names)].value_counts()
    regulators = sorted(judged.index[: run.regulators])  # those of which most is known
    targets = sorted(set(known["target"]) & set(cells.var_names))
    asked = {"regulators": regulators, "targets": targets, "seed": seed, **FAST}
    gf.tl.network(cells, run.model, method=run.methods, **asked)
    tables = [cells.uns["network"]]
    random = save_random_weights(run.model, run.scratch / f"random{seed}", seed=seed)
    gf.tl.network(cells, random, method="embedding", **asked)
    tables.append(cells.uns["network"].assign(method="embedding, random weights"))
    if (run.truths / "gene2vec_embedding").is_dir():
        tables.append(gene2vec(run.truths, regulators, targets))
    edges = pd.concat(tables, ignore_index=True)
    rows = []
    for name, truth in truths(run.truths).items():
        found = gf.tl.evaluate_network(edges, truth, cells=cells, seed=seed)
        rows += found.assign(truth=name).to_dict("records")
    return rows


def interferon(run: "Study", seed: int) -> list[dict[str, Any]]:
    """Do interferon genes top the rows of STAT1, STAT2 and IRF9, more than those of other regulators?"""
    both = drawn(run.counts / "kang_ifnb_14k.h5ad", run.cells, seed, "condition", least=run.least)
    stimulated = drawn(run.counts / "kang_ifnb_14k.h5ad", run.cells, seed, "condition", ("stim",), least=run.least)
    listed = sorted(set(truths(run.truths)["CollecTRI"]["tf"]))
    rows = []
    for name, cells in (("control and stimulated", both), ("stimulated", stimulated)):
        level = pd.Series(np.asarray((cells.X > 0).mean(axis=0)).ravel(), index=cells.var_names)
        others = [gene for gene in listed if gene in level and gene not in {*THREE, *INTERFERON}]
        matched: list[str] = []
        three = [gene for gene in THREE if gene in level]
        for gene in three:
            near = (level[others].drop(matched) - level[gene]).abs().nsmallest(15).index
            matched += list(near)
        methods = ("correlation", "embedding", "attention", "perturbation")
        asked = {"seed": seed, **FAST}
        gf.tl.network(cells, run.model, method=methods, regulators=[*three, *matched], **asked)
        for method, part in cells.uns["network"].groupby("method", sort=False):
            wide = part.pivot_table(index="source", columns="target", values="weight").drop(
                columns=[*THREE], errors="ignore"
            )
            wide = wide.fillna(wide.min().min())
            is_known = wide.columns.isin(INTERFERON)
            areas = pd.Series({gene: roc_auc_score(is_known, row) for gene, row in wide.iterrows()})
            null = areas.reindex(matched).dropna()
            draws = np.random.default_rng(seed)
            for gene in three:
                if gene not in areas:
                    continue
                row = wide.loc[gene].to_numpy()
                low, high = _interval(row, is_known, draws)
                rows.append(
                    {
                        "cells": name, "method": method, "regulator": gene, "n_known": int(is_known.sum()),
                        "n_targets": len(row), "detected": float(level[gene]), "auroc": float(areas[gene]),
                        "low": low, "high": high, "n_matched": len(null), "null_mean": float(null.mean()),
                        "null_high": float(null.quantile(0.95)),
                        "p": float((1 + (null >= areas[gene]).sum()) / (1 + len(null))),
                    }
                )  # fmt: skip
    return rows


def _interval(scores: np.ndarray, is_known: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Bootstrap over known and other genes."""
    own, others = scores[is_known], np.sort(scores[~is_known])
    below = np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")
    shares = below / (2 * len(others))
    means = shares[rng.integers(len(shares), size=(2000, len(shares)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def planted(run: "Study", seed: int) -> list[dict[str, Any]]:
    """A network put into real cells: targets are moved into the cells that have their regulator."""
    cells = pbmc3k()
    cells = cells[np.random.default_rng(seed).permutation(cells.n_obs)[: run.cells]].copy()
    found = np.asarray((cells.X > 0).mean(axis=0)).ravel()
    cells = cells[:, found >= 0.05].copy()
    rng = np.random.default_rng(seed)
    counts = cells.X.toarray()
    share = (counts > 0).mean(axis=0)
    free = rng.permutation(np.flatnonzero((share > 0.08) & (share < 0.4)))
    regulators, rest = free[:20], free[20:]
    pairs = []
    for place, regulator in enumerate(regulators):
        own = rest[12 * place : 12 * (place + 1)]
        for target in own:
            # The counts of the target stay what they are; four in five go to cells with the regulator.
            values = counts[counts[:, target] > 0, target]
            weight = np.where(counts[:, regulator] > 0, 1.0, 0.02) * rng.random(cells.n_obs) ** 0.25
            order = np.argsort(-weight * np.where(rng.random(cells.n_obs) < 0.2, rng.random(cells.n_obs), 1))
            counts[:, target] = 0
            counts[order[: len(values)], target] = values
            pairs.append((cells.var_names[regulator], cells.var_names[target]))
    from scipy.sparse import csr_matrix

    cells.X = csr_matrix(counts)
    truth = pd.DataFrame(pairs, columns=["source", "target"])
    methods = ("correlation", "embedding", "attention", "perturbation")
    names = sorted(set(truth["source"]))
    gf.tl.network(cells, run.model, method=methods, regulators=names, seed=seed, **FAST)
    rows = gf.tl.evaluate_network(cells, truth, universe="all", seed=seed).assign(truth="planted").to_dict("records")
    pairs_known = set(map(tuple, truth.to_numpy()))
    for method, part in cells.uns["network"].groupby("method", sort=False):
        top = part.sort_values("weight", ascending=False).groupby("source").head(12)
        hits = [pair in pairs_known for pair in zip(top["source"], top["target"], strict=True)]
        next(row for row in rows if row["score"] == method)["precision_at_12"] = float(np.mean(hits))
    return rows


def null(run: "Study", seed: int) -> list[dict[str, Any]]:
    """Cells without regulation: every gene's counts dealt out anew among the cells. What is found is false."""
    rng = np.random.default_rng(seed)
    source = pbmc3k()
    source = source[rng.permutation(source.n_obs)[: run.cells // 2]].copy()
    share = np.asarray((source.X > 0).mean(axis=0)).ravel()
    source = source[:, share >= 0.1].copy()
    counts = source.X.toarray()
    listed = sorted(set(truths(run.truths)["CollecTRI"]["tf"]) & set(source.var_names))[:20]
    rows = []
    for repeat in range(run.repeats):
        source.X = np.stack([rng.permutation(column) for column in counts.T], axis=1)
        for method in ("correlation", "embedding"):
            gf.tl.network(source, run.model, method=method, regulators=listed, seed=repeat, **FAST | {"n_null": 200})
            edges = source.uns["network"]
            rows.append(
                {
                    "kind": "edges", "method": method, "repeat": repeat, "edges": len(edges),
                    "p05": float((edges["p"] < 0.05).mean()), "p01": float((edges["p"] < 0.01).mean()),
                    "half_split": float(stability_of(source)["half_split_jaccard"].iloc[0]),
                    "found": int((edges["q"] < 0.05).sum()), "found10": int((edges["q"] < 0.1).sum()),
                }
            )  # fmt: skip
    edges = pd.DataFrame([(a, b) for a in listed for b in source.var_names], columns=["source", "target"])
    truth = truths(run.truths)["CollecTRI"].rename(columns={"tf": "source"})[["source", "target"]]
    truth = truth[truth["source"].isin(listed) & truth["target"].isin(source.var_names)].drop_duplicates()
    # A network that knows how popular targets are, and nothing else: no truth with the same degrees may be found.
    popular = truth["target"].value_counts()
    edges["weight"] = edges["target"].map(popular).fillna(0) + rng.random(len(edges))
    found = []
    for repeat in range(8 * run.repeats):
        dealt = rewired(truth["source"].to_numpy(), truth["target"].to_numpy(), seed=repeat)
        options = {"n_null": 60, "n_bootstrap": 10, "seed": repeat, "min_targets": 3, "against": "random"}
        table = gf.tl.evaluate_network(edges, truth.assign(target=dealt), **options)
        found.append(float(table.set_index("score").loc["network", "p"]))
    found_p = np.array(found)
    rows.append(
        {"kind": "evaluation", "repeats": len(found), "p05": float((found_p < 0.05).mean()),
         "p20": float((found_p < 0.2).mean()), "p50": float((found_p < 0.5).mean())}
    )  # fmt: skip
    return rows


def stability_of(cells: ad.AnnData) -> pd.DataFrame:
    """How much of the strongest edges is found again, by group and method."""
    return pd.DataFrame(cells.uns["geneformer"]["network"]["stability"])


def states(run: "Study", seed: int) -> list[dict[str, Any]]:
    """A network for each of three kinds of cells: how stable, how alike, how true."""
    path = run.counts / "pbmc14k_sorted_scminer.h5ad"
    kinds = np.unique(ad.read_h5ad(path, backed="r").obs["cell_type"].astype(str))
    wanted = tuple(kind for kind in kinds if any(word in kind.lower() for word in ("b cell", "mono", "cd4")))[:3]
    wanted = wanted if len(wanted) >= 2 else tuple(kinds[:3])
    cells = drawn(path, run.cells // 2 * len(wanted), seed, "cell_type", wanted, least=run.least)
    listed = sorted(set(truths(run.truths)["CollecTRI"]["tf"]) & set(cells.var_names))
    rows: list[dict[str, Any]] = []
    for method in ("correlation", "embedding"):
        asked = {"regulators": listed, "groupby": "cell_type", "n_permutations": 20, "seed": seed}
        gf.tl.network(cells, run.model, method=method, **asked, **FAST)
        edges = cells.uns["network"]
        stable = stability_of(cells).set_index("group")
        tops = {
            group: {*zip(part["source"], part["target"], strict=True)}
            for group, part in strongest(edges, 500).groupby("group", sort=False)
        }
        found = gf.tl.evaluate_network(edges, truths(run.truths)["CollecTRI"], seed=seed).set_index("score")
        differing = cells.uns.get("network_differential", pd.DataFrame({"group": [], "q": []}))
        for group, top in tops.items():
            others = [jaccard(top, other) for name, other in tops.items() if name != group]
            own = found.loc[f"{method}, {group}"]
            significant = differing[(differing["group"] == group) & (differing["q"] < 0.05)]
            rows.append(
                {
                    "method": method, "group": group, "cells": int((cells.obs["cell_type"] == group).sum()),
                    "half_split_jaccard": float(stable.loc[group, "half_split_jaccard"]),
                    "jaccard_with_others": float(np.mean(others)), "differing": len(significant),
                    **{name: float(own[name]) for name in ("auroc", "auroc_low", "auroc_high", "null_mean", "p")},
                }
            )  # fmt: skip
    return rows


LINES: dict[str, Callable[["Study", int], list[dict[str, Any]]]] = {
    "interferon": interferon, "planted": planted, "null": null, "states": states, "blood": blood,
}  # fmt: skip


class Study:
    """What all lines share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.counts, self.truths, self.model = arguments.counts, arguments.truths, arguments.model
        self.cells, self.repeats = arguments.cells, arguments.repeats
        self.methods, self.regulators, self.least = arguments.methods, arguments.regulators, arguments.least
        self.scratch = Path(tempfile.mkdtemp(prefix="networks"))  # of random weights


def main() -> None:
    """Run what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=Path)
    parser.add_argument("truths", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--lines", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--least", type=int, default=10, help="cells a gene must be in, which methods read")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="of the lines on blood")
    parser.add_argument("--regulators", type=int, default=80, help="of these lines, the best known ones")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", category=gf.errors.GeneformerWarning)
    stored = arguments.output / "networks.json"
    runs = json.loads(stored.read_text()) if stored.is_file() else []
    study = Study(arguments)
    for line in arguments.lines:
        for seed in arguments.seeds if line != "null" else arguments.seeds[:1]:
            settings = {"line": line, "seed": seed, "cells": arguments.cells, "model": arguments.model}
            if any(all(run[key] == value for key, value in settings.items()) for run in runs):
                continue
            start, used = time.perf_counter(), time.process_time()
            rows = LINES[line](study, seed)
            seconds = {"seconds": round(time.perf_counter() - start, 1), "cpu": round(time.process_time() - used, 1)}
            runs.append({**settings, **seconds, "rows": rows})
            stored.write_text(json.dumps(runs, indent=1) + "\n")
            print(line, seed, seconds, flush=True)
    given = {name: value for name, value in vars(arguments).items() if value != parser.get_default(name)}
    options = "".join(
        f" --{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in given.items()
        if name not in {"counts", "truths", "output", "lines"}
    )
    (arguments.output / "networks.md").write_text(page(runs, options))
    draw(runs, arguments.output)


# The page


def rows_of(runs: list[dict[str, Any]], line: str) -> pd.DataFrame:
    """All rows of a line, with their seeds."""
    tables = [pd.DataFrame(run["rows"]).assign(seed=run["seed"]) for run in runs if run["line"] == line]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def over_seeds(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means over the seeds, the lowest low and the highest high end, the highest p."""
    numbers = table.select_dtypes("number").columns.drop("seed")
    how = {
        name: "min" if name.endswith("low") else "max" if name.endswith("high") or name == "p" else "mean"
        for name in numbers
    }
    return table.groupby(by, sort=False).agg(how).reset_index()


def page(runs: list[dict[str, Any]], options: str) -> str:
    """All lines as Markdown."""
    cells = sorted({run["cells"] for run in runs})
    seeds = sorted({run["seed"] for run in runs})
    seconds = sum(run["cpu"] for run in runs)
    lines = [
        "# Gene networks against what is known", "",
        f"Networks by `{runs[0]['model']}` and by what needs no model, {' and '.join(map(str, cells))} cells per line, "
        f"seeds {', '.join(map(str, seeds))}; {seconds / 60:.0f} minutes of one core. Areas are means over the seeds; "
        "intervals (95 %) are the lowest and the highest end over the seeds, p the highest. The command, from the "
        "repository root:", "",
        f"    python recipes/networks.py COUNTS_FOLDER TRUTHS_FOLDER -o docs/results{options}", "",
        *_blood_tables(rows_of(runs, "blood")), *_interferon_table(rows_of(runs, "interferon")),
        *_planted_table(rows_of(runs, "planted")), *_null_table(rows_of(runs, "null")),
        *_states_table(rows_of(runs, "states")),
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def _table(head: list[str], rows: Iterator[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _range(row: Any, name: str, digits: int = 3) -> str:
    low, high = (getattr(row, f"{name}_{end}") for end in ("low", "high"))
    return f"{getattr(row, name):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _blood_tables(table: pd.DataFrame) -> list[str]:
    if table.empty:
        return []
    lines = [
        "## Sorted blood against six truths", "",
        "Mean over regulators of the area under the ROC curve of their known targets; candidates are genes that are a "
        "target of anything in the truth. Intervals are over regulators. `null`: the range of the same area for truths "
        "in which every gene keeps the number of its pairs. `difference`: from |Pearson| of the same cells, regulator "
        "by regulator. `scored`: the share of the candidates that have a weight; methods leave out genes in fewer than "
        "ten cells, attention and deletions pairs in fewer than ten, and what is left out ties at the end.", "",
        "![Areas over the band of the null](networks.png)", "",
    ]  # fmt: skip
    means = over_seeds(table, ["truth", "score"])
    for truth, part in means.groupby("truth", sort=False):
        first = part.iloc[0]
        lines += [f"### {truth}: {first['regulators']:.0f} regulators, {first['pairs']:,.0f} pairs", ""]
        head = ["score", "AUROC", "null", "p", "difference from correlation", "average precision",
            "scored"]  # fmt: skip
        rows = (
            [
                row.score.replace("|", "\\|"),
                _range(row, "auroc"),
                f"{row.null_low:.3f} to {row.null_high:.3f}",
                f"{row.p:.2g}",
                _range(row, "difference"),
                f"{_range(row, 'average_precision')}; chance {row.share_known:.3f}",
                f"{row.share_scored:.0%}",
            ]
            for row in part.itertuples()
        )
        lines += _table(head, rows)
    return lines


def _interferon_table(table: pd.DataFrame) -> list[str]:
    if table.empty:
        return []
    means = over_seeds(table, ["cells", "method", "regulator"])
    lines = [
        "## Do interferon genes top the rows of STAT1, STAT2 and IRF9?", "",
        f"Blood with and without interferon beta (Kang et al., 2018); {means['n_known'].max():.0f} known genes among "
        f"{means['n_targets'].max():,.0f} targets. Intervals are over the known genes; the null is the same area for "
        f"{means['n_matched'].max():.0f} other regulators found in as many cells, and p the share of them that reach "
        "as much.", "",
    ]  # fmt: skip
    head = ["cells", "method", "regulator", "found in", "AUROC", "others: mean, 95th percentile", "p"]
    rows = (
        [
            row.cells,
            row.method,
            row.regulator,
            f"{row.detected:.0%}",
            f"{row.auroc:.3f} ({row.low:.3f} to {row.high:.3f})",
            f"{row.null_mean:.3f}, {row.null_high:.3f}",
            f"{row.p:.2g}",
        ]
        for row in means.itertuples()
    )
    return lines + _table(head, rows)


def _planted_table(table: pd.DataFrame) -> list[str]:
    if table.empty:
        return []
    means = over_seeds(table, ["score"])
    lines = [
        "## A planted network", "",
        "In real cells, 12 targets each of 20 genes are moved into the cells that have these: the counts of every gene "
        "stay the same. All other genes are candidates.", "",
    ]  # fmt: skip
    head = ["score", "AUROC", "null", "p", "average precision", "planted among the 12 strongest"]
    rows = (
        [
            row.score.replace("|", "\\|"),
            _range(row, "auroc"),
            f"{row.null_low:.3f} to {row.null_high:.3f}",
            f"{row.p:.2g}",
            f"{_range(row, 'average_precision')}; chance {row.share_known:.3f}",
            "" if np.isnan(row.precision_at_12) else f"{row.precision_at_12:.0%}",
        ]
        for row in means.itertuples()
    )
    return lines + _table(head, rows)


def _null_table(table: pd.DataFrame) -> list[str]:
    if table.empty:
        return []
    edges = table[table["kind"] == "edges"]
    lines = [
        "## Where there is nothing to find", "",
        "Real counts, those of every gene dealt out anew among the cells, so that every edge found is false.", "",
    ]  # fmt: skip
    head = ["method", "repeats", "edges", "p < 0.05", "p < 0.01", "repeats with an edge of q < 0.05", "of q < 0.1",
            "half-split Jaccard"]  # fmt: skip
    rows = (
        [
            str(method),
            str(len(part)),
            f"{part['edges'].mean():,.0f}",
            f"{part['p05'].mean():.3f} ({part['p05'].min():.3f} to {part['p05'].max():.3f})",
            f"{part['p01'].mean():.4f}",
            f"{(part['found'] > 0).sum():.0f}",
            f"{(part['found10'] > 0).sum():.0f}",
            f"{part['half_split'].mean():.2f}",
        ]
        for method, part in edges.groupby("method", sort=False)
    )
    lines += _table(head, rows)
    for row in table[table["kind"] == "evaluation"].itertuples():
        spread = 1.96 * np.sqrt(0.05 * 0.95 / row.repeats)
        lines += [
            "Evaluation: a network that knows how popular targets are and nothing else, against "
            f"{row.repeats:.0f} rewired truths. Shares of p below 0.05, 0.2 and 0.5: {row.p05:.3f}, {row.p20:.3f}, "
            f"{row.p50:.3f} (0.05 ± {spread:.3f} is nominal).", "",
        ]  # fmt: skip
    return lines


def _states_table(table: pd.DataFrame) -> list[str]:
    if table.empty:
        return []
    means = over_seeds(table, ["method", "group"])
    lines = [
        "## A network per kind of cell", "",
        "The 500 strongest edges of each: how many are found again in halves of the cells, and how "
        "many are among those of the other kinds (Jaccard); edges that differ (q < 0.05 by permutation); and the area "
        "against CollecTRI.", "",
    ]  # fmt: skip
    head = ["method", "cells", "half-split Jaccard", "Jaccard with others", "edges that differ", "AUROC", "null", "p"]
    rows = (
        [
            row.method,
            f"{row.group} ({row.cells:.0f})",
            f"{row.half_split_jaccard:.2f}",
            f"{row.jaccard_with_others:.2f}",
            f"{row.differing:.0f}",
            _range(row, "auroc"),
            f"{row.null_mean:.3f}",
            f"{row.p:.2g}",
        ]
        for row in means.itertuples()
    )
    return lines + _table(head, rows)


def draw(runs: list[dict[str, Any]], output: Path) -> None:
    """The picture of the blood lines."""
    table = rows_of(runs, "blood")
    if table.empty:
        return
    means = over_seeds(table, ["truth", "score"])
    found = {str(truth): part for truth, part in means.groupby("truth", sort=False)}
    gf.pl.network_benchmark(found, save=output / "networks.png")


if __name__ == "__main__":
    main()
