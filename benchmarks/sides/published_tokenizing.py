"""The published tokenizer's algorithm, written anew from its description: everything in memory, one cell at a time.

Read the file; decide about summing by comparing sets of ids, and sum through a pandas frame per gene and chunk; scale
sparse chunks of 512 cells; cut two rows out of the chunk and sort, per cell; keep a list of arrays; make a dataset of
it; go through it row by row in Python to crop and to add special tokens; save.
"""

import argparse
import time

import anndata as ad
import datasets
import numpy as np
import pandas as pd
import scipy.sparse as sp
from datasets import Dataset

from geneformer.genes.vocabulary import Vocabulary
from measuring import reply

CHUNK, TARGET = 512, 10_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("vocabulary")
    parser.add_argument("--sum-at-once", action="store_true", help="sum columns by one product per chunk instead")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    vocabulary = Vocabulary.load(arguments.vocabulary)
    # Its dictionaries, read before the clock starts; V1 tokens are 16 bit.
    small = np.int16 if vocabulary.name == "V1" else np.int64
    token_of = dict(zip(vocabulary.genes, vocabulary.token_ids.astype(small), strict=True))
    median_of = dict(zip(vocabulary.genes, vocabulary.medians, strict=True))
    mapping = {gene: gene for gene in token_of}
    if vocabulary.name == "V2":
        published = vocabulary.published_tables()["ensembl_mapping_dict"]
        mapping = {name: gene for name, gene in published.items() if gene in token_of}
    started = time.perf_counter()
    cells, attributes = tokenize_anndata(arguments.input, mapping, token_of, median_of, arguments.sum_at_once)
    create_dataset(cells, attributes, vocabulary).save_to_disk(arguments.output)
    reply(seconds=time.perf_counter() - started, cells=len(cells))


def tokenize_anndata(path, mapping, token_of, median_of, sum_at_once):
    """One array of tokens per cell, and what is known about the cells."""
    adata = ad.read_h5ad(path)
    adata.obs["cell_id"] = adata.obs_names
    adata = sum_ensembl_ids(adata, mapping, sum_at_once)
    coding = np.flatnonzero([gene in token_of for gene in adata.var["ensembl_id_collapsed"]])
    genes = adata.var["ensembl_id_collapsed"].iloc[coding]
    medians = np.array([median_of[gene] for gene in genes])
    tokens = np.array([token_of[gene] for gene in genes])
    kept = (
        np.flatnonzero([value == 1 for value in adata.obs["filter_pass"]])
        if "filter_pass" in adata.obs
        else np.arange(adata.n_obs)
    )
    cells, attributes = [], {name: [] for name in adata.obs.columns}
    for start in range(0, len(kept), CHUNK):
        rows = kept[start : start + CHUNK]
        chunk = adata[rows]
        totals = chunk.obs["n_counts"].to_numpy()[:, None]
        scaled = sp.csr_matrix(chunk[:, coding].X / totals * TARGET / medians)
        cells += [rank_genes(scaled[i].data, tokens[scaled[i].indices]) for i in range(scaled.shape[0])]
        for name in attributes:
            attributes[name] += chunk.obs[name].tolist()
    filled = [len(cell) > 0 for cell in cells]
    attributes = {name: [v for v, full in zip(vs, filled, strict=True) if full] for name, vs in attributes.items()}
    return [cell for cell in cells if len(cell)], attributes


def sum_ensembl_ids(adata, mapping, at_once):
    """Columns of one gene summed, if some differently written ids mean one gene; else only the names are changed."""
    ids = adata.var["ensembl_id"]
    present = {gene for gene in ids if gene in mapping}
    adata.var["ensembl_id_collapsed"] = ids.str.upper().map(mapping)
    if len(present) == len({mapping[gene] for gene in present}):
        return adata
    adata.var_names = adata.var["ensembl_id_collapsed"].astype(str)
    adata = adata[:, ~adata.var["ensembl_id_collapsed"].isna()].copy()
    if at_once:
        names, group = np.unique(adata.var_names.to_numpy(dtype=str), return_inverse=True)
        merge = sp.csr_matrix((np.ones(len(group), adata.X.dtype), (np.arange(len(group)), group)))
        chunks = [adata.X[start : start + CHUNK] @ merge for start in range(0, adata.n_obs, CHUNK)]
        return ad.AnnData(sp.vstack(chunks, format="csr"), obs=adata.obs, var={"ensembl_id_collapsed": names})
    several = adata.var_names.duplicated(keep=False)
    genes = adata.var_names[several].unique()
    chunks = []
    for start in range(0, adata.n_obs, CHUNK):
        rows = adata[start : start + CHUNK]
        parts = [rows[:, rows.var_names == gene].X for gene in genes]
        sums = [pd.DataFrame.sparse.from_spmatrix(part, rows.obs_names).sum(axis=1) for part in parts]
        chunks.append(pd.concat(sums, axis=1, keys=genes))
    summed = ad.AnnData(sp.csr_matrix(pd.concat(chunks).to_numpy()), obs=adata.obs)
    summed.var_names = genes
    summed.var["ensembl_id_collapsed"] = genes
    return ad.concat([adata[:, ~several], summed], axis=1, merge="same")


def rank_genes(values, tokens):
    """Tokens by decreasing value."""
    return tokens[np.argsort(-values)]


def create_dataset(cells, attributes, vocabulary):
    """Dataset of the cells, cropped and framed row by row."""
    dataset = Dataset.from_dict({"input_ids": cells, **attributes})

    def finish(example):
        ids = example["input_ids"]
        if vocabulary.cls_id is not None:
            ids = ids[: vocabulary.input_size - 2]
            ids = np.insert(ids, 0, vocabulary.cls_id)
            ids = np.insert(ids, len(ids), vocabulary.eos_id)
        else:
            ids = ids[: vocabulary.input_size]
        example["input_ids"] = ids
        example["length"] = len(ids)
        return example

    return dataset.map(finish, num_proc=None)


if __name__ == "__main__":
    main()
