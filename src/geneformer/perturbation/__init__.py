"""In silico perturbation: edits, plans, effects and their statistics."""
