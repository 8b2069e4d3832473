"""Which genes there are, their tokens and medians, and the names they go by."""
