"""How much embeddings know about cell types, side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike, NDArray

from geneformer.tasks.embedding_quality import EmbeddingQuality, embedding_quality

COLUMNS = ("nearest neighbors", "nearest neighbors, standardized", "linear probe")
"""Headings of the three accuracies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One embedding.

    Attributes
    ----------
    name
        What it is.
    as_given, standardized
        Its figures, with the neighbors looked for among dimensions as they are, and standardized.
    """

    name: str
    as_given: EmbeddingQuality
    standardized: EmbeddingQuality

    def cells(self) -> tuple[str, str, str]:
        """The accuracies in the order of `COLUMNS`, with 95% intervals."""
        return str(self.as_given.knn), str(self.standardized.knn), str(self.as_given.probe)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        return {
            "name": self.name,
            "as_given": self.as_given.to_dict(),
            "standardized": self.standardized.to_dict(),
        }


def compare(
    embeddings: Mapping[str, NDArray[Any]], labels: ArrayLike, *, groups: ArrayLike | None = None, **options: Any
) -> list[Compared]:
    """Every embedding under the same splits.

    Parameters
    ----------
    embeddings
        Rows for the same cells, by name.
    labels, groups, **options
        Passed to `embedding_quality`.
    """
    return [
        Compared(
            name=name,
            as_given=embedding_quality(values, labels, groups=groups, standardize=False, **options),
            standardized=embedding_quality(values, labels, groups=groups, standardize=True, **options),
        )
        for name, values in embeddings.items()
    ]


def markdown_table(compared: list[Compared]) -> str:
    """The comparison as a Markdown table, with the accuracy of guessing the commonest label as its last line."""
    lines = [
        f"| embedding | {' | '.join(COLUMNS)} |",
        f"| --- | {' | '.join('---' for _ in COLUMNS)} |",
        *(f"| {row.name} | {' | '.join(row.cells())} |" for row in compared),
    ]
    if compared:
        guess = f"{compared[0].as_given.commonest:.3f}"
        lines.append(f"| commonest label | {' | '.join(guess for _ in COLUMNS)} |")
    return "\n".join(lines)
