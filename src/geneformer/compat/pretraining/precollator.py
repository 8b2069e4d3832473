"""What stands in for a tokenizer where `transformers` asks a collator for one."""

from collections.abc import Mapping, Sequence
from typing import Any

from geneformer.errors import InvalidVocabularyError, UnsupportedArgumentError
from geneformer.vocab.checks import MASK, PAD


class GeneformerPreCollator:
    """Pads rows of tokens on the right, and knows the ids of `<pad>` and `<mask>`.

    With `transformers.DataCollatorForLanguageModeling` it gives the published masking rule: `<cls>` and `<eos>` are
    selected as genes are, and ids drawn at random may be those of special tokens.

    Parameters
    ----------
    token_dictionary
        Id of every token, by gene or special token.

    Examples
    --------
    >>> from geneformer.pretrainer import GeneformerPreCollator
    >>> rows = GeneformerPreCollator({"<pad>": 0, "<mask>": 1, "ENSG1": 2})
    >>> rows.pad([{"input_ids": [2, 2]}, {"input_ids": [2]}])["input_ids"]
    [[2, 2], [2, 0]]
    """

    mask_token, pad_token, padding_side = MASK, PAD, "right"
    model_input_names = ("input_ids",)
    is_fast = False

    def __init__(self, token_dictionary: Mapping[str, int]) -> None:
        missing = [token for token in (PAD, MASK) if token not in token_dictionary]
        if missing:
            msg = f"token_dictionary has no {missing[0]}. Give the published one: `geneformer.TOKEN_DICTIONARY_FILE`."
            raise InvalidVocabularyError(msg)
        self.token_dictionary = {token: int(number) for token, number in token_dictionary.items()}

    def __len__(self) -> int:
        return len(self.token_dictionary)

    @property
    def pad_token_id(self) -> int:
        """Id of `<pad>`."""
        return self.token_dictionary[PAD]

    @property
    def mask_token_id(self) -> int:
        """Id of `<mask>`."""
        return self.token_dictionary[MASK]

    @property
    def all_special_ids(self) -> list[int]:
        """Ids that are never selected for masking."""
        return [self.mask_token_id, self.pad_token_id]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str] | None) -> Any:
        """Ids of one or several tokens; None for those that are not known.

        Parameters
        ----------
        tokens
            Genes or special tokens.
        """
        if tokens is None or isinstance(tokens, str):
            return None if tokens is None else self.token_dictionary.get(tokens)
        return [self.token_dictionary.get(token) for token in tokens]

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 where a token is `<pad>` or `<mask>`, else 0.

        Parameters
        ----------
        token_ids_0, token_ids_1
            Token ids; a second row follows the first.
        already_has_special_tokens
            Nothing is added to rows of tokens, so that it does not matter.
        """
        special = set(self.all_special_ids)
        return [int(int(token) in special) for token in [*token_ids_0, *(token_ids_1 or ())]]

    def pad(  # noqa: PLR0917  as tokenizers have it
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> dict[str, Any]:
        """Rows of equal length: `input_ids` and `attention_mask`, and other columns as they are.

        Parameters
        ----------
        encoded_inputs
            Rows with `input_ids`, or a table of columns.
        padding
            True or "longest" for the longest row, "max_length" for `max_length`, False for none.
        max_length
            Length to pad to; rows are never cut.
        pad_to_multiple_of
            Round the length up to a multiple of it.
        return_attention_mask
            False leaves it out.
        return_tensors
            None for lists, "pt" for tensors, "np" for arrays.
        verbose
            Nothing is told either way.
        """
        columns = _columns(encoded_inputs)
        rows = [[int(token) for token in row] for row in columns["input_ids"]]
        width = 0
        if padding is not False and padding != "do_not_pad":
            width = max((len(row) for row in rows), default=0)
            width = max(width, max_length or 0) if padding == "max_length" else width
            width = -(-width // pad_to_multiple_of) * pad_to_multiple_of if pad_to_multiple_of else width
        columns["input_ids"] = [row + [self.pad_token_id] * (width - len(row)) for row in rows]
        if return_attention_mask is not False:
            columns["attention_mask"] = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        return columns if return_tensors is None else _tensors(columns, return_tensors)

    def save_pretrained(self, save_directory: Any, **_: Any) -> tuple[str, ...]:
        """Nothing to save: the vocabulary belongs to the dataset.

        Parameters
        ----------
        save_directory
            Left as it is.
        """
        return ()


def _columns(rows: Any) -> dict[str, Any]:
    if isinstance(rows, Mapping):
        return dict(rows)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _tensors(columns: Mapping[str, Any], kind: str) -> dict[str, Any]:
    import torch

    if kind not in ("pt", "np"):
        msg = f'return_tensors={kind!r} is not made here. Use "pt" for tensors, "np" for arrays, or None for lists.'
        raise UnsupportedArgumentError(msg)
    made = {name: torch.as_tensor(values) for name, values in columns.items()}
    return {name: value.numpy() for name, value in made.items()} if kind == "np" else dict(made)
