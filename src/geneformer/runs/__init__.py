"""What a run leaves on disk: atomic files and folders, locks, manifests, and the journal that lets it resume."""
