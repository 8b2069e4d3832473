"""Tokenized cells: in memory, on disk, and laid out as batches."""
