"""Genes as published scripts name them."""

from typing import Any

from geneformer.data.row_order import listed
from geneformer.errors import OptionError


def given_genes(argument: str, genes: Any) -> str | list[str]:
    """The word for all genes, or Ensembl ids in the order given.

    Parameters
    ----------
    argument
        Name of the argument.
    genes
        Its value: "all", a list or an array.

    Raises
    ------
    OptionError
        Something else, or no gene.
    """
    if isinstance(genes, str) and genes == "all":
        return genes
    names = [] if isinstance(genes, str | set | frozenset) else listed(genes)
    if not names or not all(isinstance(name, str) for name in names):
        msg = f'{argument}={genes!r} is neither "all" nor a list of Ensembl ids. Write ["ENSG00000187608"].'
        raise OptionError(msg)
    return names
