"""What a network is used for: one file per task, from tokens to results."""
