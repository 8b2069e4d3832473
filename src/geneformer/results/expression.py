"""How well the expression of genes was predicted that were taken out of held-out cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.results.numbers import NumberEvaluation, NumberReport
from geneformer.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pyarrow as pa
    from anndata import AnnData

GENE = "gene"
"""Column with the gene of each prediction."""

RANK = "rank"
"""Layer of predicted ranks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpressionReport(NumberReport):
    """Predicted numbers of genes in cells, beside their baselines: one row per cell and gene.

    Attributes
    ----------
    genes
        Ensembl id of each gene, ``(n,)``.

    The others are those of `NumberReport`.
    """

    kind = "expression"

    genes: NDArray[Any]

    def _columns(self) -> dict[str, Any]:
        return {GENE: np.asarray(self.genes, dtype=object), **super()._columns()}

    @classmethod
    def _read(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        return cls(
            evaluation=NumberEvaluation.from_dict(content["evaluation"]),
            baselines={name: NumberEvaluation.from_dict(found) for name, found in content["baselines"].items()},
            cell_ids=np.array(table[keys.CELL_ID].to_pylist(), dtype=object),
            genes=np.array(table[GENE].to_pylist(), dtype=object),
            truth=table["truth"].to_numpy(),
            predicted=table["predicted"].to_numpy(),
            settings=content["settings"],
        )


def expression_anndata(
    predicted: NDArray[np.float32],
    starts: NDArray[np.int64],
    genes: NDArray[np.int64],
    *,
    names: NDArray[Any],
    places: NDArray[np.int64],
    wanted: NDArray[np.int64] | None,
    vocabulary: Vocabulary,
    provenance: Mapping[str, Any],
) -> "AnnData":
    """Predicted values as `X` and ranks as a layer: dense for wanted genes, else sparse over the whole vocabulary.

    Parameters
    ----------
    predicted
        Value and rank of the genes of each cell, cell after cell, ``(p, 2)``.
    starts
        Where the genes of each cell start, and the total, ``(k + 1,)``.
    genes
        Token ids of the genes, ``(p,)``.
    names
        All cells to name, ``(n,)``.
    places
        Which of them are the cells with predictions, ``(k,)``; the others stay empty, or not a number.
    wanted
        Token ids of the genes that were predicted in every cell.
    vocabulary
        Names of the genes.
    provenance
        Model, vocabulary, versions.
    """
    import anndata as ad
    import pandas as pd
    from scipy import sparse

    column_of = np.full(vocabulary.size, -1, dtype=np.int64)
    column_of[vocabulary.token_ids] = np.arange(len(vocabulary.genes))
    sides: list[Any] = []
    for side in range(2):
        if wanted is not None:
            whole = np.full((len(names), len(wanted)), np.nan, dtype=np.float32)
            whole[places] = predicted[:, side].reshape(len(places), len(wanted))
            sides.append(whole)
            continue
        where = (np.repeat(places, np.diff(starts)), column_of[genes])
        shape = (len(names), len(vocabulary.genes))
        sides.append(sparse.csr_matrix((predicted[:, side], where), shape=shape))
    ids = vocabulary.genes if wanted is None else vocabulary.gene_of[wanted]
    var = pd.DataFrame({"symbol": [vocabulary.symbol_of(gene) for gene in ids]}, index=pd.Index(ids))
    obs = pd.DataFrame(index=pd.Index(names))
    return ad.AnnData(sides[0], obs=obs, var=var, layers={RANK: sides[1]}, uns={keys.UNS: dict(provenance)})
