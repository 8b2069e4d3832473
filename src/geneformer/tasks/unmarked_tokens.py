"""Tokens that do not say which vocabulary they were made with: taken for the model's once nothing speaks against."""

import logging

import numpy as np
from pyarrow import compute

from geneformer import keys
from geneformer.data.dataset import TokenizedDataset
from geneformer.errors import UnknownVocabularyError
from geneformer.vocab.vocabulary import BUNDLED, Vocabulary

_logger = logging.getLogger(__name__)

_LOOKED_AT = 2000


def mark_tokens(tokens: TokenizedDataset, vocabulary: Vocabulary) -> TokenizedDataset:
    """The same tokens, marked as those of a vocabulary; tokens that name a bundled one keep what they say.

    Cells of a vocabulary with `<cls>` may lack it: whether special tokens are there is seen from the cells.

    Parameters
    ----------
    tokens
        Tokenized cells.
    vocabulary
        Vocabulary of the model they are for.

    Raises
    ------
    UnknownVocabularyError
        The ids cannot be of that vocabulary.
    """
    bundled = {Vocabulary.load(name).fingerprint for name in BUNDLED}
    is_own = vocabulary.fingerprint not in bundled and tokens.vocabulary not in bundled
    if not len(tokens) or not (tokens.vocabulary is None or is_own):
        return tokens
    largest = _largest(tokens)
    if largest >= vocabulary.size:
        msg = (
            f"The tokens hold id {largest:,}, but vocabulary {vocabulary.name} has {vocabulary.size:,} tokens. They "
            "were made with another one; use a model of theirs, or tokenize the counts again."
        )
        raise UnknownVocabularyError(msg)
    rows = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), _LOOKED_AT)).astype(np.int64))
    cells = [cell for row in rows if len(cell := tokens[int(row)])]
    if vocabulary.cls_id is None:
        _refuse_enclosed(cells, vocabulary)
    elif not any(cell[0] == vocabulary.cls_id for cell in cells):
        _logger.warning("No cell starts with <cls>, so that all tokens are taken for genes.")
    return TokenizedDataset(tokens.table, vocabulary=vocabulary.fingerprint, path=tokens.path)


def _refuse_enclosed(cells: list[np.ndarray], vocabulary: Vocabulary) -> None:
    """Cells that all begin and end with what `<cls>` and `<eos>` are elsewhere are of that vocabulary."""
    other = Vocabulary.load("V2")
    if len(cells) > 1 and all(cell[0] == other.cls_id and cell[-1] == other.eos_id for cell in cells):
        msg = (
            f"All cells start with token {other.cls_id} and end with {other.eos_id}: they were made with vocabulary "
            f"{other.name}, not {vocabulary.name}. Use a model of {other.name}, or tokenize the counts again."
        )
        raise UnknownVocabularyError(msg)


def _largest(tokens: TokenizedDataset) -> int:
    ids = tokens.table.column(keys.INPUT_IDS)
    return max((compute.max(chunk.flatten()).as_py() or 0 for chunk in ids.chunks if len(chunk)), default=0)
