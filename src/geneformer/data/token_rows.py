"""Changes of single rows of tokens, as dictionaries with `input_ids`, `length` and what else a row has."""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from geneformer import keys
from geneformer.errors import DatasetError

Row = MutableMapping[str, Any]

PERTURB_INDEX, TO_PERTURB, OVERFLOW = "perturb_index", "tokens_to_perturb", "n_overflow"

ABSENT = -100
"""Stands alone in `perturb_index` where a row has none of the tokens, and for the class of tokens of none."""


def delete_indices(example: Row) -> Row:
    """The row without the tokens at its `perturb_index`, which may be nested; `length` is that of what is left.

    Parameters
    ----------
    example
        A row; it is changed.

    Raises
    ------
    DatasetError
        A column is missing, or a position is not in the row.
    """
    gone = set(_positions(example))
    return _with_ids(example, [token for place, token in enumerate(_ids(example)) if place not in gone])


def overexpress_indices(example: Row) -> Row:
    """The row with the tokens at its `perturb_index` moved to the front, in the order in which the row has them.

    Parameters
    ----------
    example
        A row; it is changed.

    Raises
    ------
    DatasetError
        A column is missing, or a position is not in the row.
    """
    return _to_front(example, 0)


def overexpress_indices_special(example: Row) -> Row:
    """As `overexpress_indices`, behind the first token, which is `<cls>`.

    Parameters
    ----------
    example
        A row; it is changed.

    Raises
    ------
    DatasetError
        A column is missing, or a position is not in the row.
    """
    return _to_front(example, 1)


def overexpress_tokens(example: Row, max_len: int, special_token: bool) -> Row:
    """The row with its `tokens_to_perturb` in front, whether it had them or not, and no longer than `max_len`.

    Parameters
    ----------
    example
        A row, with the positions of those it has in `perturb_index`, or -100 alone; it is changed.
    max_len
        Most tokens.
    special_token
        Whether the row starts with `<cls>` and ends with `<eos>`, which stay where they are.

    Raises
    ------
    DatasetError
        A column is missing, or a position is not in the row.
    """
    row, gone = _ids(example), set(_positions(example))
    start, end = (row[:1], row[-1:]) if special_token and len(row) > 1 else ([], [])
    others = [row[place] for place in range(len(start), len(row) - len(end)) if place not in gone]
    front = [*start, *_column(example, TO_PERTURB)]
    return _with_ids(example, [*front, *others][: max_len - len(end)] + end)


def calc_n_overflow(
    max_len: int, example_len: int, tokens_to_perturb: Sequence[int], indices_to_perturb: Sequence[int]
) -> int:
    """By how many tokens a row exceeds the longest one after tokens it lacks were added; negative with room left.

    Parameters
    ----------
    max_len
        Most tokens.
    example_len
        Tokens of the row before.
    tokens_to_perturb
        Tokens that it has afterwards.
    indices_to_perturb
        Positions of those that it had before.
    """
    return example_len + len(tokens_to_perturb) - len(indices_to_perturb) - max_len


def truncate_by_n_overflow(example: Row) -> Row:
    """The row without its last `n_overflow` tokens; whole where that is not positive.

    Parameters
    ----------
    example
        A row; it is changed.

    Raises
    ------
    DatasetError
        A column is missing.
    """
    row = _ids(example)
    return _with_ids(example, row[: _kept(example, row)])


def truncate_by_n_overflow_special(example: Row) -> Row:
    """As `truncate_by_n_overflow`, before the last token, which is `<eos>` and stays.

    Parameters
    ----------
    example
        A row; it is changed.

    Raises
    ------
    DatasetError
        A column is missing.
    """
    row = _ids(example)
    return _with_ids(example, row[: max(_kept(example, row) - 1, 0)] + row[-1:])


def label_gene_classes(example: Row, class_id_dict: Mapping[Any, int], gene_class_dict: Mapping[int, Any]) -> list[int]:
    """Number of the class of each token; -100 for tokens of none.

    Parameters
    ----------
    example
        A row.
    class_id_dict
        Number of each class.
    gene_class_dict
        Class of each token that has one.

    Raises
    ------
    DatasetError
        The row has no tokens.
    """
    return [class_id_dict.get(gene_class_dict.get(token, ABSENT), ABSENT) for token in _ids(example)]


def _kept(example: Row, row: Sequence[Any]) -> int:
    """Tokens that are left of a row once what exceeds the longest one is cut off."""
    return max(len(row) - max(int(_column(example, OVERFLOW)), 0), 0)


def _to_front(example: Row, first: int) -> Row:
    row, places = _ids(example), set(_positions(example))
    moved = [token for place, token in enumerate(row) if place in places]
    others = [token for place, token in enumerate(row) if place not in places]
    return _with_ids(example, [*others[:first], *moved, *others[first:]])


def _positions(example: Row) -> list[int]:
    """Positions of what is perturbed, counted from the start."""
    places, n = list(_flat(_column(example, PERTURB_INDEX))), len(_ids(example))
    if places == [ABSENT]:
        return []
    outside = [place for place in places if not 0 <= place < n]
    if outside:
        msg = f"{PERTURB_INDEX} names position {outside[0]} of a row of {n:,} tokens. Give positions from 0 to {n - 1}."
        raise DatasetError(msg)
    return places


def _flat(values: Iterable[Any]) -> Iterable[int]:
    for value in values:
        if isinstance(value, Iterable):
            yield from _flat(value)
        else:
            yield int(value)


def _ids(example: Row) -> list[Any]:
    return list(_column(example, keys.INPUT_IDS))


def _column(example: Row, name: str) -> Any:
    if name not in example:
        msg = f"The row has no {name!r}; it has {sorted(example)}. Set it before this step."
        raise DatasetError(msg)
    return example[name]


def _with_ids(example: Row, ids: list[Any]) -> Row:
    example[keys.INPUT_IDS] = ids
    example[keys.LENGTH] = len(ids)
    return example
