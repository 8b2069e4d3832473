"""Biological questions, answered with the rooms below: gene networks."""
