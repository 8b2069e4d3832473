"""How well classes were predicted for genes that were held out, fold by fold, and occurrence by occurrence."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from geneformer.options._check import check_choice
from geneformer.results.classification import ClassificationReport, Evaluation, probabilities
from geneformer.results.estimates import told
from geneformer.results.report_tables import markdown_table

if TYPE_CHECKING:
    import pyarrow as pa

GENE, SYMBOL, FOLD, N_CELLS = "gene", "symbol", "fold", "n_cells"
"""Columns of tables of genes, beside truth, prediction and probabilities."""

_FIGURES = ("roc_auc", "accuracy", "macro_f1")


class GeneEvaluation(Evaluation):
    """Figures over genes, each by its probability averaged over the cells it occurs in."""

    unit = "gene"


class TokenEvaluation(Evaluation):
    """Figures over single occurrences of genes in cells, as published; common genes weigh more."""

    unit = "occurrence"


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldedEvaluation(GeneEvaluation):
    """Figures over the genes held out in all folds, and those of every fold.

    What counts genes is over all of them: each was held out once. `roc_auc` and `average_precision` are means over the
    folds, since every fold has a network of its own; `roc_auc_sd` is the standard deviation of the former. Intervals
    come from resampling genes, within their folds where a figure is a mean over folds. The `token_` figures are means
    over the folds, of single occurrences.

    Attributes
    ----------
    folds
        Figures of every fold, over genes.
    occurrences
        Figures of every fold, over single occurrences.
    """

    folds: tuple[GeneEvaluation, ...]
    occurrences: tuple[TokenEvaluation, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; what is not defined is None."""
        nested = {"folds": self.folds, "occurrences": self.occurrences}
        return super().to_dict() | {name: [found.to_dict() for found in part] for name, part in nested.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The evaluation that `to_dict` described."""
        whole = Evaluation.from_dict(content)
        return cls(
            **{field.name: getattr(whole, field.name) for field in fields(Evaluation)},
            folds=tuple(GeneEvaluation.from_dict(found) for found in content["folds"]),
            occurrences=tuple(TokenEvaluation.from_dict(found) for found in content["occurrences"]),
        )

    def details(self) -> list[str]:
        """Sections of a text: the folds, then what every evaluation tells."""
        if len(self.folds) < 2:
            return super().details()
        header = ["fold", "genes", "ROC AUC", "accuracy", "macro F1"]
        header += ["occurrences", *(f"{name}, occurrences" for name in header[2:5])]
        rows = [
            [str(number), *_row(genes), *_row(tokens)]
            for number, (genes, tokens) in enumerate(zip(self.folds, self.occurrences, strict=True), start=1)
        ]
        note = (
            "The areas in the first table are means over the folds, with the standard deviation of ROC AUC beside "
            "them; those below, class by class, are over the genes of all folds together."
        )
        return ["## Folds", markdown_table(header, rows), note, *super().details()]


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneReport(ClassificationReport):
    """A classifier of genes on genes it did not learn from, beside its baselines, with every prediction.

    Attributes
    ----------
    symbols
        Symbol of each gene, ``(n,)``; `cell_ids` holds the Ensembl ids.
    folds
        Fold each gene was held out in, from 1, ``(n,)``.
    n_cells
        Cells its probabilities are averaged over, ``(n,)``.

    The others are those of `ClassificationReport`.
    """

    kind = "genes"

    evaluation: FoldedEvaluation
    symbols: NDArray[Any]
    folds: NDArray[np.int64]
    n_cells: NDArray[np.int64]

    def by_fold(self, of: Literal["genes", "occurrences"] = "genes") -> dict[str, Evaluation]:
        """Figures of every fold by its name, such as `gf.pl.roc` draws beside each other.

        Parameters
        ----------
        of
            Whether every gene counts once, or every occurrence of one.
        """
        check_choice("of", of, ("genes", "occurrences"))
        found = self.evaluation.folds if of == "genes" else self.evaluation.occurrences
        return {f"{FOLD} {number}": figures for number, figures in enumerate(found, start=1)}

    def predictions(self) -> "pa.Table":
        """One row per gene: `gene`, `symbol`, `fold`, `n_cells`, `truth`, `predicted`, and each class's probability."""
        table = super().predictions()
        return table.rename_columns([GENE, *table.column_names[1:]])

    def _columns(self) -> dict[str, Any]:
        import pyarrow as pa

        about = {SYMBOL: pa.array([str(name) for name in self.symbols], pa.string())}
        numbers = {FOLD: np.asarray(self.folds), N_CELLS: np.asarray(self.n_cells)}
        return about | numbers | super()._columns()

    @classmethod
    def _read(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        evaluation = FoldedEvaluation.from_dict(content["evaluation"])
        codes = {name: code for code, name in enumerate(evaluation.classes)} | {None: -1}
        columns = {
            name: np.array([codes[value] for value in table[name].to_pylist()], dtype=np.int64)
            for name in ("truth", "predicted")
        }
        return cls(
            evaluation=evaluation,
            baselines={name: FoldedEvaluation.from_dict(found) for name, found in content["baselines"].items()},
            cell_ids=np.array(table[GENE].to_pylist(), dtype=object),
            symbols=np.array(table[SYMBOL].to_pylist(), dtype=object),
            folds=table[FOLD].to_numpy(),
            n_cells=table[N_CELLS].to_numpy(),
            proba=probabilities(table, evaluation.classes),
            settings=content["settings"],
            **columns,
        )


def _row(found: Evaluation) -> list[str]:
    return [f"{found.n:,}", *(told(found.metrics[name].mean) for name in _FIGURES)]
