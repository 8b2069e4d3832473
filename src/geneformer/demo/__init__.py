"""The whole way on real cells: counts, tokens, embeddings, a map, and how much they know about cell types."""
