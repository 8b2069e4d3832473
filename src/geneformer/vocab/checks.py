"""What a vocabulary must satisfy; each refusal names the entry that breaks it."""

import math
from collections.abc import Mapping, Sequence

from geneformer.errors import InvalidVocabularyError

PAD, MASK, CLS, EOS = "<pad>", "<mask>", "<cls>", "<eos>"
SPECIAL = (PAD, MASK, CLS, EOS)
"""Special tokens, in the order of their published ids. The last two come together or not at all."""


def check_entries(
    name: str,
    genes: Sequence[str],
    token_ids: Sequence[int],
    medians: Sequence[float],
    special_tokens: Mapping[str, int],
    input_size: int,
) -> None:
    """Refuse a vocabulary that contradicts itself.

    Raises
    ------
    InvalidVocabularyError
        Lengths that differ, special tokens missing or misplaced, an id or a gene used twice, a hole among the ids, or a
        median that is no positive number.
    """
    where = f'Vocabulary "{name}"'
    if not len(genes) == len(token_ids) == len(medians):
        msg = (
            f"{where} has {len(genes)} genes, {len(token_ids)} token ids and {len(medians)} medians. Give one of each."
        )
        raise InvalidVocabularyError(msg)
    _check_special(where, special_tokens)
    _check_genes(where, genes)
    _check_ids(where, genes, token_ids, special_tokens)
    _check_medians(where, genes, medians)
    if isinstance(input_size, bool) or not isinstance(input_size, int) or input_size <= len(special_tokens):
        msg = (
            f"{where} has an input size of {input_size!r}. "
            f"It takes a whole number above {len(special_tokens)}, such as 2048."
        )
        raise InvalidVocabularyError(msg)


def _check_special(where: str, special_tokens: Mapping[str, int]) -> None:
    unknown = [token for token in special_tokens if token not in SPECIAL]
    missing = [token for token in (PAD, MASK) if token not in special_tokens]
    if unknown or missing or (CLS in special_tokens) != (EOS in special_tokens):
        msg = (
            f"{where} has the special tokens {list(special_tokens)}. It takes {PAD} and {MASK}, "
            f"and {CLS} and {EOS} both or neither."
        )
        raise InvalidVocabularyError(msg)
    if special_tokens[PAD] != 0:
        msg = f"{where} gives {PAD} the id {special_tokens[PAD]}. It must be 0, which is what models pad with."
        raise InvalidVocabularyError(msg)


def _check_genes(where: str, genes: Sequence[str]) -> None:
    if not len(genes):
        msg = f"{where} has no genes."
        raise InvalidVocabularyError(msg)
    if _are_plain(genes) and len(set(map(str.upper, genes))) == len(genes):
        return
    seen: dict[str, str] = {}
    for gene in genes:
        if not isinstance(gene, str) or not gene.strip() or gene != gene.strip() or not gene.isprintable():
            msg = f"{where} has a gene named {gene!r}. A gene is named by a printable text without surrounding spaces."
            raise InvalidVocabularyError(msg)
        if gene.upper() in seen:
            msg = f'{where} has the gene "{gene}" twice (first as "{seen[gene.upper()]}"). Keep one.'
            raise InvalidVocabularyError(msg)
        seen[gene.upper()] = gene


def _are_plain(genes: Sequence[str]) -> bool:
    """Whether all are printable texts without any space; told at once, most often so."""
    if set(map(type, genes)) != {str} or not all(genes):
        return False
    joined = "".join(genes)
    return joined.isprintable() and " " not in joined


def _check_ids(where: str, genes: Sequence[str], token_ids: Sequence[int], special_tokens: Mapping[str, int]) -> None:
    owner: dict[int, str] = {}
    size = len(genes) + len(special_tokens)
    numbers = [*special_tokens.values(), *token_ids]
    if set(map(type, numbers)) == {int} and set(numbers) == set(range(size)):
        return
    for entry, token in [*special_tokens.items(), *zip(genes, token_ids, strict=True)]:
        if isinstance(token, bool) or not isinstance(token, int):
            msg = f'{where} gives "{entry}" the id {token!r}. An id is a whole number.'
            raise InvalidVocabularyError(msg)
        if token in owner:
            msg = f'{where} gives the id {token} to "{owner[token]}" and to "{entry}". Give each its own.'
            raise InvalidVocabularyError(msg)
        owner[token] = entry
    for token, entry in owner.items():
        if not 0 <= token < size:
            hole = next(number for number in range(size) if number not in owner)
            msg = (
                f'{where} gives "{entry}" the id {token} and leaves out {hole}. '
                f"{size} tokens take the ids 0 to {size - 1}."
            )
            raise InvalidVocabularyError(msg)


def _check_medians(where: str, genes: Sequence[str], medians: Sequence[float]) -> None:
    if all(map(math.isfinite, medians)) and min(medians) > 0:
        return
    for gene, median in zip(genes, medians, strict=True):
        if not (math.isfinite(median) and median > 0):
            msg = f'{where} gives the gene "{gene}" the median {median}. A nonzero median is a positive number.'
            raise InvalidVocabularyError(msg)
