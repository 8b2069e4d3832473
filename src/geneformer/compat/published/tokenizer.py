"""Tokenizing, under its published path, with the dictionaries that scripts take from here."""

from typing import Any

from geneformer.compat import dictionary_files
from geneformer.compat.tokenizer import TranscriptomeTokenizer

__all__ = ["TranscriptomeTokenizer", *dictionary_files.FILES]


def __getattr__(name: str) -> Any:
    return getattr(dictionary_files, name)
