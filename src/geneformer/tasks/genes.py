"""Genes as users name them, as token ids."""

from geneformer.errors import UnknownColumnError
from geneformer.options._check import nearest
from geneformer.vocab.vocabulary import Vocabulary


def token_of_gene(gene: str, vocabulary: Vocabulary) -> int:
    """Token id of an Ensembl id or symbol.

    Parameters
    ----------
    gene
        Ensembl id, current or retired, with or without version; or symbol in any case.
    vocabulary
        Where it is looked up.

    Raises
    ------
    UnknownColumnError
        The vocabulary has no token for it.
    """
    identifier = gene.strip()
    for name in (identifier, identifier.partition(".")[0], vocabulary.symbols.get(identifier, "")):
        if name in vocabulary.token_of:
            return vocabulary.token_of[name]
    token = vocabulary.token_of.get(vocabulary.aliases.get(identifier.upper(), ""))
    if token is None:
        known = (symbol for symbol, other in vocabulary.symbols.items() if other in vocabulary.token_of)
        msg = (
            f"Gene {gene!r} has no token in vocabulary {vocabulary.name}. Pass the Ensembl id or symbol of a gene that "
            f"has one; `geneformer vocabulary {vocabulary.name} --gene NAME` tells.{nearest(identifier, known)}"
        )
        raise UnknownColumnError(msg)
    return token
