"""Pretraining: a corpus, a start, an objective, a run."""
