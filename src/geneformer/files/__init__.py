"""Files: atomic writes, manifests, journals, progress and the one restricted reader of pickles."""
