"""Counts become rank value encodings: sources, checks, the ranking itself, and the run that ties them together."""
