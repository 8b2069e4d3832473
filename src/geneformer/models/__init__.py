"""The network: encoder, heads, checkpoints, and where published ones are found."""
