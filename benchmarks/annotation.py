"""References and cells for the table of `docs/guides/first-hour.md`, and what `geneformer annotate` makes of them.

    python benchmarks/annotation.py COUNTS_FOLDER -o OUT

For each pair a folder with `report.md`, whose section "Unknown cells" has the figures.
"""

import argparse
import subprocess
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np

from geneformer.datasets import pbmc3k

WORDS = {"T_CD4": "CD4 T cells", "T_CD8": "CD8 T cells", "B": "B cells", "NK": "NK cells"}


def pairs(counts: Path):
    """Name, reference and cells, each with `cell_type`."""
    blood = pbmc3k()
    for lacking in ("B cells", "NK cells"):
        yield f"without {lacking}", blood[::3][blood[::3].obs["cell_type"] != lacking], blood[1::3]
    fetal = ad.read_h5ad(counts / "geact_fetal.h5ad")
    fetal = fetal[fetal.obs["cell_type"].astype(str).str.match("Fibro|SKM|SM|Endo|Glial").to_numpy()]
    yield "fetal", blood, fetal[np.sort(np.random.default_rng(0).choice(fetal.n_obs, 300, replace=False))]
    kang = ad.read_h5ad(counts / "kang_ifnb_14k.h5ad")
    kang = kang[kang.obs["cell_type"].notna()]
    yield "donors", *(kang[kang.obs["donor"].astype(str).str.endswith(one).to_numpy()] for one in ("101", "107"))
    other = ad.read_h5ad(counts / "pbmc4k_soupx.h5ad")
    other = other[other.obs["cell_type"].isin(WORDS).to_numpy()].copy()
    other.obs = other.obs[["cell_type"]].replace(WORDS)
    yield "chemistries", blood, other


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, reference, cells in pairs(arguments.counts):
        files = [arguments.output / f"{name}.{part}.h5ad" for part in ("cells", "reference")]
        for part, file in zip((cells, reference), files, strict=True):
            part.copy().write_h5ad(file)
        for method in ("neighbors", "probe"):
            place = str(arguments.output / f"{name} {method}")
            chosen = ["-r", str(files[1]), "-l", "cell_type", "-o", place, "--method", method, "--overwrite"]
            subprocess.run([sys.executable, "-m", "geneformer", "annotate", str(files[0]), *chosen], check=True)


if __name__ == "__main__":
    main()
