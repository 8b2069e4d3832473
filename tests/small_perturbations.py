"""Effects of perturbations as a run leaves them: made up, or stored by the published package."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa

from geneformer.genes.vocabulary import Vocabulary
from geneformer.perturbation.effects import EFFECT_COLUMNS, SHIFT, SIMILARITY, PerturbationEffects
from golden import GOLDEN


def golden_run(version, *runs):
    """What the published package stored in some of its runs."""
    vocabulary = Vocabulary.load(version)
    stored = pd.read_parquet(GOLDEN / f"perturbation_{version}.parquet")
    stored = stored[stored["run"].isin(runs)]
    names = {str(token): str(gene) for token, gene in enumerate(vocabulary.gene_of)}
    genes = ["+".join(names[token] for token in tokens.split(",")) for tokens in stored["perturbed_tokens"]]
    of_cell, shifted = stored["affected"] == "cell", stored["state"].notna()
    kind = np.where(~of_cell, "gene_similarity", np.where(shifted, SHIFT, SIMILARITY))
    affected = stored["affected"].map(names)
    cell = stored["cell_in_slice"].fillna(stored["position_in_list"]).astype(int)
    effects = pd.DataFrame(
        {
            "cell_id": [f"cell{number}" for number in cell],
            "perturbation": genes,
            "genes": genes,
            "edit": "delete",
            "effect": kind,
            "target": np.where(of_cell, stored["state"].fillna(""), affected),
            "value": stored["value"].astype(np.float32),
            "method": "exact",
        }
    )
    distinct = sorted({gene for entry in genes for gene in entry.split("+")})
    states = json.loads((GOLDEN / "choices.json").read_text())["states"] if shifted.any() else []
    return PerturbationEffects(
        pa.Table.from_pandas(effects, preserve_index=False),
        pa.table({"cell_id": sorted(set(effects["cell_id"]))}),
        pa.table(
            {
                "gene": distinct,
                "symbol": [vocabulary.symbol_of(gene) for gene in distinct],
                "token": [vocabulary.token_of[gene] for gene in distinct],
            }
        ),
        {state: np.zeros(2, np.float32) for state in states},
        {"vocabulary": version, "vocabulary_fingerprint": vocabulary.fingerprint},
    )


def golden_statistics(version, name):
    """What the published package made of them; the index is its unnamed first column."""
    return pd.read_csv(GOLDEN / f"stats_{version}_{name}.csv", index_col=0)


def made_run(
    n_genes=40, n_cells=30, *, shift=None, states=("sick", "well", "other"), donors=5, seed=0, detected=0.7, spread=0.0
):
    """Effects of deleting each of some genes, around a mean of their own.

    `shift` is added to the effects of each gene, `(n_genes,)`; `spread` is the deviation of genes from each other.
    Without states effects are similarities.
    """
    rng = np.random.default_rng(seed)
    names = [f"ENSG{number:05d}" for number in range(n_genes)]
    center = rng.normal(scale=spread, size=n_genes) + (0 if shift is None else np.asarray(shift))
    rows = []
    for place, gene in enumerate(names):
        cells = np.flatnonzero(rng.random(n_cells) < detected)
        for cell in cells:
            noise = rng.normal(size=max(len(states), 1))
            for state, draw in zip(states or ("",), noise, strict=True):
                value = 0.01 * (draw + (center[place] if state != "sick" else 0))
                told = (SHIFT, state, value) if states else (SIMILARITY, "", 0.9 - value)
                rows.append((f"c{cell}", gene, gene, "delete", *told, "exact"))
    columns = dict(zip(EFFECT_COLUMNS, zip(*rows, strict=True), strict=True))
    genes = {
        "gene": names,
        "symbol": [f"G{number}" for number in range(n_genes)],
        "token": list(range(10, 10 + n_genes)),
        "mean_rank": np.linspace(0, 1, n_genes),
    }
    genes |= {f"expression:{state}": rng.random(n_genes) for state in states}
    cells = {"cell_id": [f"c{cell}" for cell in range(n_cells)], "donor": [f"d{c % donors}" for c in range(n_cells)]}
    embeddings = {state: rng.normal(size=4).astype(np.float32) for state in states}
    return PerturbationEffects(pa.table(columns), pa.table(cells), pa.table(genes), embeddings, {"model": "made up"})
