"""Splits of the published `Classifier.validate`, one training and one evaluation each."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.compat.classification import data as cells
from geneformer.compat.classification.data import Data
from geneformer.errors import GeneformerWarning, OptionError, UnsupportedArgumentError
from geneformer.tasks.gene_batches import count_cells
from geneformer.tasks.label_batches import COLUMNS
from geneformer.tasks.label_draws import balanced_classes, blocks, fold_count, gene_folds

if TYPE_CHECKING:
    from geneformer.compat.classification.settings import ClassifierSettings

Split = tuple[Data, Data | None, Data | None]
"""Cells to learn from, to evaluate on, and to test on."""


def cell_splits(
    classifier: "ClassifierSettings", data: Data, classes: dict[int, Any], way: cells.CellSplit, draws: Path
) -> Iterator[Split]:
    """Splits of cells: one, by ids, balanced or at random; or five blocks that cover every cell once.

    Parameters
    ----------
    classifier
        Number and shares of the splits.
    data, classes
        Labeled cells, and the labels of their classes.
    way
        How one split is made.
    draws
        File for the draws of a balanced split.

    Raises
    ------
    UnsupportedArgumentError
        Ids or attributes with five blocks.
    """
    data, share = cells.shuffled(data), classifier.eval_size
    if classifier.stratify_splits_col is not None and (classifier.num_crossval_splits > 1 or not way.is_at_random):
        msg = "stratify_splits_col is about one random split, and has no effect on this one."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    if classifier.num_crossval_splits > 1:
        if not way.is_at_random:
            msg = (
                f"num_crossval_splits={classifier.num_crossval_splits} deals out single cells, so split_id_dict and "
                "attr_to_split have no effect. Use num_crossval_splits=1 with them."
            )
            raise UnsupportedArgumentError(msg)
        for train_rows, eval_rows in blocks(len(data), classifier.num_crossval_splits):
            yield data.take(train_rows), data.take(eval_rows), None
    elif way.split_id_dict is not None:
        yield *cells.split_by_ids(data, way.split_id_dict, "eval"), None
    elif way.attr_to_split is not None:
        yield *balanced(classifier, data, classes, way, share, draws), None
    else:
        yield *cells.split_at_random(data, share, stratum(classifier)), None


def balanced(
    classifier: "ClassifierSettings",
    data: Data,
    classes: dict[int, Any],
    way: cells.CellSplit,
    share: float,
    draws: Path,
) -> tuple[Data, Data]:
    """Cells by ids that do not differ in attributes; the draws are kept in a file."""
    attributes = balanced_columns(data, classifier, classes, way.attr_to_balance)
    learnt, held, table = cells.split_balanced(data, attributes, way, share)
    cells.made_folder(draws.parent)
    table.to_csv(draws)
    return learnt, held


def stratum(classifier: "ClassifierSettings") -> str | None:
    """The column to keep the shares of; the state column is called `label` by now."""
    states, column = classifier.cell_state_dict, classifier.stratify_splits_col
    return COLUMNS["cell"] if states is not None and column == states["state_key"] else column


def balanced_columns(
    data: Data, classifier: "ClassifierSettings", classes: dict[int, Any], names: Any
) -> dict[str, Any]:
    """Values of the attributes to balance; the state column may have become `label`."""
    states = classifier.cell_state_dict or {}
    labels = COLUMNS["cell"]
    found: dict[str, Any] = {}
    for name in [names] if isinstance(names, str) else list(names):
        if name == states.get("state_key") and name not in data.columns:
            found[name] = [str(classes[code]) for code in data.column(labels).tolist()]
        else:
            found[name] = data.column(name)
    return found


def gene_splits(
    classifier: "ClassifierSettings", data: Data, classes: dict[int, Any], *, gene_balance: bool
) -> Iterator[Split]:
    """Folds of genes: cells with genes that are learnt from, that validate, and that are tested on.

    Cells may be on several sides; the labels of each tell the genes of that side only. The published order of genes and
    the seeds of scikit-learn decide the folds.
    """
    data = cells.shuffled(data)
    tokens, codes = _targets(classifier, classes)
    shares = classifier.split_sizes
    held = classifier.eval_size + classifier.oos_test_size
    test_share = classifier.oos_test_size / held if held else 0.0
    names, wanted = list(classes.values()), classifier.num_crossval_splits
    for parts in gene_folds(codes, fold_count(shares["train"]), test_share, names, first=wanted):
        sides: list[Data | None] = []
        for number, rows in enumerate(parts):
            subset = {tokens[row]: codes[row] for row in rows.tolist()}
            balance = gene_balance and number == 0
            sides.append(gene_side(classifier, data, subset, balance=balance) if subset else None)
        yield sides[0] if sides[0] is not None else data, sides[1], sides[2]


def gene_side(classifier: "ClassifierSettings", data: Data, class_of: dict[int, int], *, balance: bool) -> Data:
    """Cells with any of the genes, drawn, with the labels of these genes only.

    Raises
    ------
    GeneListError
        To be balanced, but one class does not occur.
    """
    if balance:
        size, longest = max(class_of) + 1, int(data.lengths.max())
        counts = count_cells(data, max(size, classifier.vocabulary.size), longest)
        class_of = balanced_classes(dict(enumerate(counts.tolist())), class_of)
    return cells.shuffled(cells.label_genes(data, class_of), classifier.max_ncells)


def _targets(classifier: "ClassifierSettings", classes: dict[int, Any]) -> tuple[list[int], list[int]]:
    """Token and class id of every gene, class by class."""
    id_of = {label: number for number, label in classes.items()}
    genes = classifier.gene_class_dict or {}
    strange = [label for label in genes if label not in id_of]
    if strange:
        msg = f"The dictionary of classes has no {strange[0]!r}; it has {list(id_of)}. Use that of prepare_data."
        raise OptionError(msg)
    pairs = [(token, id_of[label]) for label, tokens in genes.items() for token in tokens]
    return [token for token, _ in pairs], [code for _, code in pairs]


def class_of_genes(classifier: "ClassifierSettings", classes: dict[int, Any]) -> dict[int, int]:
    """Class id by token id."""
    return dict(zip(*_targets(classifier, classes), strict=True))


def save_sides(run: Path, prefix: str, number: int, sides: Split) -> None:
    """`<prefix>_{train,valid,test}_gene_labeled_ksplit<i>.dataset` in the folder of a run."""
    for name, data in zip(("train", "valid", "test"), sides, strict=True):
        if data is not None:
            cells.saved(data, run / f"{prefix}_{name}_gene_labeled_ksplit{number}.dataset")
