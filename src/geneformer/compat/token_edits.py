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
    return _with_ids(example, _split(example)[1])


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
    others, n_ends = _split(example)[1], int(special_token and len(_ids(example)) > 1)
    start, middle, end = others[:n_ends], others[n_ends : len(others) - n_ends], others[len(others) - n_ends :]
    return _with_ids(example, [*start, *_column(example, "tokens_to_perturb"), *middle][: max_len - n_ends] + end)


def calc_n_overflow(
    max_len: int, example_len: int, tokens_to_perturb: Sequence[int], indices_to_perturb: Sequence[int]
) -> int:
    """By how many tokens a row exceeds `max_len` after tokens it lacks were added; negative with room left.

    `indices_to_perturb` are the positions of those of `tokens_to_perturb` that it had before.
    """
    return example_len + len(tokens_to_perturb) - len(indices_to_perturb) - max_len


def truncate_by_n_overflow(example: Row) -> Row:
    """The row without its last `n_overflow` tokens; complete where that is not positive."""
    return _cut_before(0, example)


def truncate_by_n_overflow_special(example: Row) -> Row:
    """As `truncate_by_n_overflow`, before the last token, which is `<eos>` and stays."""
    return _cut_before(1, example)


def label_gene_classes(example: Row, class_id_dict: Mapping[Any, int], gene_class_dict: Mapping[int, Any]) -> list[int]:
    """Number of the class of each token of a row, by the class of each token that has one; -100 for tokens of none."""
    return [class_id_dict.get(gene_class_dict.get(token, ABSENT), ABSENT) for token in _ids(example)]


def _cut_before(n_last: int, example: Row) -> Row:
    row, overflow = _ids(example), max(int(_column(example, "n_overflow")), 0)
    end = len(row) - n_last
    return _with_ids(example, row[: max(end - overflow, 0)] + row[end:])


def _move_to(first: int, example: Row) -> Row:
    moved, others = _split(example)
    return _with_ids(example, [*others[:first], *moved, *others[first:]])


def _split(example: Row) -> tuple[list[Any], list[Any]]:
    """Tokens that are perturbed, and the others."""
    row, places = _ids(example), set(_flat(_column(example, "perturb_index"))) - {ABSENT}
    if outside := [place for place in places if not 0 <= place < len(row)]:
        msg = f"perturb_index names position {outside[0]} of a row of {len(row):,} tokens. Count from 0."
        raise DatasetError(msg)
    tokens = list(enumerate(row))
    return [x for place, x in tokens if place in places], [x for place, x in tokens if place not in places]


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
