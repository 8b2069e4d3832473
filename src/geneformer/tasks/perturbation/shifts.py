"""What an edit changed: cells and genes after it, compared with the same before it.

Definitions as in Theodoris et al. (Nature, 2023) and its code: `results.perturbation.DEFINITIONS` states them.

Axes: ``T`` packed tokens of edited cells, ``R`` packed tokens of the compared cells, ``B`` edited cells, ``D`` hidden,
``S`` states, ``C`` classes.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from geneformer.tasks.perturbation.reading import Reading


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Which token of a compared cell each token of an edited cell is.

    Attributes
    ----------
    cell
        Edited cell of every token, ``(T,)``.
    origin
        The same gene among the tokens of the compared cells, ``(T,)``; of no meaning where `is_other` is false.
    is_other
        Whether a token is a gene of the cell that was not edited itself, ``(T,)``.
    compared
        Compared cell of every edited one, ``(B,)``.
    """

    cell: Tensor
    origin: Tensor
    is_other: Tensor
    compared: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """Effects of a batch of edits, float32; None where they were not asked for.

    Attributes
    ----------
    similarity
        Cosine of the cell before and after; with mean pooling, the mean of the cosines of its other genes, ``(B,)``.
    shifts
        Change of the cosine with every state, ``(B, S)``.
    genes
        Cosine of every token before and after, ``(T,)``; of meaning where `Pairs.is_other`.
    proba_shifts
        Change of the probability of every class, ``(B, C)``.
    """

    similarity: Tensor | None = None
    shifts: Tensor | None = None
    genes: Tensor | None = None
    proba_shifts: Tensor | None = None


def compare(
    edited: Reading, before: Reading, pairs: Pairs, *, states_SD: Tensor | None, pooling: str, gene_effects: bool
) -> Effects:
    """Effects of a batch of edits.

    Parameters
    ----------
    edited, before
        Edited cells, and the cells they are compared with.
    pairs
        Which is which.
    states_SD
        Embeddings of states; with states, shifts are told instead of similarities.
    pooling
        "mean" or "cls".
    gene_effects
        Also compare genes.
    """
    genes_T = None
    if gene_effects or (states_SD is None and pooling == "mean"):
        genes_T = _gene_similarities(edited, before, pairs)
    similarity = shifts = None
    if states_SD is not None:
        # Unit vectors are subtracted first: their small difference is exact, that of two cosines is not.
        moved_BD = normalize(edited.vectors, dim=1) - normalize(before.vectors, dim=1)[pairs.compared]
        # Not a matrix product, which autocast would round to half precision.
        shifts = (moved_BD.unsqueeze(1) * normalize(states_SD.float(), dim=1)).sum(-1)
    elif pooling == "cls":
        similarity = cosine_similarity(edited.vectors, before.vectors[pairs.compared])
    elif genes_T is not None:
        similarity = _mean_over_others(genes_T, pairs)
    proba = None
    if edited.proba is not None and before.proba is not None:
        proba = edited.proba - before.proba[pairs.compared]
    return Effects(similarity, shifts, genes_T if gene_effects else None, proba)


def _gene_similarities(edited: Reading, before: Reading, pairs: Pairs) -> Tensor:
    if edited.hidden is None or before.hidden is None:
        msg = "Similarities of genes need the states of all tokens."
        raise ValueError(msg)
    return cosine_similarity(edited.hidden.float(), before.hidden[pairs.origin].float())


def _mean_over_others(genes_T: Tensor, pairs: Pairs) -> Tensor:
    """Mean over the genes of each cell that were not edited, ``(B,)``; not a number where there are none."""
    weights_T = pairs.is_other.to(genes_T.dtype)
    sums, numbers = (
        genes_T.new_zeros(len(pairs.compared)).index_add(0, pairs.cell, values)
        for values in (genes_T * weights_T, weights_T)
    )
    return sums / numbers
