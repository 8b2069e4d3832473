"""How far the figures of a split by donors depend on the draw, where each donor has one class or few donors are there.

    python benchmarks/splits.py cells.h5ad --label disease --donor donor
    python benchmarks/splits.py cells.h5ad --label disease --donor donor --donors CTCL-5 CTCL-6 CTCL-8 HC-1

Two draws are compared: by the shares alone, with a class missing from a part as one loss among others,
and the one in use. Cells are embedded once by `mini`; a logistic regression learns from the
training cells of every draw and is scored on its test cells, so that a hundred draws take a minute.
"""

import argparse

import anndata
import numpy as np
from sklearn.linear_model import LogisticRegression

import geneformer as gf
from geneformer.errors import LabelError
from geneformer.finetuning.splits import assign_groups, draw_split
from geneformer.options import SplitOptions

SHARES = (0.8, 0.1, 0.1)


def by_shares(codes, donors, seed):
    """Parts of the cells when the shares are all that counts."""
    names, donor = np.unique(donors, return_inverse=True)
    counts = np.zeros((len(names), codes.max() + 1), dtype=int)
    np.add.at(counts, (donor, codes), 1)
    part = assign_groups(counts, SHARES, seed=seed)[donor]
    return [np.flatnonzero(part == number) for number in range(3)]


def in_use(codes, classes, donors, seed, valid):
    """Parts of the cells as `fit` draws them."""
    options = SplitOptions(seed=seed, valid=valid)
    return draw_split(codes, options, groups=donors, classes=classes).parts


def summary(name, draws, codes, vectors):
    """One row: draws in which a part lacks a class, and accuracies on the test cells."""
    lacking, scores = 0, []
    for train, valid, test in draws:
        lacking += any(len(rows) and len(np.unique(codes[rows])) < len(np.unique(codes)) for rows in (valid, test))
        if len(np.unique(codes[train])) > 1:
            model = LogisticRegression(max_iter=500).fit(vectors[train], codes[train])
            scores.append(model.score(vectors[test], codes[test]))
    low, middle, high = np.quantile(scores, (0, 0.5, 1)) if scores else (np.nan,) * 3
    print(f"| {name} | {lacking} of {len(draws)} | {low:.3f} | {middle:.3f} | {high:.3f} |")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells")
    parser.add_argument("--label", required=True)
    parser.add_argument("--donor", required=True)
    parser.add_argument("--donors", nargs="*", help="only these")
    parser.add_argument("--draws", type=int, default=100)
    given = parser.parse_args()
    adata = anndata.read_h5ad(given.cells)
    known = adata.obs[given.donor].isin(given.donors or adata.obs[given.donor].unique())
    adata = adata[known.to_numpy()].copy()
    gf.tl.embed(adata, model="mini", progress=False)
    vectors = adata.obsm["X_geneformer"]
    vectors = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    classes, codes = np.unique(adata.obs[given.label].astype(str), return_inverse=True)
    donors = adata.obs[given.donor].astype(str).to_numpy()
    print("| draw | a part lacks a class | accuracy, lowest | median | highest |\n| :-- | --: | --: | --: | --: |")
    seeds = range(given.draws)
    if len(np.unique(donors)) > 2:
        summary("shares alone", [by_shares(codes, donors, seed) for seed in seeds], codes, vectors)
    for valid in (0.1, 0.0):
        try:
            draws = [in_use(codes, classes, donors, seed, valid) for seed in seeds]
        except LabelError as error:
            print(f"| in use, valid={valid} | refused: {error} | | | |")
        else:
            summary(f"in use, valid={valid}", draws, codes, vectors)


if __name__ == "__main__":
    main()
