"""Cells to measure with: count matrices put together to a size, checkpoints with seeded random weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geneformer.datasets import pbmc3k_path


def counts_file(paths: Sequence[Path], n_cells: int, output: Path, *, compression: str | None = None) -> None:
    """Cells of some `.h5ad` files in one, repeated until there are `n_cells`, as the published recipe wants them.

    That is: `ensembl_id` in `var`, `n_counts` in `obs`, unique cell names, unique gene names.

    Parameters
    ----------
    paths
        Files whose `var` has `ensembl_id`, or Ensembl ids as its index; the bundled PBMC3k when there are none.
    n_cells
        Cells wanted.
    output
        File to write.
    compression
        Compression of its arrays.
    """
    import anndata as ad
    import scipy.sparse as sp

    parts = []
    for path in paths or [pbmc3k_path()]:
        adata = ad.read_h5ad(path)
        ids = np.asarray(adata.var.get("ensembl_id", adata.var_names), dtype=str)
        first = np.unique(ids, return_index=True)[1]
        kept = np.sort(first[ids[first] != ""])
        matrix = sp.csr_matrix(adata.X).astype(np.float32)[:, kept]
        parts.append(ad.AnnData(matrix, var={"ensembl_id": ids[kept]}))
        parts[-1].var_names = ids[kept]
    adata = ad.concat(parts, join="outer", index_unique="-", keys=[str(i) for i in range(len(parts))])
    adata = adata[np.resize(np.arange(adata.n_obs), n_cells)].copy()
    adata.obs_names = [f"cell{i}" for i in range(n_cells)]
    adata.obs["n_counts"] = np.asarray(adata.X.sum(1)).ravel()
    adata.var["ensembl_id"] = adata.var_names.to_numpy()
    adata.write_h5ad(output, compression=compression)


def token_file(paths: Sequence[Path], n_cells: int, output: Path, *, seed: int = 0) -> np.ndarray:
    """Tokens of some cells of some files under V1, as plain arrays `ids` and `starts`; returns the lengths."""
    from geneformer.options import TokenizeOptions
    from geneformer.tokenization.tokenizer import tokenize_counts

    dataset, _ = tokenize_counts([str(path) for path in paths or [pbmc3k_path()]], TokenizeOptions(vocabulary="V1"))
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(dataset), min(n_cells, len(dataset)), replace=False))
    packed = dataset.gather(rows)
    np.savez(output, ids=packed.input_ids, starts=packed.cu_seqlens)
    return np.diff(packed.cu_seqlens)


def random_checkpoint(folder: Path, *, architecture: str = "V1-10M", seed: int = 0) -> None:
    """A checkpoint with seeded random weights; no bias is zero and no norm one, so that no mix-up stays unseen."""
    from geneformer.models.heads import GeneformerForMaskedLM
    from geneformer.models.loading import save_checkpoint

    save_checkpoint(_random_network(GeneformerForMaskedLM, architecture, seed), folder)


def random_classifier(folder: Path, n_classes: int, *, architecture: str = "V1-10M", seed: int = 0) -> None:
    """The same for `BertForSequenceClassification`, as published classifiers are stored."""
    from transformers import BertForSequenceClassification

    _random_network(BertForSequenceClassification, architecture, seed, num_labels=n_classes).save_pretrained(folder)


def _random_network(kind: type[Any], architecture: str, seed: int, **entries: Any) -> Any:
    """A network with seeded random weights, and entries of its configuration."""
    import torch

    from geneformer.genes.vocabulary import Vocabulary
    from geneformer.models.loading import architecture_config

    torch.manual_seed(seed)
    config = architecture_config(architecture, vocab_size=Vocabulary.load("V1").size)
    for name, value in entries.items():
        setattr(config, name, value)
    network = kind(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * (0.1 if "LayerNorm" in name else 0.02))
    return network
