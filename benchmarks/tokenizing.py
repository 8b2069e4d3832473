"""Benchmark: 20,000 cells from `.h5ad` to `.dataset`, published recipe against this package.

`.venv/bin/python benchmarks/tokenizing.py [FILE.h5ad ...]`
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from inputs import counts_file
from measuring import SIDES, alternate, gibibytes, machine, median, ratio, save, versions

SUMMED = "published recipe, columns summed at once"
"""The published recipe with one step that it spends most of its time on under V2 made fast."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="count matrices; the bundled PBMC3k by default")
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--compression", choices=["none", "gzip"], default="gzip", help="of the input file")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    details = {"machine": machine(), "versions": {"both sides": _versions()}}
    rows = [("vocabulary", "side", "cells/s", "seconds", "peak memory")]
    notes = []
    with tempfile.TemporaryDirectory(prefix="geneformer-benchmark-") as name:
        folder = Path(name)
        compression = None if arguments.compression == "none" else arguments.compression
        counts_file(arguments.files, arguments.cells, folder / "cells.h5ad", compression=compression)
        for vocabulary in ("V1", "V2"):
            replies = _measure(folder, vocabulary, arguments)
            details[vocabulary] = replies
            for side, told in replies.items():
                speed, seconds = median(told, "cells_per_second"), median(told, "seconds")
                peak = gibibytes(median(told, "peak_bytes"))
                rows.append((vocabulary, side, f"{speed:,.0f}", f"{seconds:.2f}", peak))
            for side in sorted(replies.keys() - {"geneformer"}):
                ours = replies["geneformer"][: len(replies[side])]
                faster = ratio(ours, replies[side], "cells_per_second")
                smaller = ratio(ours, replies[side], "peak_bytes")
                details[f"{vocabulary}_ratios_to_{side}"] = {"cells_per_second": faster, "peak_bytes": smaller}
                notes.append(
                    f"{vocabulary}, against the {side}: {faster:.1f} times the cells per second (aim: 10), "
                    f"{smaller:.2f} of the peak memory (aim: 0.25)."
                )
            notes.append(f"{vocabulary}: {_compare(folder, vocabulary)}")
    source = ", ".join(path.name for path in arguments.files) or "bundled PBMC3k, repeated"
    notes.append(
        f"Input: {arguments.cells:,} cells of {source}; compression {arguments.compression}; one process each."
    )
    save("tokenizing", "Tokenizing: from .h5ad to .dataset", rows, notes, details)


def _measure(folder: Path, vocabulary: str, arguments: argparse.Namespace) -> dict:
    """Both sides in turns. Summing as published is slow, so that it runs once; in turns it is done faster."""
    ours, published = "geneformer", "published recipe"
    scripts = {published: "published_tokenizing.py", ours: "our_tokenizing.py"}
    commands = {
        side: [
            *(sys.executable, "-W", "ignore", SIDES / script, folder / "cells.h5ad"),
            *(folder / f"{script.split('_')[0]}_{vocabulary}.dataset", vocabulary),
        ]
        for side, script in scripts.items()
    }
    turns = commands if vocabulary == "V1" else {SUMMED: [*commands[published], "--sum-at-once"], ours: commands[ours]}
    plan = [turns] * arguments.repetitions + ([] if vocabulary == "V1" else [{published: commands[published]}])
    replies = {}
    print(f"{vocabulary}:")
    for sides in plan:
        for command in sides.values():
            shutil.rmtree(command[5], ignore_errors=True)
        for side, told in alternate(sides, 1, arguments.threads).items():
            speed = told[0]["cells"] / told[0]["seconds"]
            replies.setdefault(side, []).append({**told[0], "cells_per_second": speed})
    return replies


def _compare(folder: Path, vocabulary: str) -> str:
    """Whether both sides wrote the same tokens, up to the order of genes of equal value."""
    import anndata as ad

    from geneformer.genes.vocabulary import Vocabulary
    from geneformer.tokens.storage import read_dataset

    ours, theirs = (read_dataset(folder / f"{side}_{vocabulary}.dataset") for side in ("our", "published"))
    if list(ours.cell_ids) != list(theirs.cell_ids):
        return "the two sides do not have the same cells."
    differing = [row for row in range(len(ours)) if not np.array_equal(ours[row], theirs[row])]
    known = Vocabulary.load(vocabulary)
    adata = ad.read_h5ad(folder / "cells.h5ad", backed="r")
    mapping = dict(zip(known.genes, range(len(known.genes)), strict=True))
    if vocabulary == "V2":
        published = known.published_tables()["ensembl_mapping_dict"]
        mapping = {name: mapping[gene] for name, gene in published.items() if gene in mapping}
    gene = np.array([mapping.get(name.upper(), -1) for name in adata.var["ensembl_id"]])
    place = {name: row for row, name in enumerate(adata.obs_names)}
    medians = np.full(known.size, np.nan)
    unexplained = 0
    for row in differing:
        counts = np.asarray(adata.X[place[ours.cell_ids[row]]].todense()).ravel().astype(np.float64)
        summed = np.bincount(gene[gene >= 0], weights=counts[gene >= 0], minlength=len(known.genes))
        medians[known.token_ids] = summed / known.medians
        same = len(ours[row]) == len(theirs[row]) and np.allclose(
            medians[ours[row]], medians[theirs[row]], rtol=1e-6, atol=0, equal_nan=True
        )
        unexplained += not same
    return (
        f"same tokens in {len(ours) - len(differing):,} of {len(ours):,} cells, the same but for the order of equal "
        f"values in {len(differing) - unexplained:,}, different in {unexplained:,}."
    )


def _versions() -> str:
    return ", ".join(f"{k} {v}" for k, v in versions("numpy", "scipy", "anndata", "pyarrow", "datasets").items())


if __name__ == "__main__":
    main()
