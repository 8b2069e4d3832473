"""Genes: vocabularies with their corpus medians, and the one way from a name to a token."""
