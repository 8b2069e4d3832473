"""What the demo found, as Markdown for people and JSON for programs."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geneformer.demo.comparison import Compared, markdown_table
from geneformer.demo.measuring import Step

FILES = {
    "umap.png": "map of the cells by cell type",
    "heatmap.png": "clustered heatmap of the embedding",
    "confusion.png": "types of held-out cells, told by the fine-tuned classifier",
    "classifier": "the fine-tuned classifier, for `gf.load_classifier`, with its report",
    "pbmc3k_geneformer.h5ad": "raw counts, cell types and embeddings, for scanpy and CELLxGENE",
    "pbmc3k.dataset": "tokens, a Hugging Face dataset",
    "report.md": "this report",
    "report.json": "the same for programs",
}
"""What is in the folder of a demo."""

PRETRAINED_ON_THEM = (
    "Most of these cells, without their labels, were among those `mini` was pretrained on. Its figures on data that it "
    "never saw are in its model card."
)
"""Said of the bundled model only."""

LABELS_FROM_COMPONENTS = (
    "The labels name clusters that were found in principal components of these cells, which favors that baseline."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoReport:
    """What the demo did and found.

    Attributes
    ----------
    folder
        Where its files are.
    model
        Name or folder of the model.
    steps
        Time and memory.
    quality
        Embeddings side by side.
    classified
        Accuracy and macro-F1 of the fine-tuned classifier and its baselines on held-out cells.
    tokens
        Report of tokenizing.
    seed
        Of the splits, the map and the random weights.
    versions
        Of this package, of Python and of the libraries that decide the numbers.
    """

    folder: Path
    model: str
    steps: tuple[Step, ...]
    quality: tuple[Compared, ...]
    classified: Mapping[str, Mapping[str, str]]
    tokens: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def notes(self) -> list[str]:
        """What must be known to read the figures."""
        first = self.quality[0].as_given
        how = (
            f"Share of {first.n_cells:,} labeled cells whose type is predicted right while they are held out "
            f"({first.folds} folds, {first.n_neighbors} neighbors, {first.metric} distance; 95% intervals)."
        )
        return [how, LABELS_FROM_COMPONENTS, *([PRETRAINED_ON_THEM] if self.model == "mini" else [])]

    def rows(self) -> list[tuple[str, object]]:
        """Lines of the closing table: what, and how much."""
        steps = [(step.name, str(step)) for step in self.steps]
        figures = [
            (f"accuracy of {row.name}", f"neighbors {given}, standardized {standardized}, linear probe {probe}")
            for row in self.quality
            for given, standardized, probe in [row.cells()]
        ]
        figures += [
            (f"held-out cells, {name}", f"accuracy {row['accuracy']}, macro-F1 {row['macro_f1']}")
            for name, row in self.classified.items()
        ]
        made = [(str(self.folder / name), told) for name, told in FILES.items()]
        return [*steps, ("all steps", f"{self.seconds:.1f} s"), *figures, *made]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "model": self.model,
            "seed": self.seed,
            "processors": os.cpu_count(),
            "platform": platform.platform(),
            "versions": dict(self.versions),
            "seconds": self.seconds,
            "steps": [asdict(step) for step in self.steps],
            "quality": [row.to_dict() for row in self.quality],
            "classified": {name: dict(row) for name, row in self.classified.items()},
            "tokens": dict(self.tokens),
            "notes": self.notes,
            "files": list(FILES),
        }

    def to_markdown(self) -> str:
        """The report for people."""
        costs = [
            f"| {step.name} | {step.seconds:.1f} | "
            f"{'' if step.peak_bytes is None else format(step.peak_bytes / 2**20, ',.0f')} |"
            for step in self.steps
        ]
        return "\n".join(
            [
                f"# {self.tokens['n_cells']:,} blood cells through Geneformer `{self.model}`",
                "",
                "![Map of the cells](umap.png)",
                "",
                "## Cell types told from the embedding",
                "",
                markdown_table(list(self.quality)),
                "",
                *(f"* {note}" for note in self.notes),
                "",
                "![Heatmap of the embedding](heatmap.png)",
                "",
                "## Cell types told by a fine-tuned classifier",
                "",
                "A fifth of the cells was held out; everything in the table learnt from the same other cells.",
                "",
                "| | accuracy | macro-F1 |",
                "| --- | --- | --- |",
                *(f"| {name} | {row['accuracy']} | {row['macro_f1']} |" for name, row in self.classified.items()),
                "",
                "![Confusion matrix](confusion.png)",
                "",
                "## Time and memory",
                "",
                "| step | seconds | peak MiB |",
                "| --- | --- | --- |",
                *costs,
                f"| all steps | {self.seconds:.1f} | |",
                "",
                f"{os.cpu_count()} processors, {platform.platform()}, "
                f"{', '.join(f'{name} {version}' for name, version in self.versions.items())}.",
                "",
                "## Files",
                "",
                *(f"* `{name}`: {told}" for name, told in FILES.items()),
                "",
                "Counts: PBMC3k, 10x Genomics, CC BY 4.0. Labels: the scanpy tutorial's.",
                "",
            ]
        )
