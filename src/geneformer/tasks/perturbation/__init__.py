"""In silico perturbation: edits of tokenized cells, what they change, and statistics of that."""
