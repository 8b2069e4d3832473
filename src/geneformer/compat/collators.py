"""What stands in for a tokenizer where `transformers` asks a collator for one."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from geneformer import errors
from geneformer.compat.dictionaries import published_vocabulary
from geneformer.compat.training_arguments import accept_other_names
from geneformer.genes.vocabulary import MASK, PAD
from geneformer.models.losses import MISSING
from geneformer.options._fields import check_choice

accept_other_names()  # scripts that import a collator, or the pretrainer, make their TrainingArguments themselves


class GeneformerPreCollator:
    """Pads rows of tokens on the right, and knows the ids of `<pad>` and `<mask>`.

    With `transformers.DataCollatorForLanguageModeling` it gives the published masking rule: `<cls>` and `<eos>` are
    selected as genes are, and ids drawn at random may be those of special tokens.

    Parameters
    ----------
    token_dictionary : Id of every token, by gene or special token.

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
            raise errors.InvalidVocabularyError(msg)
        self.token_dictionary = {token: int(number) for token, number in token_dictionary.items()}
        self.pad_token_id, self.mask_token_id = self.token_dictionary[PAD], self.token_dictionary[MASK]
        self.all_special_ids = [self.mask_token_id, self.pad_token_id]  # never selected for masking

    def __len__(self) -> int:
        return len(self.token_dictionary)

    def convert_tokens_to_ids(self, tokens: str | Sequence[str] | None) -> Any:
        """Ids of one or several tokens; None for those it does not have."""
        if tokens is None or isinstance(tokens, str):
            return None if tokens is None else self.token_dictionary.get(tokens)
        return [self.token_dictionary.get(token) for token in tokens]

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 where a token is `<pad>` or `<mask>`, else 0; a second row follows the first."""
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
        encoded_inputs : Rows with `input_ids`, or a table of columns.
        padding : True or "longest" for the longest row, "max_length", False for none. Rows are never cut.
        max_length, pad_to_multiple_of : The least length, and what it is rounded up to a multiple of.
        return_attention_mask, return_tensors : False leaves it out. None for lists, "pt" for tensors, "np" for arrays.
        verbose : Has nothing to do.
        """
        if isinstance(encoded_inputs, Mapping):
            columns = dict(encoded_inputs)
        else:
            columns = {name: [row[name] for row in encoded_inputs] for name in encoded_inputs[0]}
        rows = [[int(token) for token in row] for row in columns["input_ids"]]
        width = 0
        if padding is not False and padding != "do_not_pad":
            width = max((len(row) for row in rows), default=0)
            width = max(width, max_length or 0) if padding == "max_length" else width
            width = -(-width // pad_to_multiple_of) * pad_to_multiple_of if pad_to_multiple_of else width
        columns["input_ids"] = [row + [self.pad_token_id] * (width - len(row)) for row in rows]
        if return_attention_mask is not False:
            columns["attention_mask"] = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        if return_tensors not in (None, "pt", "np"):
            msg = f'return_tensors={return_tensors!r} is not made here. Use "pt", "np", or None for lists.'
            raise errors.UnsupportedArgumentError(msg)
        if return_tensors is None:
            return columns
        made = {name: torch.as_tensor(values) for name, values in columns.items()}
        return made if return_tensors == "pt" else {name: tensor.numpy() for name, tensor in made.items()}

    def save_pretrained(self, save_directory: Any, **_: Any) -> tuple[str, ...]:
        """Nothing to save: the vocabulary belongs to the dataset."""
        return ()


@dataclass(eq=False, repr=False)
class DataCollatorForGeneClassification:
    """Batches of cells with one class for each token, for `transformers.BertForTokenClassification`.

    Takes rows with `input_ids` and `labels`; hands out `input_ids`, `attention_mask` and `labels`, padded with -100.

    Parameters
    ----------
    token_dictionary : Token ids by name, V2's by default; only that of `<pad>` is used, which is the same in all.
    padding, max_length, pad_to_multiple_of : How far batches are padded; True pads to the longest cell.

    Examples
    --------
    >>> from geneformer import DataCollatorForGeneClassification
    >>> collate = DataCollatorForGeneClassification(token_dictionary={"<pad>": 0})
    >>> collate([{"input_ids": [5, 7], "labels": [1, -100]}, {"input_ids": [9], "labels": [0]}])["labels"].tolist()
    [[1, -100], [0, -100]]
    """

    token_dictionary: Mapping[str, int] | None = None
    _: KW_ONLY
    padding: bool | str = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None

    def __post_init__(self) -> None:
        tokens = dict(self.token_dictionary or published_vocabulary("V2").published_tables()["token_dictionary"])
        if PAD not in tokens:
            msg = f"token_dictionary has no {PAD}. Give the dictionary that the cells were tokenized with."
            raise errors.OptionError(msg)
        self.token_dictionary, self._pad_id = tokens, int(tokens[PAD])

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch; `input_ids` and `attention_mask` are ``(B, L)``, `labels` ``(B,)`` or one for each token."""
        return self._prepare_batch(features)

    def _prepare_batch(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """What `__call__` returns; published scripts override it, or call it from a `__call__` of their own."""
        batch = self._padded(features)
        if "labels" not in features[0]:
            return batch
        labels = [_numbers(feature, "labels") for feature in features]
        for row, feature in zip(labels, features, strict=True):
            if len(row) != len(feature["input_ids"]):
                n_tokens = len(feature["input_ids"])
                msg = f"A cell has {n_tokens:,} tokens and {len(row):,} labels. Give one for each token."
                raise errors.DatasetError(msg)
        return batch | {"labels": _filled(labels, batch["input_ids"].shape[1], MISSING)}

    def _padded(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, int64, ``(B, L)``."""
        if not features:
            msg = "A batch without cells cannot be collated."
            raise errors.DatasetError(msg)
        check_choice("padding", self.padding, (True, False, "longest", "max_length", "do_not_pad"))
        rows = [_numbers(feature, "input_ids") for feature in features]
        lengths = [len(row) for row in rows]
        width, step = max(lengths), self.pad_to_multiple_of or 1
        if self.padding == "max_length":
            if self.max_length is None or width > self.max_length:
                msg = f'padding="max_length" with max_length={self.max_length}, but a cell has {width:,} tokens.'
                raise errors.OptionError(msg)
            width = self.max_length
        elif self.padding in (False, "do_not_pad") and len(set(lengths)) > 1:
            msg = f"padding={self.padding!r}, but the cells of the batch differ in length. Use padding=True."
            raise errors.OptionError(msg)
        width = -(-width // step) * step
        mask = _filled([torch.ones_like(row) for row in rows], width, 0)
        return {"input_ids": _filled(rows, width, self._pad_id), "attention_mask": mask}


class DataCollatorForCellClassification(DataCollatorForGeneClassification):
    """Batches of cells with one class each, for `transformers.BertForSequenceClassification`.

    Takes rows with `input_ids` and `label` (or `labels`); hands out `input_ids`, `attention_mask` and `labels`. Whole
    numbers become int64, other numbers float32.

    Parameters
    ----------
    token_dictionary, padding, max_length, pad_to_multiple_of : As in `DataCollatorForGeneClassification`.

    Examples
    --------
    >>> from geneformer import DataCollatorForCellClassification
    >>> collate = DataCollatorForCellClassification(token_dictionary={"<pad>": 0})
    >>> collate([{"input_ids": [5, 7], "label": 1}, {"input_ids": [9], "label": 0}])["input_ids"].tolist()
    [[5, 7], [9, 0]]
    """

    def _prepare_batch(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = self._padded(features)
        name = next((name for name in ("label", "labels", "label_ids") if name in features[0]), None)
        if name is not None:
            labels = torch.stack([torch.as_tensor(feature[name]) for feature in features])
            batch["labels"] = labels.float() if labels.is_floating_point() else labels.long()
        return batch


def _numbers(feature: Mapping[str, Any], name: str) -> Tensor:
    if name not in feature:
        msg = f"A row has no {name}; it has {sorted(feature)}. Keep that column of the data set."
        raise errors.DatasetError(msg)
    return torch.as_tensor(feature[name], dtype=torch.int64)


def _filled(rows: Sequence[Tensor], width: int, value: int) -> Tensor:
    """Rows one below the other, filled up on the right, ``(B, width)``."""
    batch = pad_sequence(list(rows), batch_first=True, padding_value=value)
    return functional.pad(batch, (0, width - batch.shape[1]), value=value)
