"""Count matrices: one reader per format."""
