"""Module paths of the published package; `geneformer.tokenizer` is found here."""
