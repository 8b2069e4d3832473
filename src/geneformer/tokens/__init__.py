"""Tokenized cells: in memory, on disk, in batches."""
