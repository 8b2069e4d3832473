"""How many tokens a cell may have."""

from geneformer.errors import OutOfRangeError
from geneformer.options import TokenizeOptions
from geneformer.vocab.vocabulary import Vocabulary


def max_length_of(options: TokenizeOptions, vocabulary: Vocabulary) -> int:
    """Most tokens of a cell, special tokens included.

    Raises
    ------
    OutOfRangeError
        More than the vocabulary's models have positions.
    """
    if options.max_length is None:
        return vocabulary.input_size
    if options.max_length > vocabulary.input_size:
        msg = (
            f'max_length={options.max_length} is more than vocabulary "{vocabulary.name}" is made for. It takes at '
            f"most {vocabulary.input_size}."
        )
        raise OutOfRangeError(msg)
    return options.max_length
