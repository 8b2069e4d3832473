"""Names, files and defaults of the published package, translated into those of this one; nothing is computed here."""
