"""Preprocessing: counts become tokens."""

from geneformer.pp._tokenize import tokenize

__all__ = ["tokenize"]
