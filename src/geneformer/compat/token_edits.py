"""Changes of single rows under their published names, as scripts map them over a `datasets.Dataset`.

Each takes a row with `input_ids`, changes it and returns it with the new `length`. `perturb_index` holds positions,
nested or not, or -100 alone where the row has none of the tokens. `DatasetError` is raised where a column is missing or
a position lies outside of the row.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from geneformer import keys
from geneformer.errors import DatasetError

Row = MutableMapping[str, Any]

ABSENT = -100
"""Stands alone in `perturb_index` where a row has none of the tokens, and for the class of tokens of none."""


def delete_indices(example: Row) -> Row:
    """The row without the tokens at its `perturb_index`."""
    gone = _positions(example)
    return _with_ids(example, [token for place, token in enumerate(_ids(example)) if place not in gone])


def overexpress_indices(example: Row) -> Row:
    """The row with the tokens at its `perturb_index` moved to the front, in the order in which the row has them."""
    return _move_to(0, example)


def overexpress_indices_special(example: Row) -> Row:
    """As `overexpress_indices`, behind the first token, which is `<cls>`."""
    return _move_to(1, example)


def overexpress_tokens(example: Row, max_len: int, special_token: bool) -> Row:
    """The row with its `tokens_to_perturb` in front, whether it had them or not, and no longer than `max_len`.

    With `special_token` the row starts with `<cls>` and ends with `<eos>`, which stay where they are.
    """
    row, gone = _ids(example), _positions(example)
    start, end = (row[:1], row[-1:]) if special_token and len(row) > 1 else ([], [])
    others = [row[place] for place in range(len(start), len(row) - len(end)) if place not in gone]
    front = [*start, *_column(example, "tokens_to_perturb")]
    return _with_ids(example, [*front, *others][: max_len - len(end)] + end)


def calc_n_overflow(
    max_len: int, example_len: int, tokens_to_perturb: Sequence[int], indices_to_perturb: Sequence[int]
) -> int:
    """By how many tokens a row exceeds `max_len` after tokens it lacks were added; negative with room left.

    `indices_to_perturb` are the positions of those of `tokens_to_perturb` that it had before.
    """
    return example_len + len(tokens_to_perturb) - len(indices_to_perturb) - max_len


def truncate_by_n_overflow(example: Row) -> Row:
    """The row without its last `n_overflow` tokens; complete where that is not positive."""
    row = _ids(example)
    return _with_ids(example, row[: _n_remaining(example, row)])


def truncate_by_n_overflow_special(example: Row) -> Row:
    """As `truncate_by_n_overflow`, before the last token, which is `<eos>` and stays."""
    row = _ids(example)
    return _with_ids(example, row[: max(_n_remaining(example, row) - 1, 0)] + row[-1:])


def label_gene_classes(example: Row, class_id_dict: Mapping[Any, int], gene_class_dict: Mapping[int, Any]) -> list[int]:
    """Number of the class of each token of a row, by the class of each token that has one; -100 for tokens of none."""
    return [class_id_dict.get(gene_class_dict.get(token, ABSENT), ABSENT) for token in _ids(example)]


def _n_remaining(example: Row, row: Sequence[Any]) -> int:
    return max(len(row) - max(int(_column(example, "n_overflow")), 0), 0)


def _move_to(first: int, example: Row) -> Row:
    row, places = _ids(example), _positions(example)
    moved = [token for place, token in enumerate(row) if place in places]
    others = [token for place, token in enumerate(row) if place not in places]
    return _with_ids(example, [*others[:first], *moved, *others[first:]])


def _positions(example: Row) -> set[int]:
    """Positions of what is perturbed, counted from the start."""
    places, n = list(_flat(_column(example, "perturb_index"))), len(_ids(example))
    if places == [ABSENT]:
        return set()
    if outside := [place for place in places if not 0 <= place < n]:
        msg = f"perturb_index names position {outside[0]} of a row of {n:,} tokens. Give positions from 0 to {n - 1}."
        raise DatasetError(msg)
    return set(places)


def _flat(values: Iterable[Any]) -> Iterator[int]:
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
