"""`python -m geneformer`."""

from geneformer.cli import main

main()
