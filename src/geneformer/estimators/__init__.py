"""Learnt objects with `fit` and `predict`, for cells and for genes."""
