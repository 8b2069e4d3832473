"""Tables of a report as Markdown."""

from collections.abc import Iterable, Mapping, Sequence

from geneformer.results.estimates import UNDEFINED, Estimate

NAMES = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "weighted_f1": "weighted F1",
    "roc_auc": "ROC AUC",
    "roc_auc_sd": "SD of ROC AUC",
    "token_accuracy": "accuracy, occurrences",
    "token_macro_f1": "macro F1, occurrences",
    "token_roc_auc": "ROC AUC, occurrences",
    "mse": "MSE",
    "mae": "MAE",
    "r2": "R2",
    "pearson": "Pearson r",
    "spearman": "Spearman rho",
}
"""Names of figures in tables, where they are not the key without its underscores."""


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is set left, the others right."""
    lines = [_line(header), _line([":--", *["--:"] * (len(header) - 1)], escape=False)]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def metrics_table(measured: Mapping[str, Mapping[str, Estimate]]) -> str:
    """One row per model or baseline, one column per figure that any of them has.

    Parameters
    ----------
    measured
        Figures by name, by model.
    """
    names = list(dict.fromkeys(name for metrics in measured.values() for name in metrics))
    return markdown_table(
        ["", *(metric_name(name) for name in names)],
        [[model, *(str(found.get(name, UNDEFINED)) for name in names)] for model, found in measured.items()],
    )


def metric_name(name: str) -> str:
    """A figure's name as readers know it."""
    return NAMES.get(name, name.replace("_", " "))


def _line(cells: Sequence[str], *, escape: bool = True) -> str:
    if escape:
        cells = [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(cells)} |"
