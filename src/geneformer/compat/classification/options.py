"""Arguments of the published `Classifier`, checked and made ready."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from geneformer.data.row_order import listed
from geneformer.errors import GeneformerWarning, GeneListError, OptionError, OutOfRangeError
from geneformer.options._check import check_range
from geneformer.vocab.vocabulary import Vocabulary

SPLIT_SIZES = {"train": 0.8, "valid": 0.1, "test": 0.1}
"""Published shares of cells or genes."""


def checked_states(classifier: str, states: Any) -> dict[str, Any] | None:
    """`cell_state_dict`, copied; None for genes.

    Raises
    ------
    OptionError
        Missing for cells, other keys than `state_key` and `states`, or fewer than two states.
    """
    if classifier == "gene":
        return None
    if not isinstance(states, Mapping) or set(states) != {"state_key", "states"}:
        msg = (
            'classifier="cell" takes cell_state_dict={"state_key": a column, "states": a list of values or "all"}; '
            f"got {states!r}."
        )
        raise OptionError(msg)
    wanted = listed(states["states"])
    if wanted == ["all"]:
        return {"state_key": states["state_key"], "states": "all"}
    if len(set(wanted)) < 2:
        msg = f'cell_state_dict["states"] is {states["states"]!r}. It takes "all", or a list of two values or more.'
        raise OptionError(msg)
    return {"state_key": states["state_key"], "states": wanted}


def checked_genes(classifier: str, genes: Any, vocabulary: Vocabulary) -> dict[Any, list[int]] | None:
    """Token ids by class, each id once.

    Tokens stand in the order of a set of whole numbers, which is the same everywhere: the folds of genes go by it.

    Warns
    -----
    GeneformerWarning
        Genes without a token, which are left out.

    Raises
    ------
    OptionError
        Missing for genes, or fewer than two classes.
    GeneListError
        A class without a known gene, or a gene in two classes.
    """
    if classifier == "cell":
        return None
    if not isinstance(genes, Mapping) or len(genes) < 2:
        msg = (
            f'classifier="gene" takes gene_class_dict={{label: [Ensembl ids]}} with two classes or more; got {genes!r}.'
        )
        raise OptionError(msg)
    tokens: dict[Any, list[int]] = {}
    unknown: list[str] = []
    for label, told in genes.items():
        names = [str(gene) for gene in listed(told)]
        unknown += [name for name in names if name not in vocabulary.token_of]
        tokens[label] = list({int(vocabulary.token_of[name]) for name in names if name in vocabulary.token_of})
        if not tokens[label]:
            msg = f"None of the {len(names)} genes of class {label!r} has a token in vocabulary {vocabulary.name}."
            raise GeneListError(msg)
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        msg = f"{len(unknown)} genes of gene_class_dict have no token and are left out: {shown}."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    _refuse_shared(tokens, vocabulary)
    return tokens


def _refuse_shared(tokens: Mapping[Any, Iterable[int]], vocabulary: Vocabulary) -> None:
    owner: dict[int, Any] = {}
    for label, numbers in tokens.items():
        for token in numbers:
            if token in owner:
                gene = vocabulary.gene_of[token]
                msg = f"Gene {gene} is in class {owner[token]!r} and in class {label!r}. Leave it in one of them."
                raise GeneListError(msg)
            owner[token] = label


def checked_filter(filter_data: Any, states: Mapping[str, Any] | None) -> dict[str, list[Any]] | None:
    """`filter_data` with lists of values, and with the states where they are listed; a copy.

    Raises
    ------
    OptionError
        No dictionary.
    """
    if filter_data is not None and not isinstance(filter_data, Mapping):
        msg = f"filter_data={filter_data!r} takes a dictionary of columns and lists of values."
        raise OptionError(msg)
    wanted = {name: listed(value) for name, value in (filter_data or {}).items()}
    if states is not None and states["states"] != "all":
        wanted[states["state_key"]] = list(states["states"])
    return wanted or None


def checked_shares(split_sizes: Mapping[str, float] | None) -> dict[str, float]:
    """`split_sizes`, whose rounding errors do not count; None for the published shares.

    Raises
    ------
    OptionError
        Other keys, or shares that do not add up to 1.
    OutOfRangeError
        A share outside 0 to 1, or nothing to learn from.
    """
    shares = dict(SPLIT_SIZES if split_sizes is None else split_sizes)
    if set(shares) != set(SPLIT_SIZES):
        msg = f"split_sizes names {sorted(shares)}. It takes train, valid and test."
        raise OptionError(msg)
    for name, share in shares.items():
        check_range(f"split_sizes[{name!r}]", share, low=0.0, high=1.0)
    if abs(sum(shares.values()) - 1.0) > 1e-6:
        msg = f"split_sizes adds up to {sum(shares.values()):.6g}: {shares}. Make it 1."
        raise OptionError(msg)
    if shares["train"] == 0:
        msg = "split_sizes leaves nothing to learn from: train is 0."
        raise OutOfRangeError(msg)
    return shares


def checked_words(training_args: Any) -> dict[str, Any] | None:
    """`training_args`, copied.

    Raises
    ------
    OptionError
        No dictionary.
    """
    if training_args is None or isinstance(training_args, Mapping):
        return None if training_args is None else dict(training_args)
    msg = f"training_args={training_args!r} takes a dictionary of words of transformers.TrainingArguments."
    raise OptionError(msg)
