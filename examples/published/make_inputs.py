"""Inputs for the examples, from the blood cells that come with the package: counts, tokens and two small models.

    python examples/published/make_inputs.py DATA

DATA/h5ad/pbmc.h5ad, DATA/loom/pbmc.loom   raw counts with `ensembl_id` and `n_counts`
DATA/V1.dataset, DATA/V2.dataset            the same cells tokenized
DATA/V1, DATA/V2                            model folders: `mini`, and random weights with the V2 vocabulary

Cells have a `cell_type`, a `depth` (above or below the median count) and an `individual`. Individuals are drawn at
random: PBMC3k is of one donor, and the examples need something to split by.
"""

import argparse
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import torch

import geneformer as gf
from geneformer.datasets import pbmc3k
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import architecture_config, save_checkpoint
from geneformer.tokens.storage import write_dataset

KINDS = ("B cells", "CD14+ Monocytes", "NK cells")


def cells(per_kind: int, seed: int = 0) -> ad.AnnData:
    """Blood cells of three kinds."""
    rng = np.random.default_rng(seed)
    everyone = pbmc3k()
    kinds = everyone.obs["cell_type"].astype(str).to_numpy()
    rows = np.concatenate([rng.choice(np.flatnonzero(kinds == kind), per_kind, replace=False) for kind in KINDS])
    chosen = everyone[np.sort(rows)].copy()
    total = np.asarray(chosen.X.sum(axis=1)).ravel()
    chosen.obs = chosen.obs.assign(
        cell_type=chosen.obs["cell_type"].astype(str).to_numpy(),
        n_counts=total,
        depth=np.where(total > np.median(total), "deep", "shallow"),
        individual=rng.permutation(np.arange(len(chosen)) % 6).astype(str),
    )
    chosen.obs["individual"] = "donor_" + chosen.obs["individual"].astype(str)
    return chosen


def write_loom(adata: ad.AnnData, path: Path) -> None:
    """Counts as a loom file: genes by cells, attributes of both."""
    text = h5py.string_dtype("utf-8")
    with h5py.File(path, "w") as file:
        file.create_dataset("matrix", data=adata.X.T.toarray(), compression="gzip", chunks=(64, adata.n_obs))
        file.create_dataset("row_attrs/ensembl_id", data=adata.var["ensembl_id"].to_list(), dtype=text)
        for name in ("cell_type", "depth", "individual"):
            file.create_dataset(f"col_attrs/{name}", data=adata.obs[name].astype(str).to_list(), dtype=text)
        file.create_dataset("col_attrs/n_counts", data=adata.obs["n_counts"].to_numpy())
        for group in ("layers", "row_graphs", "col_graphs", "attrs"):
            file.create_group(group)
        file.create_dataset("attrs/LOOM_SPEC_VERSION", data="3.0.0", dtype=text)


def random_model(vocabulary: gf.Vocabulary, folder: Path) -> None:
    """A small network with random weights for a vocabulary."""
    config = architecture_config("mini", vocab_size=vocabulary.size)
    config.geneformer_vocabulary = vocabulary.fingerprint
    torch.manual_seed(0)
    save_checkpoint(GeneformerForMaskedLM(config), folder)


def make_inputs(data: Path, per_kind: int = 60) -> Path:
    """Write everything into a folder; returns it."""
    for folder in ("h5ad", "loom", "V1", "V2"):
        (data / folder).mkdir(parents=True, exist_ok=True)
    adata = cells(per_kind)
    adata.write_h5ad(data / "h5ad" / "pbmc.h5ad")
    write_loom(adata, data / "loom" / "pbmc.loom")
    for version in ("V1", "V2"):
        tokens = gf.pp.tokenize(adata, vocabulary=version, max_length=1024)
        write_dataset(tokens, data / f"{version}.dataset", overwrite=True)
    save_checkpoint(gf.load_model("mini").network, data / "V1")
    random_model(gf.Vocabulary.load("V2"), data / "V2")
    return data


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    make_inputs(parser.parse_args().data)
