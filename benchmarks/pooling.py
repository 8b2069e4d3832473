"""What a cell embedding knows about labels, by encoder layer and by the weight its genes have.

Genes weigh 1 / (1 + rank / scale), the scale being in the table; an infinite one weighs them alike. For every data set:
accuracy of 15 nearest neighbors and of a linear probe, on cells held out in turn. Writes JSON.

    python benchmarks/pooling.py --model mini --output benchmarks/results/pooling.json \
        --data counts/pbmc4k_soupx.h5ad:cell_type --data counts/ctcl_skin.h5ad:disease
"""

import argparse
import json
import shlex
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import torch

from geneformer.engine.inference import run_batches
from geneformer.errors import GeneformerWarning
from geneformer.finetuning.labels import is_labeled
from geneformer.inference.cells import tokens_for
from geneformer.inference.quality import embedding_quality
from geneformer.models.encoder import cell_of
from geneformer.models.loading import load_model
from geneformer.options import RuntimeOptions

SCALES = (np.inf, 1000.0, 300.0, 100.0, 30.0, 10.0)


def embeddings(adata, model, runtime):
    """Embedding for every layer and scale, ``(n, D)``."""
    loaded = load_model(model)
    tokens, rows = tokens_for(adata, loaded, counts_layer=None, gene_ids=None)
    assert len(rows) == adata.n_obs
    encoder, special = loaded.network.bert, torch.from_numpy(loaded.vocabulary.special_ids.astype(np.int64))
    layers = range(0, -loaded.n_layers - 1, -1)
    made = {(layer, scale): np.empty((len(tokens), encoder.config.hidden_size)) for layer in layers for scale in SCALES}

    def step(batch):
        ids, cu = batch.input_ids, batch.cu_seqlens
        cells, lengths = cell_of(cu, len(ids)), torch.diff(cu).tolist()
        is_gene = ~torch.isin(ids, special)
        before = torch.nn.functional.pad(is_gene.cumsum(0), (1, 0))
        rank = before[:-1] - before[cu[:-1]][cells]
        hidden = encoder.embed_tokens(ids, cu)
        for done in range(loaded.n_layers + 1):
            if done:
                hidden = encoder.run_layers(hidden, lengths, start=done - 1, stop=done, attention=batch.attention)
            for scale in SCALES:
                weight = is_gene / (1 + rank / scale)
                sums = torch.zeros(len(lengths), hidden.shape[1]).index_add(0, cells, hidden.float() * weight[:, None])
                pooled = sums / torch.zeros(len(lengths)).index_add(0, cells, weight.float())[:, None]
                made[done - loaded.n_layers, scale][batch.rows] = pooled.numpy()

    run_batches(tokens, encoder, step, runtime, max_length=loaded.max_length)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--data", action="append", required=True, metavar="FILE:LABEL")
    parser.add_argument("--cells", type=int, default=1500, help="drawn from a larger set")
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    warnings.simplefilter("ignore", GeneformerWarning)
    runtime = RuntimeOptions(device="cpu", dtype="float32", progress=False)
    rows = []
    for given in asked.data:
        path, _, label = given.rpartition(":")
        adata = ad.read_h5ad(path)
        adata = adata[is_labeled(adata.obs[label])].copy()
        counts = adata.obs[label].value_counts()
        adata = adata[adata.obs[label].isin(counts.index[counts >= 10]).to_numpy()].copy()
        if adata.n_obs > asked.cells:
            adata = adata[np.sort(np.random.default_rng(0).choice(adata.n_obs, asked.cells, replace=False))].copy()
            counts = adata.obs[label].value_counts()
            adata = adata[adata.obs[label].isin(counts.index[counts >= 5]).to_numpy()].copy()
        for (layer, scale), values in embeddings(adata, asked.model, runtime).items():
            quality = embedding_quality(values, adata.obs[label].astype(str))
            rows.append(
                {"data": f"{Path(path).stem} {label}", "n": adata.n_obs, "layer": layer, "scale": str(scale)}
                | {"knn": quality.knn.mean, "probe": quality.probe.mean}
            )
            print(json.dumps(rows[-1]), flush=True)
    asked.output.write_text(
        json.dumps({"command": shlex.join(["python", *sys.argv]), "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
