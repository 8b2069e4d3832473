"""A vocabulary small enough to reason about, and counts for it."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from geneformer.genes.vocabulary import Vocabulary

N_GENES, N_CELLS = 40, 30
IDS = np.array([f"ENSG{number:011d}" for number in range(1, N_GENES + 1)], dtype=object)


def make_vocabulary(*, framed: bool = False, input_size: int = 2048) -> Vocabulary:
    rng = np.random.default_rng(7)
    specials = {"<pad>": 0, "<mask>": 1, **({"<cls>": 2, "<eos>": 3} if framed else {})}
    medians = np.exp(rng.normal(1.0, 0.7, N_GENES))
    medians[5] = medians[6]
    return Vocabulary(
        name="toy",
        genes=IDS,
        token_ids=np.arange(len(specials), len(specials) + N_GENES),
        medians=medians,
        special_tokens=specials,
        input_size=input_size,
    )


def make_adata(*, n_cells: int = N_CELLS, seed: int = 0) -> anndata.AnnData:
    """Raw counts over the genes of the toy vocabulary and ten others, in mixed order."""
    rng = np.random.default_rng(seed)
    others = [f"ENSG{number:011d}" for number in range(900, 910)]
    names = rng.permutation(np.concatenate([IDS.astype(str), others]))
    counts = rng.poisson(1.0, size=(n_cells, len(names))) * rng.integers(1, 9, size=(n_cells, len(names)))
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(rng.choice(["B", "T"], n_cells)),
            "donor": [None if cell % 7 == 3 else f"d{cell % 3}" for cell in range(n_cells)],
            "age": rng.integers(20, 80, n_cells),
            "score": rng.normal(size=n_cells),
            "healthy": rng.random(n_cells) > 0.5,
        },
        index=[f"cell{cell}" for cell in range(n_cells)],
    )
    return anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=names))


def slow_tokens(counts, columns, vocabulary, max_length):
    """The definition, one gene and one cell at a time: (ids, counts) of each cell without special tokens."""
    position = {gene: place for place, gene in enumerate(vocabulary.genes)}
    cells = []
    for row in np.asarray(counts, dtype=np.float64):
        summed = {}
        for gene, count in zip(columns, row, strict=True):
            if gene in position and count > 0:
                summed[gene] = summed.get(gene, 0.0) + count
        ranked = sorted(summed, key=lambda g: (-summed[g] / vocabulary.medians[position[g]], position[g]))
        ranked = ranked[:max_length]
        ids = [int(vocabulary.token_ids[position[gene]]) for gene in ranked]
        cells.append((ids, [summed[gene] / row.sum() * 10_000 for gene in ranked]))
    return cells


@pytest.fixture(scope="session")
def toy():
    return make_vocabulary()


@pytest.fixture(scope="session")
def framed():
    return make_vocabulary(framed=True, input_size=4096)


@pytest.fixture
def adata():
    return make_adata()
